//! The results of a study: verdicts, numbers for programs, tables and figures for people.

use serde::Serialize;
use serde_json::Value;

use crate::compare::tables::table::Table;
use crate::exit::{Exit, Failure, failure};
use crate::study::claim::Judged;

/// The results of a study.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The claims with their verdicts.
    pub claims: Vec<Judged>,
    /// The numbers, under the keys that other programs may rely on.
    pub result: Value,
    /// The settings with all defaults.
    pub settings: Value,
    /// The numbers for people.
    pub tables: Vec<Table>,
    /// Figures as SVG.
    pub figures: Vec<String>,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

impl Outcome {
    /// The results of one study on several networks: claims, settings and result are those of the first, which
    /// holds the results of the others under `again`; tables, figures and notes are those of all.
    pub fn joined(all: Vec<Self>) -> Self {
        let mut all = all.into_iter();
        let mut whole = all.next().unwrap_or_default();
        let mut again = Vec::new();
        for other in all {
            again.push(other.result);
            whole.tables.extend(other.tables);
            whole.figures.extend(other.figures);
            whole.notes.extend(other.notes);
        }
        if let (Value::Object(result), false) = (&mut whole.result, again.is_empty()) {
            result.insert("again".to_owned(), again.into());
        }
        whole
    }
}

/// `study.json`.
#[derive(Serialize)]
pub struct Document<'a> {
    /// The study's name.
    pub study: &'a str,
    /// The claims with their verdicts.
    pub claims: &'a [Judged],
    /// The numbers.
    pub result: &'a Value,
    /// The settings.
    pub settings: &'a Value,
    /// The time that the study took.
    pub seconds: f64,
}

/// A value as JSON; numbers that are not finite become null.
///
/// # Errors
/// If it cannot be written.
pub fn json(value: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|e| failure(Exit::Unexpected, e))
}
