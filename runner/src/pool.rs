//! Runs work on a worker of the rayon pool. Called from another thread, every parallel operation
//! would have to wake a worker and wait for it; a training step has hundreds of them.

use crate::exit::{Exit, Failure, failure};

/// Runs `work` on a worker of the global pool.
///
/// # Errors
/// The error of `work`.
pub fn on_worker<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let mut result = None;
    // `scope` moves the closure onto a worker and lets it borrow from this stack, which `spawn`
    // does not.
    rayon::scope(|_| result = Some(work()));
    result.unwrap_or_else(|| Err(failure(Exit::Unexpected, "the work did not run")))
}
