//! `summary.json`: what a run reports, whole in itself: reports of comparisons are made of these
//! files only.

use std::collections::BTreeMap;

use peft_core::Counts;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::held_out::Settled;
use crate::train::checkpoint::EpochRecord;
use crate::train::metrics::{Metric, Metrics};

/// How a run ended. The file is written last, so that its presence means that it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// It finished.
    Done(Box<Summary>),
    /// Of a comparison: it cannot finish.
    Failed(Failed),
}

/// The report of a finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The experiment's name.
    pub experiment: String,
    /// The folder's name.
    pub trial: String,
    /// Its place in a comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cell: Option<Cell>,
    /// The methods' names.
    pub methods: Vec<String>,
    /// What chose the epoch and what is reported.
    #[serde(default)]
    pub metric: Metric,
    /// On the test split, once, with the selected epoch.
    pub test: Metrics,
    /// On the validation split, at the selected epoch; none where validation was trained on.
    pub validation: Option<Metrics>,
    /// Images of all splits that could not be read and were left out.
    #[serde(default)]
    pub skipped: usize,
    /// The selected epoch, from 1.
    pub best_epoch: usize,
    /// Epochs that ran.
    pub epochs: usize,
    /// Parameters.
    pub params: Params,
    /// Memory.
    pub memory: Memory,
    /// Time.
    pub time: Time,
    /// Speed of evaluation.
    pub inference: Inference,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Hash of everything that changes results.
    pub config_hash: String,
    /// The seed.
    pub seed: u64,
    /// The classes' names, in the order of the metrics.
    #[serde(default)]
    pub classes: Vec<String>,
    /// One entry an epoch, as in `metrics.jsonl`.
    #[serde(default)]
    pub history: Vec<EpochRecord>,
    /// The search that chose what was tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// The resolved experiment, as in `config.resolved.yaml`.
    #[serde(default)]
    pub config: Value,
    /// What it ran on, as in `env.json`.
    #[serde(default)]
    pub environment: Value,
}

/// The run is finished.
impl Settled for Summary {}

/// A trial of a comparison that cannot finish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// Its place.
    pub cell: Cell,
    /// The seed.
    pub seed: u64,
    /// The exit code that it would have had alone.
    pub exit: u8,
    /// What is wrong.
    pub error: String,
}

/// The place of a trial in a comparison: labels of the row and the column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// The method's label.
    pub method: String,
    /// The backbone's.
    pub backbone: String,
    /// The data set's.
    pub dataset: String,
    /// The group of data sets that it belongs to (natural, specialised, structured, ..).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What this method sets otherwise than the others, as YAML by dotted path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
}

/// How what was tuned was chosen, on validation only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// `grid`, `random` or `halving`.
    pub search: String,
    /// The seed of all candidates.
    pub seed: u64,
    /// All of them, in the order of the search.
    pub candidates: Vec<Candidate>,
    /// The best one, an index.
    pub chosen: usize,
    /// Seconds of all candidates.
    pub seconds: f64,
}

/// A choice that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// What it sets, as YAML by dotted path.
    pub set: BTreeMap<String, String>,
    /// Epochs that it ran.
    pub epochs: usize,
    /// Its best epoch, from 1, by validation.
    pub best_epoch: usize,
    /// On validation, at its best epoch; none if it failed.
    pub validation: Option<Metrics>,
    /// The metric of the comparison at that epoch.
    pub score: Option<f64>,
    /// Seconds of training and validating.
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// All that train, head included.
    pub trainable: usize,
    /// All, frozen ones included.
    pub total: usize,
    /// Of the adapters.
    pub adapter: usize,
    /// The backbone's own that train.
    pub tuned: usize,
    /// Of the head.
    pub head: usize,
    /// By the methods' formulas, without the head.
    pub formula: usize,
}

impl Params {
    /// From counts and formula.
    pub fn new(counts: Counts, formula: usize) -> Self {
        Self {
            trainable: counts.trainable,
            total: counts.total,
            adapter: counts.adapter,
            tuned: counts.tuned,
            head: counts.head,
            formula,
        }
    }
}

/// Memory of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Most bytes live at once while training, weights included and caches excluded; on CUDA the
    /// device's pool.
    pub peak_bytes: usize,
    /// What the cached prefix or images take in memory or on disk.
    #[serde(default)]
    pub cache_bytes: usize,
}

/// Time of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Mean seconds of a training epoch, validation excluded.
    pub seconds_per_epoch: f64,
    /// Seconds spent on filling the cache of the prefix or of the images; 0 if another trial had
    /// filled it.
    #[serde(default)]
    pub cache_seconds: f64,
    /// Seconds of everything, resumed parts included.
    pub total_seconds: f64,
}

/// Speed of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inference {
    /// Images per second on the test split, reading excluded.
    pub images_per_second: f64,
}
