//! The look of the marks and curves of a method.

use crate::compare::results::Results;
use crate::report::marks::{self, Style};

/// The style of a method, the same in all plots and tables; none for a name that is not a method.
pub fn style(results: &Results, method: &str) -> Option<Style> {
    let index = results.methods.iter().position(|label| label == method)?;
    Some(marks::style(index))
}
