//! Accuracy by data set, by group and over all, with the spread over seeds.

use std::collections::BTreeMap;

use super::table::{Better, Column, Entry, FAILED, NONE, Table, any_failed, explained};
use super::versus::ranking;
use crate::compare::results::DatasetColumn;
use crate::compare::scores::{Mean, Scores, Trials};
use crate::compare::standing::Standing;
use crate::compare::statistics::moments::{deviation, mean};
use crate::train::metrics::Metric;

/// The number of data sets that fit in one table; with more, each group has a table of its own.
const WIDE: usize = 8;

type Datasets<'a> = Vec<&'a DatasetColumn>;

/// Makes one table if the data sets fit, else an overview and a table for each group.
pub fn accuracy(scores: &Scores, backbone: &str, standing: &Standing) -> Vec<Table> {
    let groups = groups(&scores.results.datasets);
    let all: Datasets = scores.results.datasets.iter().collect();
    let grid = Grid { scores, backbone };
    let title = |of: &str| format!("{backbone}: accuracy in %{of}");
    if all.len() <= WIDE {
        let mut table = grid.table(title(""));
        for (group, datasets) in &groups {
            datasets
                .iter()
                .for_each(|dataset| grid.dataset(&mut table, dataset));
            if let (Some(group), true) = (group, groups.len() > 1) {
                grid.mean(&mut table, &format!("{group} mean"), datasets);
            }
        }
        grid.overall(&mut table, &all, standing);
        return explained(vec![table.marked()]);
    }
    let mut overview = grid.table(title(""));
    if groups.len() > 1 {
        for (group, datasets) in &groups {
            grid.mean(&mut overview, group.unwrap_or("others"), datasets);
        }
    }
    grid.overall(&mut overview, &all, standing);
    let mut tables = vec![overview];
    for (group, datasets) in &groups {
        for part in datasets.chunks(WIDE) {
            let mut table = grid.table(title(&match group {
                Some(group) => format!(", {group}"),
                None => ", by data set".to_owned(),
            }));
            part.iter()
                .for_each(|dataset| grid.dataset(&mut table, dataset));
            tables.push(table);
        }
    }
    explained(tables.into_iter().map(Table::marked).collect())
}

/// Groups the data sets, the groups in the order of their first data set.
fn groups(columns: &[DatasetColumn]) -> Vec<(Option<&str>, Datasets<'_>)> {
    let mut groups: Vec<(Option<&str>, Datasets)> = Vec::new();
    for column in columns {
        let group = column.group.as_deref();
        match groups.iter_mut().find(|(name, _)| *name == group) {
            Some((_, datasets)) => datasets.push(column),
            None => groups.push((group, vec![column])),
        }
    }
    groups
}

/// Computes the mean of a method over data sets; none unless each of them has a score. The
/// deviation is that between the means of single seeds, over the seeds that every data set has.
pub fn overall(
    scores: &Scores,
    backbone: &str,
    method: &str,
    datasets: &[&DatasetColumn],
) -> Option<Mean> {
    let trials = datasets
        .iter()
        .map(|d| scores.at(backbone, method, &d.label));
    // A mean over other data sets than those of its neighbours would look comparable and not be.
    let trials: Vec<&Trials> = trials.collect::<Option<_>>()?;
    let by_seed: Vec<BTreeMap<u64, f64>> = trials.iter().map(|t| t.scores()).collect();
    let means: Option<Vec<f64>> = trials.iter().map(|t| Some(t.score()?.mean)).collect();
    let seeds = by_seed.first()?.keys();
    // The seeds stay together, because the spread is that of the mean over data sets, not of single
    // scores.
    let of_seed: Vec<f64> = seeds
        .filter_map(|seed| {
            let row: Option<Vec<f64>> = by_seed.iter().map(|s| s.get(seed).copied()).collect();
            mean(&row?)
        })
        .collect();
    Some(Mean {
        mean: mean(&means?)?,
        deviation: deviation(&of_seed),
        count: by_seed.iter().map(BTreeMap::len).sum(),
        planned: trials.iter().map(|t| t.planned()).sum(),
    })
}

/// The scores of one backbone, from which the columns of tables are made.
struct Grid<'a> {
    scores: &'a Scores<'a>,
    backbone: &'a str,
}

impl Grid<'_> {
    fn table(&self, title: String) -> Table {
        let methods = self.scores.methods(self.backbone).into_iter();
        Table {
            title,
            names: "method",
            rows: methods
                .map(|method| (method.to_owned(), Vec::new()))
                .collect(),
            ..Table::default()
        }
    }

    /// Adds a column with an entry for each method.
    fn column(&self, table: &mut Table, column: Column, entry: impl Fn(&str) -> Entry) {
        table.columns.push(column);
        for (method, row) in &mut table.rows {
            row.push(entry(method));
        }
    }

    fn dataset(&self, table: &mut Table, dataset: &DatasetColumn) {
        let at = |method: &str| self.scores.at(self.backbone, method, &dataset.label);
        let methods = table.rows.iter().filter_map(|(method, _)| at(method));
        let metric = methods.flat_map(|trials| trials.done.values()).next();
        // Most data sets report top-1, so only other metrics are named.
        let name = match metric.map(|summary| summary.metric) {
            None | Some(Metric::Top1) => dataset.label.clone(),
            Some(metric) => format!("{} ({metric})", dataset.label),
        };
        self.column(table, Column::number(name, Better::More), |method| {
            let Some(trials) = at(method) else {
                return Entry::text(NONE);
            };
            let failed = any_failed(&[trials]);
            match trials.score() {
                Some(mean) => Entry::percent(&mean, failed),
                None => Entry {
                    over: Some(format!(
                        "0/{}{}",
                        trials.planned(),
                        if failed { FAILED } else { "" }
                    )),
                    ..Entry::text(NONE)
                },
            }
        });
    }

    fn mean(&self, table: &mut Table, name: &str, datasets: &[&DatasetColumn]) {
        self.column(table, Column::number(name, Better::More), |method| {
            let row = self
                .scores
                .row(self.backbone, method, datasets.iter().copied());
            let row: Vec<&Trials> = row.collect();
            match overall(self.scores, self.backbone, method, datasets) {
                Some(mean) => Entry::percent(&mean, any_failed(&row)),
                None => {
                    let scored = row.iter().filter(|trials| trials.score().is_some());
                    Entry::lacking(scored.count(), datasets.len())
                }
            }
        });
    }

    fn overall(&self, table: &mut Table, datasets: &[&DatasetColumn], standing: &Standing) {
        if datasets.len() < 2 {
            return;
        }
        self.mean(table, "mean", datasets);
        self.column(
            table,
            Column::number("rank", Better::Less),
            |method| match standing.rank(method) {
                Some(rank) => Entry::number(rank, format!("{rank:.2}")),
                None => Entry::text(NONE),
            },
        );
        table.notes.extend(ranking(standing));
    }
}
