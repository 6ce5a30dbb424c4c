//! The results of a study that trains: for each row the learning rate that validation chose, and its scores by seed.

use std::collections::BTreeMap;

use super::Grid;
use crate::compare::results::Results;
use crate::compare::scores::{Scores, Trials};
use crate::compare::statistics::moments::{deviation, mean};
use crate::run::summary::Summary;

/// A method on a backbone and a data set.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The label of the backbone.
    pub backbone: String,
    /// The label of the data set.
    pub dataset: String,
    /// The label of the method.
    pub method: String,
    /// The learning rate that validation chose; none without results.
    pub rate: Option<f64>,
    /// The scores on validation by seed, as shares.
    pub validation: BTreeMap<u64, f64>,
    /// The scores on test by seed, as shares.
    pub test: BTreeMap<u64, f64>,
    /// Seconds of a training epoch.
    pub seconds_per_epoch: Option<f64>,
    /// Trials that failed or are missing, over all learning rates.
    pub lacking: usize,
}

/// The means of scores over seeds.
pub fn mean_of(scores: &BTreeMap<u64, f64>) -> Option<f64> {
    mean(&scores.values().copied().collect::<Vec<_>>())
}

/// The deviation of scores over seeds.
pub fn deviation_of(scores: &BTreeMap<u64, f64>) -> Option<f64> {
    deviation(&scores.values().copied().collect::<Vec<_>>())
}

/// The differences of scores that are paired by seed.
pub fn differences(a: &BTreeMap<u64, f64>, b: &BTreeMap<u64, f64>) -> Vec<f64> {
    let pairs = a.iter().filter_map(|(seed, a)| Some(a - b.get(seed)?));
    pairs.collect()
}

fn by_seed(trials: &Trials, score: impl Fn(&Summary) -> Option<f64>) -> BTreeMap<u64, f64> {
    let scores = trials.done.iter();
    scores
        .filter_map(|(seed, summary)| Some((*seed, score(summary)?)))
        .collect()
}

/// The rows of a grid, in the order of backbones, data sets and methods.
pub fn rows(grid: &Grid, results: &Results) -> Vec<Row> {
    let scores = Scores::of(results);
    let mut rows = Vec::new();
    for backbone in &results.backbones {
        for dataset in &results.datasets {
            for method in grid
                .methods
                .iter()
                .filter(|m| m.backbones.contains(backbone))
            {
                let mut row = Row {
                    backbone: backbone.clone(),
                    dataset: dataset.label.clone(),
                    method: method.label.clone(),
                    ..Row::default()
                };
                let rates = method.rates.get(backbone).into_iter().flatten();
                for &rate in rates {
                    let Some(trials) = scores.at(backbone, &method.trial(rate), &dataset.label)
                    else {
                        continue;
                    };
                    row.lacking += trials.planned() - trials.done.len();
                    let validation = by_seed(trials, |summary| {
                        summary.validation.as_ref()?.score(summary.metric)
                    });
                    let better = mean_of(&validation) > mean_of(&row.validation);
                    if validation.is_empty() || !(row.rate.is_none() || better) {
                        continue;
                    }
                    row.rate = Some(rate);
                    row.validation = validation;
                    row.test = by_seed(trials, |summary| summary.test.score(summary.metric));
                    row.seconds_per_epoch = trials.mean(|summary| summary.time.seconds_per_epoch);
                }
                rows.push(row);
            }
        }
    }
    rows
}
