//! Work on a worker of rayon's pool: from outside it, every parallel operation would wake the workers and
//! wait for them.

use crate::exit::{Exit, Failure, failure};

/// Runs `work` on a worker of the global pool.
///
/// # Errors
/// Those of `work`.
pub fn on_worker<T: Send>(work: impl FnOnce() -> Result<T, Failure> + Send) -> Result<T, Failure> {
    let mut result = None;
    rayon::scope(|_| result = Some(work()));
    result.unwrap_or_else(|| Err(failure(Exit::Unexpected, "the work did not run")))
}
