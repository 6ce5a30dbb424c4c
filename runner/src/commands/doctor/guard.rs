//! How a test is run: it may panic, and on a GPU it may take long.

use std::any::Any;
use std::fmt::Arguments;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::device::ComputeDevice;

/// Prints on stderr that a test has ended, where tests take long: a GPU compiles kernels first.
pub fn tell(device: &ComputeDevice, start: Instant, what: Arguments) {
    if !device.is_cpu() {
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{}: {what} ({seconds:.1} s)", device.name);
    }
}

/// Runs a test. A panic, which a kernel that cannot be compiled raises, is a result too.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let message = |payload: Box<dyn Any + Send>| match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&str>() {
            Ok(text) => (*text).to_owned(),
            Err(_) => "a panic".to_owned(),
        },
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| Err(message(payload)))
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
