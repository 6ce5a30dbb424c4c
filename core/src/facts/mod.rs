//! Facts of a network that no shape shows: the files that libraries write beside weights state them,
//! a configuration may state them too, and else a family has a default.
//!
//! One rule decides: what the configuration states explicitly comes first, then the file beside the
//! weights, then the family's default, a variant's row included. Where two of them contradict each
//! other in a fact of the network, that is an error, since one of them is wrong about the weights.

mod fact;
mod read;
mod resolve;

pub use fact::{Fact, Facts};
pub(crate) use read::read;
pub use resolve::{Resolved, Stated, resolve};

#[cfg(test)]
mod tests;
