//! What the tables, the plots and the tests read: results by their place in the comparison.

use std::collections::BTreeMap;

use super::statistics::{deviation, mean};
use super::{Column, Results};
use crate::run::summary::{Cell, Failed, Summary};

/// Results by place.
pub struct Scores<'a> {
    /// All of them.
    pub results: &'a Results,
    /// By backbone, method and data set.
    trials: ByName<'a, ByName<'a, ByName<'a, Trials<'a>>>>,
}

type ByName<'a, T> = BTreeMap<&'a str, T>;

/// The trials of one method on one backbone and data set, one a seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trials<'a> {
    /// Those that finished, by seed.
    pub done: BTreeMap<u64, &'a Summary>,
    /// Those that cannot.
    pub failed: Vec<&'a Failed>,
    /// How many have not run yet.
    pub missing: usize,
}

impl<'a> Scores<'a> {
    /// Sorts results by place.
    pub fn new(results: &'a Results) -> Self {
        let mut scores = Self {
            results,
            trials: ByName::new(),
        };
        for summary in &results.done {
            if let Some(cell) = &summary.cell {
                scores.place(cell).done.insert(summary.seed, summary);
            }
        }
        for failed in &results.failed {
            scores.place(&failed.cell).failed.push(failed);
        }
        for missing in &results.missing {
            scores.place(&missing.cell).missing += 1;
        }
        scores
    }

    fn place(&mut self, cell: &'a Cell) -> &mut Trials<'a> {
        let backbone = self.trials.entry(&cell.backbone).or_default();
        let method = backbone.entry(&cell.method).or_default();
        method.entry(&cell.dataset).or_default()
    }

    /// The trials at a place; none where the comparison plans none.
    pub fn at(&self, backbone: &str, method: &str, dataset: &str) -> Option<&Trials<'a>> {
        self.trials.get(backbone)?.get(method)?.get(dataset)
    }

    /// The methods that have a place on a backbone, in the order of the comparison.
    pub fn methods(&self, backbone: &str) -> Vec<&'a str> {
        let planned = self.trials.get(backbone);
        let methods = self.results.methods.iter().map(String::as_str);
        methods
            .filter(|method| planned.is_some_and(|methods| methods.contains_key(method)))
            .collect()
    }

    /// What a method did on the data sets in `columns`, where it is planned.
    pub fn row<'s>(
        &'s self,
        backbone: &'s str,
        method: &'s str,
        columns: impl IntoIterator<Item = &'s Column>,
    ) -> impl Iterator<Item = &'s Trials<'a>> {
        let columns = columns.into_iter();
        columns.filter_map(move |column| self.at(backbone, method, &column.label))
    }
}

impl Trials<'_> {
    /// How many the comparison plans.
    pub fn planned(&self) -> usize {
        self.done.len() + self.failed.len() + self.missing
    }

    /// On the test split by the data set's metric, by seed.
    pub fn scores(&self) -> BTreeMap<u64, f64> {
        let scores = self.done.iter();
        scores
            .filter_map(|(seed, summary)| Some((*seed, summary.test.score(summary.metric)?)))
            .collect()
    }

    /// The mean and the standard deviation of the scores, and over how many seeds; none without one.
    pub fn score(&self) -> Option<Mean> {
        Mean::of(
            &self.scores().into_values().collect::<Vec<_>>(),
            self.planned(),
        )
    }

    /// The mean over seeds of something that a trial measured.
    pub fn mean(&self, value: impl Fn(&Summary) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.done.values().map(|summary| value(summary)).collect();
        mean(&values)
    }
}

/// A mean that says what it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation; none of a single value.
    pub deviation: Option<f64>,
    /// Values that there are.
    pub count: usize,
    /// Values that there should be.
    pub planned: usize,
}

impl Mean {
    /// Of `values`, of `planned` ones; none of nothing.
    pub fn of(values: &[f64], planned: usize) -> Option<Self> {
        Some(Self {
            mean: mean(values)?,
            deviation: deviation(values),
            count: values.len(),
            planned,
        })
    }

    /// Whether nothing lacks.
    pub fn complete(&self) -> bool {
        self.count == self.planned
    }
}
