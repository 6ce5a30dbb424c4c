//! A report as text for a terminal.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement};

use crate::compare::report::Report;
use crate::compare::tables::choices::SEARCHED;
use crate::compare::tables::table::{Entry, Table};

/// The number of searches that are listed in a terminal; the files list all.
const SEARCHES: usize = 24;

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}: {}\n", report.results.name, report.results.progress());
    for part in report.parts() {
        text += &format!("\n== {}\n", part.heading);
        for table in part.tables {
            let all = table.rows.len();
            text += "\n";
            text += &match table.names == SEARCHED && all > SEARCHES {
                false => of_table(table),
                true => {
                    let mut table = table.clone();
                    table.rows.truncate(SEARCHES);
                    let note = format!("{SEARCHES} of {all}; results.md has all.");
                    table.notes.push(note);
                    of_table(&table)
                }
            };
        }
    }
    text
}

/// A table with its title and notes.
pub fn of_table(table: &Table) -> String {
    let mut grid = comfy_table::Table::new();
    grid.load_style(UTF8_FULL_CONDENSED);
    // Wraps cells to the width of the terminal; a pipe has none, and lines stay whole.
    grid.set_content_arrangement(ContentArrangement::Dynamic);
    let names = table.columns.iter().map(|column| column.name.as_str());
    grid.set_header([table.names].into_iter().chain(names));
    for (name, row) in &table.rows {
        let entry = |entry: &Entry| match entry.best {
            true => format!("{} *", entry.line()),
            false => entry.line(),
        };
        grid.add_row([name.clone()].into_iter().chain(row.iter().map(entry)));
    }
    for (index, column) in table.columns.iter().enumerate() {
        if let (false, Some(column)) = (column.words, grid.column_mut(index + 1)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut entries = table.rows.iter().flat_map(|(_, row)| row);
    let best = entries.any(|entry| entry.best);
    let best = best.then(|| "* the best of its column.".to_owned());
    let notes = best.iter().chain(&table.notes);
    let notes: String = notes.map(|note| format!("{note}\n")).collect();
    format!("{}\n{grid}\n{notes}", table.title)
}
