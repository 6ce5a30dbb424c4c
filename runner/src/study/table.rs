//! Tables of studies.

use crate::compare::tables::table::{Column, Entry, NONE, Table};
use crate::report::numbers::significant;

/// A table whose columns are numbers.
pub fn numbers(
    title: impl Into<String>,
    names: &'static str,
    columns: &[&str],
    rows: Vec<(String, Vec<Entry>)>,
) -> Table {
    let columns = columns.iter().map(|name| Column::number(*name, None));
    Table {
        title: title.into(),
        names,
        columns: columns.collect(),
        rows,
        notes: Vec::new(),
    }
}

/// A number in a cell: short, and in powers of ten where it is large.
pub fn number(value: Option<f64>) -> Entry {
    Entry::text(match value {
        None => NONE.to_owned(),
        Some(value) if value.abs() >= 1e7 || (value != 0.0 && value.abs() < 1e-3) => {
            format!("{value:.2e}")
        }
        Some(value) if value.abs() >= 1000.0 => format!("{value:.0}"),
        Some(value) => significant(value),
    })
}

/// A share in percent, with its deviation.
pub fn percent(mean: Option<f64>, deviation: Option<f64>) -> Entry {
    let Some(mean) = mean else {
        return Entry::text(NONE);
    };
    Entry {
        spread: deviation.map(|d| format!("±{:.2}", 100.0 * d)),
        ..Entry::text(format!("{:.2}", 100.0 * mean))
    }
}

/// A whole number in a cell.
pub fn count(value: impl Into<Option<u64>>) -> Entry {
    Entry::text(
        value
            .into()
            .map_or(NONE.to_owned(), |value| value.to_string()),
    )
}
