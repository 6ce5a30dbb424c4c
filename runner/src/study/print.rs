//! A study as text for a terminal.

use std::fmt::Write;

use crate::compare::print::text::of_table;
use crate::study::Study;
use crate::study::outcome::Outcome;

/// The claims with their verdicts, the tables, and what a reader should know.
pub fn text(study: &Study, outcome: &Outcome) -> String {
    let mut text = format!("{}: {} ({})\n", study.name, study.summary, study.source);
    // Writing to a string does not fail.
    for judged in &outcome.claims {
        let _ = write!(
            text,
            "\n{} ({})\n  {}\n  {}: {}\n",
            judged.id,
            judged.source,
            judged.claim,
            judged.verdict.words(),
            judged.reason
        );
    }
    for table in &outcome.tables {
        let _ = write!(text, "\n{}", of_table(table));
    }
    for note in &outcome.notes {
        let _ = write!(text, "\n{note}\n");
    }
    text
}
