//! Accuracy by class and confusion, one data set at a time; bounded if there are many classes.

use std::fmt::Write;

use super::style::style;
use crate::compare::scores::{Scores, Trials};
use crate::compare::statistics::moments::mean;
use crate::report::classes::{MANY, class, confusion, heat};
use crate::report::document::{details, escape, note};
use crate::report::marks;

/// Accuracy by class and confusion on every data set.
pub fn tables(scores: &Scores, backbone: &str) -> String {
    let datasets = scores.results.datasets.iter();
    let all: String = datasets
        .map(|dataset| of_dataset(scores, backbone, &dataset.label))
        .collect();
    match all.is_empty() {
        true => all,
        false => details("Accuracy by class and confusion", &all),
    }
}

fn of_dataset(scores: &Scores, backbone: &str, dataset: &str) -> String {
    let methods = scores.methods(backbone).into_iter();
    let trials: Vec<(&str, &Trials)> = methods
        .filter_map(|method| Some((method, scores.at(backbone, method, dataset)?)))
        .filter(|(_, trials)| !trials.done.is_empty())
        .collect();
    let Some(names) = trials.iter().flat_map(|(_, t)| t.done.values()).next() else {
        return String::new();
    };
    let names = &names.classes;
    let mut body = by_class(scores, &trials, names);
    for (method, what) in shown(scores, &trials) {
        if let Some((_, trials)) = trials.iter().find(|(name, _)| *name == method) {
            let matrix = confusion(&sum(trials), names);
            body += &details(
                &format!("Confusion of {method}, {what}, all seeds"),
                &matrix,
            );
        }
    }
    details(dataset, &body)
}

/// Chooses the methods whose confusion is shown: the best one and the baseline. The reports of
/// their trials show that of the others.
fn shown<'a>(scores: &'a Scores, trials: &[(&'a str, &Trials)]) -> Vec<(&'a str, &'static str)> {
    let scored = trials
        .iter()
        .filter_map(|(method, trials)| Some((*method, trials.score()?.mean)));
    // The earlier one of two equal methods stays, as in the tables.
    let best = scored.reduce(|best, next| if next.1 > best.1 { next } else { best });
    let mut shown: Vec<_> = best
        .map(|(method, _)| (method, "the best"))
        .into_iter()
        .collect();
    if let Some(baseline) = &scores.results.baseline
        && shown.iter().all(|(method, _)| method != baseline)
    {
        shown.push((baseline, "the baseline"));
    }
    shown
}

/// The confusion over all seeds.
fn sum(trials: &Trials) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::new();
    for summary in trials.done.values() {
        let confusion = &summary.test.confusion;
        match all.is_empty() {
            true => all.clone_from(confusion),
            false => {
                let cells = all.iter_mut().flatten().zip(confusion.iter().flatten());
                cells.for_each(|(cell, count)| *cell += count);
            }
        }
    }
    all
}

/// A table of classes by methods, of means over seeds.
fn by_class(scores: &Scores, trials: &[(&str, &Trials)], names: &[String]) -> String {
    let of_class = |trials: &Trials, label: usize| {
        let seeds = trials.done.values();
        let shares = seeds.filter_map(|summary| *summary.test.per_class.get(label)?);
        mean(&shares.collect::<Vec<_>>())
    };
    let mut rows: Vec<(usize, Vec<Option<f64>>)> = (0..names.len())
        .map(|label| {
            let row = trials.iter().map(|(_, trials)| of_class(trials, label));
            (label, row.collect())
        })
        .collect();
    rows.retain(|(_, row)| row.iter().any(Option::is_some));
    if rows.is_empty() {
        return String::new();
    }
    let mut remark = "Test top-1 in %, the mean over seeds.".to_owned();
    if rows.len() > MANY {
        remark += &format!(" The worst {MANY} of {} classes.", rows.len());
        let of_row = |row: &[Option<f64>]| {
            let known: Vec<f64> = row.iter().flatten().copied().collect();
            mean(&known).unwrap_or(0.0)
        };
        // The worst classes are the interesting ones.
        rows.sort_by(|a, b| of_row(&a.1).total_cmp(&of_row(&b.1)));
        rows.truncate(MANY);
    }
    let mut table = note(&remark);
    table.push_str("<div class=\"wide\">\n<table class=\"matrix upright\">\n<tr><td></td>");
    for (method, _) in trials {
        let mark = style(scores.results, method).map(marks::inline);
        let _ = write!(
            table,
            "<th scope=\"col\"><span>{}{}</span></th>",
            escape(method),
            mark.unwrap_or_default()
        );
    }
    table.push_str("</tr>\n");
    for (label, row) in rows {
        let _ = write!(table, "<tr><th scope=\"row\">{}</th>", class(names, label));
        for share in row {
            match share {
                Some(share) => heat(&mut table, share, format_args!("{:.0}", 100.0 * share)),
                None => table.push_str("<td>–</td>"),
            }
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table>\n</div>\n");
    table
}
