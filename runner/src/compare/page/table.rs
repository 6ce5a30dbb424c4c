//! A table as HTML.

use std::fmt::Write;

use super::style::style;
use crate::compare::results::Results;
use crate::compare::tables::table::{Entry, Table};
use crate::report::document::{escape, note};
use crate::report::marks;

/// A table; empty without rows. Names of methods have their marks.
pub fn html(table: &Table, results: &Results) -> String {
    if table.rows.is_empty() {
        return String::new();
    }
    let mut html = format!(
        "<div class=\"table\">\n<h3>{}</h3>\n<div class=\"wide\">\n<table class=\"grid\">\n<thead><tr><th scope=\"col\">{}</th>",
        escape(&table.title),
        escape(table.names)
    );
    let class = |words: bool| if words { " class=\"words\"" } else { "" };
    for column in &table.columns {
        let _ = write!(
            html,
            "<th scope=\"col\"{}>{}</th>",
            class(column.words),
            // A zero-width space lets a long head break after a slash.
            escape(&column.name).replace('/', "/\u{200b}")
        );
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for (name, row) in &table.rows {
        let mark = style(results, name).filter(|_| table.names == "method");
        let mark = mark.map(marks::inline).unwrap_or_default();
        let _ = write!(
            html,
            "<tr><th scope=\"row\"><span class=\"method\">{mark}{}</span></th>",
            escape(name)
        );
        for (entry, column) in row.iter().zip(&table.columns) {
            let _ = write!(html, "<td{}>{}</td>", class(column.words), content(entry));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</div>\n");
    html.extend(table.notes.iter().map(|text| note(text)));
    html.push_str("</div>\n");
    html
}

fn content(entry: &Entry) -> String {
    let text = escape(&entry.text);
    let mut content = match entry.best {
        true => format!("<b>{text}</b>"),
        false => text,
    };
    let over = entry.over.as_ref().map(|over| format!("({over})"));
    for small in entry.spread.iter().chain(&over) {
        let _ = write!(content, " <small>{}</small>", escape(small));
    }
    content
}
