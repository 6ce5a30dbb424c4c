//! A table of a report, as data for the code that prints it.
//!
//! Gaps stay visible. A mean over fewer trials than planned states how many it covers, a mean over data
//! sets is omitted if one of them has no score, and neither can be marked as the best.

use crate::compare::scores::{Mean, Trials};
use crate::compare::statistics::ranks::order;

/// A table with a name for each row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The heading above the table.
    pub title: String,
    /// The head of the first column, which holds the rows' names.
    pub names: &'static str,
    /// The other columns.
    pub columns: Vec<Column>,
    /// The name of each row, and one entry per column.
    pub rows: Vec<(String, Vec<Entry>)>,
    /// Remarks below the table.
    pub notes: Vec<String>,
}

/// A column, without its entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The head of the column.
    pub name: String,
    /// The entries that are marked as the best; none where no entry is better than another.
    pub better: Option<Better>,
    /// Whether the entries are text, which is aligned to the left.
    pub words: bool,
}

/// The direction in which numbers are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Larger numbers are better.
    More,
    /// Smaller numbers are better.
    Less,
}

/// One cell of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The text of the cell.
    pub text: String,
    /// The spread of the value, for example `±0.4`.
    pub spread: Option<String>,
    /// The part of the plan that the value covers, for example `2/3`, if something is missing.
    pub over: Option<String>,
    /// The number that competes for the best of the column; none if it may not.
    pub rival: Option<f64>,
    /// Whether it is the best of its column.
    pub best: bool,
}

/// Shown in place of a value that does not exist.
pub const NONE: &str = "–";

impl Column {
    /// A column of numbers.
    pub fn number(name: impl Into<String>, better: impl Into<Option<Better>>) -> Self {
        Self {
            name: name.into(),
            better: better.into(),
            words: false,
        }
    }

    /// A column of text.
    pub fn words(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            better: None,
            words: true,
        }
    }
}

impl Entry {
    /// A cell of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }

    /// A number that competes for the best of its column.
    pub fn number(value: f64, text: impl Into<String>) -> Self {
        Self {
            rival: Some(value),
            ..Self::text(text)
        }
    }

    /// Makes a cell without a value, because only `count` of `of` parts exist.
    pub fn lacking(count: usize, of: usize) -> Self {
        Self {
            over: Some(format!("{count}/{of}")),
            ..Self::text(NONE)
        }
    }

    /// A mean of shares, shown in percent.
    pub fn percent(mean: &Mean, failed: bool) -> Self {
        let dagger = if failed { FAILED } else { "" };
        let (count, planned) = (mean.count, mean.planned);
        Self {
            text: format!("{:.1}", 100.0 * mean.mean),
            spread: mean.deviation.map(|d| format!("±{:.1}", 100.0 * d)),
            over: (!mean.complete()).then(|| format!("{count}/{planned}{dagger}")),
            // An incomplete mean could win only because its hardest trials are missing.
            rival: mean.complete().then_some(mean.mean),
            best: false,
        }
    }

    /// The cell as one line of text.
    pub fn line(&self) -> String {
        let over = self.over.as_ref().map(|over| format!("({over})"));
        let parts = [Some(self.text.clone()), self.spread.clone(), over];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// The mark of a cell in which a trial failed.
pub const FAILED: &str = "†";

/// Whether any of these trials failed.
pub fn any_failed(trials: &[&Trials]) -> bool {
    trials.iter().any(|trials| !trials.failed.is_empty())
}

/// Explains, below the last of some tables, the marks that occur in them.
pub fn explained(mut tables: Vec<Table>) -> Vec<Table> {
    let entries = || {
        tables
            .iter()
            .flat_map(|table| &table.rows)
            .flat_map(|(_, row)| row)
    };
    let over = |part: &str| entries().any(|e| e.over.as_ref().is_some_and(|o| o.contains(part)));
    // Only marks that occur are explained, once per group of tables.
    let explanations = [
        (
            entries().any(|entry| entry.spread.is_some()),
            "±: standard deviation over seeds.",
        ),
        (
            over("/"),
            "(n/m): over n of m trials, or of m data sets where no value is given; never marked as the best.",
        ),
        (over(FAILED), "†: a trial failed."),
    ];
    let needed = explanations.iter().filter(|(needed, _)| *needed);
    let text = needed.map(|(_, text)| *text).collect::<Vec<_>>().join(" ");
    if let (false, Some(last)) = (text.is_empty(), tables.last_mut()) {
        last.notes.push(text);
    }
    tables
}

impl Table {
    /// Marks the best entries of each column. Equal entries share the mark; a column in which all
    /// entries are equal has no best.
    pub fn marked(mut self) -> Self {
        for (index, column) in self.columns.iter().enumerate() {
            let Some(better) = column.better else {
                continue;
            };
            let rivals = self.rows.iter().filter_map(|(_, row)| row[index].rival);
            let (low, high) = rivals
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), rival| {
                    (low.min(rival), high.max(rival))
                });
            let best = match better {
                Better::More => high,
                Better::Less => low,
            };
            for (_, row) in &mut self.rows {
                // `order` treats scores that differ by rounding alone as equal.
                let is_best = |value| order(value, best).is_eq() && order(low, high).is_ne();
                row[index].best = row[index].rival.is_some_and(is_best);
            }
        }
        self
    }
}
