//! Runs the tests, which may panic and may take long on a GPU.

use std::fmt::Arguments;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::device::ComputeDevice;
use crate::exit::panic_message;

/// Reports on stderr that a test has ended, where tests take long because a GPU first compiles
/// kernels.
pub fn tell(device: &ComputeDevice, start: Instant, what: Arguments) {
    if !device.is_cpu() {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{}: {what} ({seconds:.1} s)", device.name);
    }
}

/// Runs a test. A kernel that cannot be compiled panics, which is a result as well.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(panic_message(&*panic).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_reason() {
        let result: Result<(), _> = guarded(|| panic!("no kernel"));
        assert_eq!(result, Err("no kernel".to_owned()));
        let number = 3;
        let result: Result<(), _> = guarded(|| panic!("no kernel {number}"));
        assert_eq!(result, Err("no kernel 3".to_owned()));
    }
}
