//! Checks of configured values, with one message each.

use crate::error::{Error, Result};

/// Refuses zero.
///
/// # Errors
/// [`Error::Config`] for `field`.
pub fn at_least_one(field: impl Into<String>, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::config(field, "expected at least 1, got 0")),
        _ => Ok(()),
    }
}

/// Refuses NaN and infinities.
///
/// # Errors
/// [`Error::Config`] for `field`.
pub fn finite(field: impl Into<String>, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    let message = format!("expected a finite number, got {value}");
    Err(Error::config(field, message))
}

/// Refuses a probability of dropping something outside `[0, 1)`: dropping everything leaves nothing
/// to scale up.
///
/// # Errors
/// [`Error::Config`] for `field`.
pub fn dropout(field: impl Into<String>, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    let message = format!("expected at least 0 and less than 1, got {value}");
    Err(Error::config(field, message))
}
