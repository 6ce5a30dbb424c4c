//! Head to head: methods on backbones and data sets under identical settings, and the report of it.

use serde::{Deserialize, Serialize};

use crate::run::summary::{Cell, Failed, Summary};

pub mod config;
pub mod execute;
pub mod manifest;
pub mod page;
pub mod plan;
pub mod scores;
pub mod search;
pub mod standing;
pub mod statistics;
pub mod tables;
mod tune;

#[cfg(test)]
mod sample;

/// What a comparison found: all that its report is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The comparison's name.
    pub name: String,
    /// What is said of it above the tables.
    #[serde(default)]
    pub description: String,
    /// The label of the method that others are held against.
    pub baseline: Option<String>,
    /// The methods' labels, in the order of the tables' rows.
    pub methods: Vec<String>,
    /// The backbones' labels: a table for each.
    pub backbones: Vec<String>,
    /// The data sets' labels and groups, in the order of the tables' columns.
    pub datasets: Vec<Column>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The comparison as YAML.
    pub config: String,
    /// What finished.
    pub done: Vec<Summary>,
    /// What failed.
    pub failed: Vec<Failed>,
    /// What is planned and has not run yet.
    pub missing: Vec<Missing>,
}

/// A trial that is planned and has not run yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its place.
    pub cell: Cell,
    /// The seed.
    pub seed: u64,
}

/// A data set of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its label.
    pub label: String,
    /// Its group.
    pub group: Option<String>,
}
