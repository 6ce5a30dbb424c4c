//! The results of a comparison by backbone, method and data set, for tables, plots and statistics.

use std::collections::BTreeMap;

use super::results::{DatasetColumn, Results};
use super::statistics::moments::{deviation, mean};
use crate::run::summary::{Cell, Failed, Summary};

/// Results by backbone, method and data set.
pub struct Scores<'a> {
    /// All results.
    pub results: &'a Results,
    /// The trials by backbone, method and data set.
    trials: ByName<'a, ByName<'a, ByName<'a, Trials<'a>>>>,
}

type ByName<'a, T> = BTreeMap<&'a str, T>;

/// The trials of one method on one backbone and data set, one per seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trials<'a> {
    /// The trials that finished, by seed.
    pub done: BTreeMap<u64, &'a Summary>,
    /// The trials that failed.
    pub failed: Vec<&'a Failed>,
    /// The number of trials that have no result yet.
    pub missing: usize,
}

impl<'a> Scores<'a> {
    /// Sorts results by backbone, method and data set.
    pub fn of(results: &'a Results) -> Self {
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

    /// The trials of a method on a backbone and a data set; none if the comparison plans none.
    pub fn at(&self, backbone: &str, method: &str, dataset: &str) -> Option<&Trials<'a>> {
        self.trials.get(backbone)?.get(method)?.get(dataset)
    }

    /// The methods that are planned on a backbone, in the order of the comparison.
    pub fn methods(&self, backbone: &str) -> Vec<&'a str> {
        let planned = self.trials.get(backbone);
        let methods = self.results.methods.iter().map(String::as_str);
        methods
            .filter(|method| planned.is_some_and(|methods| methods.contains_key(method)))
            .collect()
    }

    /// The trials of a method on the data sets in `columns`; data sets on which it is not planned are
    /// left out.
    pub fn row<'s>(
        &'s self,
        backbone: &'s str,
        method: &'s str,
        columns: impl IntoIterator<Item = &'s DatasetColumn>,
    ) -> impl Iterator<Item = &'s Trials<'a>> {
        let columns = columns.into_iter();
        columns.filter_map(move |column| self.at(backbone, method, &column.label))
    }
}

impl Trials<'_> {
    /// The number of trials that the comparison plans here, one per seed.
    pub fn planned(&self) -> usize {
        self.done.len() + self.failed.len() + self.missing
    }

    /// The scores on the test split, as shares in `[0, 1]` by the metric of the data set, by seed.
    pub fn scores(&self) -> BTreeMap<u64, f64> {
        let scores = self.done.iter();
        scores
            .filter_map(|(seed, summary)| Some((*seed, summary.test.score(summary.metric)?)))
            .collect()
    }

    /// The mean of the scores over seeds; none if no trial has a score.
    pub fn score(&self) -> Option<Mean> {
        Mean::of(
            &self.scores().into_values().collect::<Vec<_>>(),
            self.planned(),
        )
    }

    /// The mean over seeds of a quantity of the trials; none if no trial finished.
    pub fn mean(&self, value: impl Fn(&Summary) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.done.values().map(|summary| value(summary)).collect();
        mean(&values)
    }
}

/// A mean that states what it covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// The sample standard deviation; none for a single value.
    pub deviation: Option<f64>,
    /// The number of values.
    pub count: usize,
    /// The number of values once every planned trial has finished.
    pub planned: usize,
}

impl Mean {
    /// The mean of `values`, of which `planned` are planned; none if there are no values.
    pub fn of(values: &[f64], planned: usize) -> Option<Self> {
        Some(Self {
            mean: mean(values)?,
            deviation: deviation(values),
            count: values.len(),
            planned,
        })
    }

    /// Whether no value is missing.
    pub fn complete(&self) -> bool {
        self.count == self.planned
    }
}
