//! An image in a shard.

use std::ops::Range;

/// An image in a shard.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) shard: usize,
    pub(super) name: Box<str>,
    pub(super) bytes: Range<usize>,
}
