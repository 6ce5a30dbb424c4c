//! A report as Markdown: `results.md`.

use crate::compare::report::Report;
use crate::compare::tables::table::{Entry, Table};

/// The whole report.
pub fn markdown(report: &Report) -> String {
    let results = report.results;
    let mut text = format!("# {}\n\n", results.name);
    if !results.description.trim().is_empty() {
        text += &format!("{}\n\n", results.description.trim());
    }
    text += &format!("{}.\n\n", results.progress());
    for part in report.parts() {
        text += &format!("## {}\n\n", part.heading);
        text.extend(part.tables.into_iter().map(of_table));
    }
    text
}

fn of_table(table: &Table) -> String {
    let names = table.columns.iter().map(|column| cell(&column.name));
    let rule = table.columns.iter().map(|column| match column.words {
        true => "---".to_owned(),
        false => "---:".to_owned(),
    });
    let head = [
        line([table.names.to_owned()].into_iter().chain(names)),
        line(["---".to_owned()].into_iter().chain(rule)),
    ];
    let rows = table.rows.iter().map(|(name, row)| {
        let entries = row.iter().map(of_entry);
        line([cell(name)].into_iter().chain(entries))
    });
    let notes = table.notes.iter().map(|note| format!("\n{}\n", cell(note)));
    format!(
        "### {}\n\n{}{}{}\n",
        table.title,
        head.concat(),
        rows.collect::<String>(),
        notes.collect::<String>()
    )
}

fn of_entry(entry: &Entry) -> String {
    match entry.best {
        false => cell(&entry.line()),
        true => {
            let bold = Entry {
                text: format!("**{}**", entry.text),
                ..entry.clone()
            };
            cell(&bold.line())
        }
    }
}

/// Text that ends neither its cell nor its row.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}
