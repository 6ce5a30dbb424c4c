//! Test accuracy by class, and the confusion of classes; bounded if there are many.

use std::fmt::Write;

use super::document::{escape, note};
use super::numbers::grouped;
use crate::train::metrics::Metrics;

/// The number of classes that fit in a matrix; with more, only the worst are listed.
pub const MANY: usize = 30;

/// The name of a class as HTML, or its number if it has no name.
pub fn class(classes: &[String], label: usize) -> String {
    let number = || label.to_string();
    escape(&classes.get(label).cloned().unwrap_or_else(number))
}

/// The accuracy of each class as a bar; only the worst if there are many.
pub fn per_class(test: &Metrics, classes: &[String]) -> String {
    let images = |label: usize| test.confusion.get(label).map_or(0, |row| row.iter().sum());
    let cells = |label: usize| format!("<td>{}</td>", grouped(images(label)));
    let titles =
        "<th scope=\"col\" class=\"number\">images</th><th scope=\"col\" colspan=\"2\">top-1</th>";
    bars(&test.per_class, titles, cells, classes)
}

/// The average precision of each class as a bar, beside its F1, where images have several labels; only the
/// worst if there are many.
pub fn scores_by_class(test: &Metrics, classes: &[String]) -> String {
    let Some(scores) = &test.multi_label else {
        return String::new();
    };
    let cells = |label: usize| {
        let images = scores.images.get(label).copied().unwrap_or_default();
        let f1 = scores.f1.get(label).copied().flatten();
        let f1 = f1.map_or(String::new(), |f1| format!("{:.1} %", 100.0 * f1));
        format!("<td>{}</td><td>{f1}</td>", grouped(images))
    };
    let titles = "<th scope=\"col\" class=\"number\">images</th><th scope=\"col\" class=\"number\">F1</th>\
                  <th scope=\"col\" colspan=\"2\">average precision</th>";
    bars(&scores.average_precision, titles, cells, classes)
}

/// A table with the share of each class that has one as a bar, behind other cells; only the worst classes if there
/// are many.
fn bars(
    shares: &[Option<f64>],
    titles: &str,
    cells: impl Fn(usize) -> String,
    classes: &[String],
) -> String {
    let shares = shares.iter().enumerate();
    let mut rows: Vec<(usize, f64)> = shares
        .filter_map(|(label, share)| Some((label, (*share)?)))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut table = String::new();
    if rows.len() > MANY {
        table = note(&format!("The worst {MANY} of {} classes.", rows.len()));
        rows.sort_by(|a, b| a.1.total_cmp(&b.1));
        rows.truncate(MANY);
    }
    let _ = writeln!(
        table,
        "<table class=\"bars\">\n<tr><th scope=\"col\">class</th>{titles}</tr>"
    );
    for (label, share) in rows {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th>{}<td>{:.1} %</td><td class=\"bar\">\
             <i style=\"width:{:.1}%\"></i></td></tr>",
            class(classes, label),
            cells(label),
            100.0 * share,
            100.0 * share
        );
    }
    table.push_str("</table>\n");
    table
}

/// The confusion of `images`, which are counted by label (row) and prediction (column).
pub fn confusion(images: &[Vec<usize>], classes: &[String]) -> String {
    match images.len() {
        0 => String::new(),
        count if count > MANY => worst(images, classes),
        _ => matrix(images, classes),
    }
}

/// The whole matrix. The colour of a cell is its share of the row.
fn matrix(images: &[Vec<usize>], classes: &[String]) -> String {
    let mut table = note(
        "Rows are labels, columns are predictions, by the number of their row. The colour is the share of the \
         row.",
    );
    table.push_str("<div class=\"wide\">\n<table class=\"matrix\">\n<tr><td></td>");
    for label in 0..images.len() {
        let name = class(classes, label);
        let _ = write!(table, "<th scope=\"col\" title=\"{name}\">{label}</th>");
    }
    table.push_str("</tr>\n");
    for (label, row) in images.iter().enumerate() {
        let name = class(classes, label);
        let number = match name == label.to_string() {
            true => String::new(),
            false => format!("{label}&ensp;"),
        };
        let _ = write!(table, "<tr><th scope=\"row\">{number}{name}</th>");
        let all: usize = row.iter().sum();
        for &count in row {
            heat(&mut table, count as f64 / all.max(1) as f64, count);
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table>\n</div>\n");
    table
}

/// Adds a cell that a share in `[0, 1]` colours.
pub fn heat(table: &mut String, share: f64, text: impl std::fmt::Display) {
    let shade = match share {
        0.0 => " class=\"zero\"",
        share if share > 0.85 => " class=\"strong full\"",
        share if share > 0.6 => " class=\"strong\"",
        _ => "",
    };
    // A single error among hundreds must still be visible.
    let colour = match share > 0.0 {
        true => (100.0 * share).max(6.0),
        false => 0.0,
    };
    let _ = write!(
        table,
        "<td{shade} style=\"--share:{colour:.0}%\">{text}</td>"
    );
}

/// The most frequent confusions.
fn worst(images: &[Vec<usize>], classes: &[String]) -> String {
    let mut errors = Vec::new();
    for (label, row) in images.iter().enumerate() {
        let all: usize = row.iter().sum();
        let wrong = row.iter().enumerate();
        let wrong = wrong.filter(|(guess, count)| *guess != label && **count > 0);
        errors.extend(wrong.map(|(guess, &count)| (count, all, label, guess)));
    }
    if errors.is_empty() {
        return "<p>There are no errors.</p>\n".to_owned();
    }
    // Ties are in the order of labels, so that the page is the same every time.
    errors.sort_by_key(|&(count, _, label, guess)| (std::cmp::Reverse(count), label, guess));
    let shown = errors.len().min(MANY);
    let kinds = errors.len();
    let mut table = note(&format!(
        "The {shown} most frequent of {kinds} kinds of error."
    ));
    table.push_str(
        "<table class=\"bars\">\n<tr><th scope=\"col\">label</th><th scope=\"col\">prediction</th>\
         <th scope=\"col\" class=\"number\">images</th><th scope=\"col\" class=\"number\">share of the label</th></tr>\n",
    );
    for &(count, all, label, guess) in &errors[..shown] {
        let _ = writeln!(
            table,
            "<tr><th scope=\"row\">{}</th><th scope=\"row\">{}</th><td>{}</td><td>{:.1} %</td></tr>",
            class(classes, label),
            class(classes, guess),
            grouped(count),
            100.0 * count as f64 / all.max(1) as f64
        );
    }
    table.push_str("</table>\n");
    table
}
