//! Facts of a network that no shape shows: the files that libraries write beside weights state them,
//! a configuration may state them too, and else a family has a default.
//!
//! One rule decides: what the configuration states explicitly comes first, then the file beside the
//! weights, then the family's default, a variant's row included. Where two of them contradict each
//! other in a fact of the network, that is an error, since one of them is wrong about the weights.

mod fact;
mod images;
mod published;
mod read;
mod resolve;
mod setting;
mod shapes;

pub use fact::{Fact, Facts};
pub use published::Published;
use read::read;
pub(crate) use resolve::same;
pub use resolve::{Resolved, Shown, Stated, resolve};
pub(crate) use setting::{Setting, Unfollowed};
pub use shapes::contradictions;

#[cfg(test)]
mod tests;
