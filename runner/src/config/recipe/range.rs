//! Checks of the ranges of a recipe's fields, with one message for all.

/// Returns an error that names the field and its range, unless `ok`.
pub(super) fn within(field: &str, ok: bool, range: &str, got: f64) -> Result<(), String> {
    if ok {
        return Ok(());
    }
    Err(format!("recipe.{field}: expected {range}, got {got}"))
}

/// Checks that a number is at least 1.
pub(super) fn count(field: &str, value: usize) -> Result<(), String> {
    within(field, value > 0, "at least 1", value as f64)
}

/// Checks that a number is in `[0, 1)`.
pub(super) fn share(field: &str, value: f64) -> Result<(), String> {
    let ok = (0.0..1.0).contains(&value);
    within(field, ok, "at least 0 and less than 1", value)
}
