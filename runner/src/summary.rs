//! `summary.json`: what a run reports.

use peft_core::Counts;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// The report of a finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// `done`; the file is written last, so that its presence means it.
    pub status: String,
    /// The experiment's name.
    pub experiment: String,
    /// The folder's name.
    pub trial: String,
    /// The methods' names.
    pub methods: Vec<String>,
    /// On the test split, once, with the selected epoch.
    pub test: Metrics,
    /// On the validation split, at the selected epoch.
    pub validation: Metrics,
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
    /// Most bytes live at once while training, weights included; on CUDA the device's pool.
    pub peak_bytes: usize,
}

/// Time of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Mean seconds of a training epoch, validation excluded.
    pub seconds_per_epoch: f64,
    /// Seconds of everything, resumed parts included.
    pub total_seconds: f64,
}

/// Speed of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inference {
    /// Images per second on the test split, reading excluded.
    pub images_per_second: f64,
}
