//! Declared overrides, searches, and failures.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{Column, Entry, NONE, Table};
use crate::compare::results::Results;
use crate::compare::search::Retrain;
use crate::report::numbers::brief;
use crate::run::summary::{Cell, Failed, Tuning};

/// The head of the first column in the table of searches.
pub const SEARCHED: &str = "searched for";

/// The settings in which methods declare that they differ; none if there are no such settings.
pub fn overrides(results: &Results) -> Option<Table> {
    let cells = (results
        .done
        .iter()
        .filter_map(|summary| summary.cell.as_ref()))
    .chain(results.failed.iter().map(|failed| &failed.cell))
    .chain(results.missing.iter().map(|missing| &missing.cell));
    // The backbones and data sets where settings apply, for each method and its settings.
    let mut places: BTreeMap<(&str, String), BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for cell in cells.filter(|cell| !cell.overrides.is_empty()) {
        let set = (cell.method.as_str(), settings(&cell.overrides));
        let datasets = places
            .entry(set)
            .or_default()
            .entry(&cell.backbone)
            .or_default();
        if !datasets.contains(&&*cell.dataset) {
            datasets.push(&cell.dataset);
        }
    }
    let rows = results.methods.iter().flat_map(|method| {
        let own = places.iter().filter(move |((name, _), _)| name == method);
        own.map(|((method, set), places)| {
            let places = places.iter().map(|(backbone, datasets)| {
                // Settings that apply everywhere need no list of data sets.
                match datasets.len() == results.datasets.len() {
                    true => (*backbone).to_owned(),
                    false => format!("{backbone} on {}", datasets.join(", ")),
                }
            });
            let entries = [set.clone(), places.collect::<Vec<_>>().join("; ")];
            ((*method).to_owned(), entries.map(Entry::text).to_vec())
        })
    });
    let rows: Vec<_> = rows.collect();
    (!rows.is_empty()).then(|| Table {
        title: "Declared overrides".to_owned(),
        names: "method",
        columns: vec![Column::words("sets"), Column::words("where")],
        rows,
        notes: vec!["All other settings are the same for all methods.".to_owned()],
    })
}

/// Settings as one line of text.
pub fn settings(set: &BTreeMap<String, String>) -> String {
    let settings = set
        .iter()
        .map(|(path, value)| format!("{path}={}", value.trim()));
    settings.collect::<Vec<_>>().join(", ")
}

/// A search, with the trials that used its choice.
pub struct Search<'a> {
    /// The cell that it belongs to.
    pub cell: &'a Cell,
    /// The seeds of the trials that used its choice.
    pub seeds: Vec<u64>,
    /// The candidates and the choice.
    pub tuning: &'a Tuning,
}

impl<'a> Search<'a> {
    /// All searches, each once, although the summary of every seed holds its own copy.
    pub fn all(results: &'a Results) -> Vec<Self> {
        let mut searches: Vec<Self> = Vec::new();
        for summary in &results.done {
            let (Some(cell), Some(tuning)) = (&summary.cell, &summary.tuning) else {
                continue;
            };
            // Seeds share a search, and each summary repeats it word for word.
            let same = |search: &&mut Self| search.cell == cell && search.tuning == tuning;
            match searches.iter_mut().find(same) {
                Some(search) => search.seeds.push(summary.seed),
                None => searches.push(Self {
                    cell,
                    seeds: vec![summary.seed],
                    tuning,
                }),
            }
        }
        let place = |labels: &[String], label: &str| labels.iter().position(|l| l == label);
        searches.sort_by_key(|search| {
            let columns = &results.datasets;
            (
                place(&results.backbones, &search.cell.backbone),
                place(&results.methods, &search.cell.method),
                columns.iter().position(|c| c.label == search.cell.dataset),
            )
        });
        searches
    }

    /// The name of its cell.
    pub fn name(&self) -> String {
        let cell = self.cell;
        format!("{} / {} / {}", cell.method, cell.backbone, cell.dataset)
    }
}

/// All searches and their choices; none if nothing was searched for.
pub fn searches(results: &Results) -> Option<Table> {
    let searches = Search::all(results);
    let rows = searches.iter().map(|search| {
        let tuning = search.tuning;
        let failed = tuning
            .candidates
            .iter()
            .filter(|c| c.error.is_some())
            .count();
        let mut count = format!("{} {}", tuning.candidates.len(), tuning.search);
        if failed > 0 {
            count += &format!(", {failed} failed");
        }
        let chosen = tuning.candidates.get(tuning.chosen);
        let validation = chosen.and_then(|c| c.validation.as_ref());
        let or_none = |text: Option<String>| Entry::text(text.unwrap_or_else(|| NONE.to_owned()));
        let entries = vec![
            Entry::text(count),
            or_none(chosen.map(|c| settings(&c.set))),
            or_none(chosen.map(|c| c.best_epoch.to_string())),
            or_none(
                chosen
                    .and_then(|c| c.score)
                    .map(|s| format!("{:.1}", 100.0 * s)),
            ),
            or_none(validation.map(|v| format!("{:.4}", v.loss))),
            Entry::text(brief(tuning.seconds)),
            Entry::text(join(&search.seeds)),
        ];
        (search.name(), entries)
    });
    let rows: Vec<_> = rows.collect();
    let seconds: f64 = searches.iter().map(|search| search.tuning.seconds).sum();
    let after: BTreeSet<Retrain> = searches
        .iter()
        .map(|search| search.tuning.retrain)
        .collect();
    let after: Vec<&str> = after.into_iter().map(Retrain::words).collect();
    (!rows.is_empty()).then(|| Table {
        title: "Searches".to_owned(),
        names: SEARCHED,
        columns: vec![
            Column::words("candidates"),
            Column::words("chosen"),
            Column::number("epoch", None),
            Column::number("validation score, %", None),
            Column::number("validation loss", None),
            Column::number("seconds", None),
            Column::number("seeds", None),
        ],
        rows,
        notes: vec![format!(
            "Candidates train on the training split. They and their epochs are chosen on validation, before the \
             test split is read. Then {}. All searches took {} s.",
            after.join("; "),
            brief(seconds)
        )],
    })
}

fn join(seeds: &[u64]) -> String {
    let seeds = seeds.iter().map(u64::to_string);
    seeds.collect::<Vec<_>>().join(", ")
}

/// The failed trials with their errors; none if no trial failed.
pub fn failed(results: &Results) -> Option<Table> {
    let row = |failed: &Failed| {
        let cell = &failed.cell;
        let error = failed
            .error
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let entries = [failed.seed.to_string(), failed.exit.to_string(), error];
        (
            format!("{} / {} / {}", cell.method, cell.backbone, cell.dataset),
            entries.map(Entry::text).to_vec(),
        )
    };
    (!results.failed.is_empty()).then(|| Table {
        title: "Failed trials".to_owned(),
        names: "trial",
        columns: vec![
            Column::number("seed", None),
            Column::number("exit", None),
            Column::words("error"),
        ],
        rows: results.failed.iter().map(row).collect(),
        notes: Vec::new(),
    })
}
