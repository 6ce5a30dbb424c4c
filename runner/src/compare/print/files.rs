//! A report as files in the folder of its comparison.

use std::path::{Path, PathBuf};

use peft_core::files::write_atomically;

use super::lines::{csv, jsonl};
use super::markdown::markdown;
use crate::compare::page::html;
use crate::compare::report::Report;
use crate::exit::Failure;

/// Writes `results.csv`, `results.jsonl`, `results.md` and `report.html`; returns the path of the last.
///
/// # Errors
/// If a file cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<PathBuf, Failure> {
    let page = "report.html";
    let files = [
        ("results.csv", csv(report.results)),
        ("results.jsonl", jsonl(report.results)),
        ("results.md", markdown(report)),
        (page, html(report)),
    ];
    for (name, content) in files {
        write_atomically(&folder.join(name), content.as_bytes())?;
    }
    Ok(folder.join(page))
}
