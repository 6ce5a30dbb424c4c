//! Prints the output of commands: keys in a column of their own, and JSON for programs.

use std::fmt::Display;

use serde::Serialize;

use crate::exit::{Exit, Failure, failure};

/// Width of the column of keys, without the space behind it.
const KEYS: usize = 17;

/// Prints a key and its value on stdout.
pub fn row(key: &str, value: impl Display) {
    println!("{key:<KEYS$} {value}");
}

/// Prints a value for programs on stdout, as JSON over several lines.
///
/// # Errors
/// If it cannot be serialised.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    println!("{}", text.map_err(|e| failure(Exit::Unexpected, e))?);
    Ok(())
}

/// Prints a value for programs on stdout, as JSON on one line.
///
/// # Errors
/// If it cannot be serialised.
pub fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value);
    println!("{}", text.map_err(|e| failure(Exit::Unexpected, e))?);
    Ok(())
}
