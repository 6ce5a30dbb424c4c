//! The results of a comparison as values: finished, failed and missing trials. A report is made
//! from these alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compare::state::Unfinished;
use crate::run::summary::{Cell, Failed, Summary};

/// The findings of a comparison, trial by trial.
///
/// Scores by method, backbone and data set are in [`Scores`](super::scores::Scores); ranks, intervals and
/// tests in [`Standing`](super::standing::Standing); both together with all tables in
/// [`Report`](super::report::Report).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The name of the comparison.
    pub name: String,
    /// The text above the tables.
    #[serde(default)]
    pub description: String,
    /// The label of the method that the others are compared with.
    pub baseline: Option<String>,
    /// The labels of the methods, in the order of the tables' rows.
    pub methods: Vec<String>,
    /// The labels of the backbones, in the order of the report's sections.
    pub backbones: Vec<String>,
    /// The data sets, in the order of the tables' columns.
    pub datasets: Vec<DatasetColumn>,
    /// The seeds with which every cell is trained.
    pub seeds: Vec<u64>,
    /// Published scores of the methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<Published>,
    /// The whole comparison as YAML.
    pub config: String,
    /// The summaries of the trials that finished. Each has its cell.
    pub done: Vec<Summary>,
    /// The trials that failed, with their errors.
    pub failed: Vec<Failed>,
    /// The trials that have no result yet.
    pub missing: Vec<Missing>,
}

/// A planned trial that has no result yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its place in the tables.
    pub cell: Cell,
    /// Its seed.
    pub seed: u64,
    /// The reason why it has no result.
    #[serde(default)]
    pub state: Unfinished,
}

/// Published scores of a method on a backbone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The label of the method.
    pub method: String,
    /// The label of the backbone.
    pub backbone: String,
    /// The publication that states them.
    pub source: String,
    /// The scores in percent, by the label of the data set.
    pub scores: BTreeMap<String, f64>,
}

/// A data set of a comparison: a column of the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetColumn {
    /// Its label.
    pub label: String,
    /// The group that it belongs to.
    pub group: Option<String>,
}

impl Results {
    /// The number of planned trials.
    pub fn planned(&self) -> usize {
        self.done.len() + self.failed.len() + self.missing.len()
    }

    /// Describes the progress, for example `12 trials done, 1 failed, 2 running, 3 waiting`.
    pub fn progress(&self) -> String {
        let mut text = format!("{} trials done", self.done.len());
        if !self.failed.is_empty() {
            text += &format!(", {} failed", self.failed.len());
        }
        if let Some(unfinished) = self.unfinished() {
            text += &format!(", {unfinished}");
        }
        text
    }

    /// Counts the trials that have no result yet by the reason, for example `2 running, 3 waiting`;
    /// none if all have one.
    pub fn unfinished(&self) -> Option<String> {
        let counts = Unfinished::ALL.map(|state| {
            let trials = self.missing.iter().filter(|trial| trial.state == state);
            (trials.count(), state)
        });
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let texts: Vec<String> = counts
            .map(|(count, state)| format!("{count} {}", state.name()))
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }
}
