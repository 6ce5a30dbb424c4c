//! How a method is drawn.

use crate::compare::results::Results;
use crate::report::marks::{self, Style};

/// How a method is drawn, everywhere.
pub fn style(results: &Results, method: &str) -> Option<Style> {
    let index = results.methods.iter().position(|label| label == method)?;
    Some(marks::style(index))
}
