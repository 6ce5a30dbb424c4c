//! Failures, settings, searches, and the environment of the trials.

use super::table;
use crate::compare::report::Report;
use crate::compare::results::Results;
use crate::compare::tables::choices::{Search, settings};
use crate::compare::tables::table::{Column, Entry, NONE, Table};
use crate::report::document::{details, section, yaml};
use crate::report::numbers::brief;

/// The number of resolved experiments that are shown, because each is long.
const CONFIGURATIONS: usize = 60;

/// The sections that come last.
pub fn sections(report: &Report) -> String {
    let results = report.results;
    let html = |table: &Option<Table>| -> String {
        let tables = table.iter().map(|table| table::html(table, results));
        tables.collect()
    };
    let chosen = html(&report.overrides) + &html(&report.searches) + &records(results);
    [
        section("Failures", &html(&report.failed)),
        section("Overrides and searches", &chosen),
        section("Configuration and environment", &configurations(results)),
    ]
    .concat()
}

/// Tables of all candidates, one per search.
fn records(results: &Results) -> String {
    let record = |search: &Search| {
        let none = || NONE.to_owned();
        let rows = search.tuning.candidates.iter().enumerate();
        let rows = rows.map(|(index, candidate)| {
            let score = candidate.score.map(|score| format!("{:.1}", 100.0 * score));
            let loss = candidate
                .validation
                .as_ref()
                .map(|v| format!("{:.4}", v.loss));
            let mut entries = [
                candidate.epochs.to_string(),
                candidate.best_epoch.to_string(),
                score.unwrap_or_else(none),
                loss.unwrap_or_else(none),
                brief(candidate.seconds),
                candidate.error.clone().unwrap_or_default(),
            ]
            .map(Entry::text);
            entries[2].best = index == search.tuning.chosen;
            (settings(&candidate.set), entries.to_vec())
        });
        let number = |name| Column::number(name, None);
        Table {
            title: search.name(),
            names: "candidate",
            columns: vec![
                number("epochs"),
                number("best epoch"),
                number("validation score, %"),
                number("validation loss"),
                number("seconds"),
                Column::words("error"),
            ],
            rows: rows.collect(),
            notes: Vec::new(),
        }
    };
    let all = Search::all(results);
    let tables: String = all
        .iter()
        .map(|s| table::html(&record(s), results))
        .collect();
    match tables.is_empty() {
        true => tables,
        false => details(
            "All candidates; the score of the chosen one is bold",
            &tables,
        ),
    }
}

/// The YAML of the comparison, every environment in which trials ran, and the resolved experiment of
/// one trial for each method and backbone.
fn configurations(results: &Results) -> String {
    let written = |value: &serde_json::Value| {
        serde_yaml::to_string(value).unwrap_or_else(|e| format!("# {e}"))
    };
    let mut body = details("The comparison", &yaml(&results.config));

    // Most trials share one environment, so that each is shown once with a count.
    let mut environments: Vec<(String, usize)> = Vec::new();
    for summary in &results.done {
        let text = written(&summary.environment);
        match environments.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => environments.push((text, 1)),
        }
    }
    for (environment, count) in &environments {
        body += &details(
            &format!("The environment of {count} trials"),
            &yaml(environment),
        );
    }

    let mut seen = std::collections::BTreeSet::new();
    let firsts = results.done.iter().filter(|summary| {
        let cell = summary.cell.as_ref();
        cell.is_some_and(|cell| seen.insert((&cell.backbone, &cell.method)))
    });
    let trials: String = firsts
        .take(CONFIGURATIONS)
        .map(|summary| details(&summary.trial, &yaml(&written(&summary.config))))
        .collect();
    if !trials.is_empty() {
        body += &details(
            "Resolved experiments, one for each method and backbone",
            &trials,
        );
    }
    body
}
