//! The operations of `peft-ops` on a device against their formulas.

use std::time::Instant;

use serde::Serialize;

use super::guard::{guarded, tell};
use crate::device::ComputeDevice;

/// The results, and the panic that ended the tests early if there was one.
#[derive(Serialize)]
pub struct Operations {
    pub checks: Vec<OperationTest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An operation against its formula.
#[derive(Serialize)]
pub struct OperationTest {
    pub operation: &'static str,
    pub dtype: String,
    pub passed: bool,
    pub relative_error: f64,
    pub allowed: f64,
}

/// Tests the operations whose name is wanted.
pub fn test(device: &ComputeDevice, wanted: &dyn Fn(&str) -> bool) -> Operations {
    let mut operations = Operations {
        checks: Vec::new(),
        error: None,
    };
    let mut checks = peft_ops::check(&device.device, wanted);
    loop {
        let start = Instant::now();
        match guarded(|| Ok(checks.next())) {
            Ok(Some(check)) => {
                let (operation, error) = (check.operation, check.error);
                tell(device, start, format_args!("ops/{operation} {error:.1e}"));
                operations.checks.push(OperationTest {
                    operation,
                    dtype: format!("{:?}", check.dtype).to_lowercase(),
                    passed: check.passed(),
                    relative_error: error,
                    allowed: check.allowed,
                });
            }
            Ok(None) => return operations,
            // After a panic the iterator is in an unknown state, so the rest is not run.
            Err(error) => {
                operations.error = Some(error);
                return operations;
            }
        }
    }
}
