//! What methods set otherwise than the others, what was searched for, and what failed.

use std::collections::BTreeMap;

use super::{Column, Entry, NONE, Table};
use crate::compare::Results;
use crate::report::numbers::brief;
use crate::run::summary::{Cell, Failed, Tuning};

/// What the names of the table of searches are.
pub const SEARCHED: &str = "searched for";

/// The overrides that methods declare; none without any.
pub fn overrides(results: &Results) -> Option<Table> {
    let cells = (results
        .done
        .iter()
        .filter_map(|summary| summary.cell.as_ref()))
    .chain(results.failed.iter().map(|failed| &failed.cell))
    .chain(results.missing.iter().map(|missing| &missing.cell));
    // By method and what it sets: where.
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
        notes: vec!["Everything else is the same for all methods.".to_owned()],
    })
}

/// Settings on one line.
pub fn settings(set: &BTreeMap<String, String>) -> String {
    let settings = set
        .iter()
        .map(|(path, value)| format!("{path}={}", value.trim()));
    settings.collect::<Vec<_>>().join(", ")
}

/// A search, and the trials that took its choice.
pub struct Search<'a> {
    /// Where.
    pub cell: &'a Cell,
    /// The seeds of those trials.
    pub seeds: Vec<u64>,
    /// The search.
    pub tuning: &'a Tuning,
}

impl<'a> Search<'a> {
    /// Each search once, though several trials tell of it.
    pub fn all(results: &'a Results) -> Vec<Self> {
        let mut searches: Vec<Self> = Vec::new();
        for summary in &results.done {
            let (Some(cell), Some(tuning)) = (&summary.cell, &summary.tuning) else {
                continue;
            };
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

    /// Where it was, on one line.
    pub fn name(&self) -> String {
        let cell = self.cell;
        format!("{} / {} / {}", cell.method, cell.backbone, cell.dataset)
    }
}

/// All searches; none without any.
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
            "Candidates train on the training split and are chosen on validation, their epoch too, before the \
             test split is read. All searches took {} s.",
            brief(seconds)
        )],
    })
}

fn join(seeds: &[u64]) -> String {
    let seeds = seeds.iter().map(u64::to_string);
    seeds.collect::<Vec<_>>().join(", ")
}

/// What failed, with the error; none where nothing did.
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
