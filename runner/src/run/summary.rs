//! `summary.json`: the report of a run for programs. It needs no other file: reports of comparisons
//! are made from summaries alone.

use std::collections::BTreeMap;

use peft_core::Counts;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::compare::search::Retrain;
use crate::data::held_out::Settled;
use crate::train::checkpoint::EpochRecord;
use crate::train::metrics::{Metric, Metrics};

/// The end of a run. The file is written last, so that its presence means that the run has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Outcome {
    /// It finished.
    Done(Box<Summary>),
    /// It failed permanently; only trials of a comparison are marked so.
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
    /// The metric that chose the epoch and is reported.
    #[serde(default)]
    pub metric: Metric,
    /// Metrics on the test split, read once, with the selected epoch.
    pub test: Metrics,
    /// Metrics on the validation split at the selected epoch; none if the run trained on it.
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
    /// The speed of evaluation.
    pub inference: Inference,
    /// `cpu`, or kind and index such as `cuda:0`.
    pub device: String,
    /// Whether the device trained without a comparison with the CPU, because its user vouched for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device_vouched: bool,
    /// Whether the backbone's values were drawn from the seed, so that it is not a pretrained one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub random_weights: bool,
    /// Hash of everything that changes results.
    pub config_hash: String,
    /// The seed.
    pub seed: u64,
    /// The classes' names, in the order of the metrics.
    #[serde(default)]
    pub classes: Vec<String>,
    /// One entry per epoch, as in `metrics.jsonl`.
    #[serde(default)]
    pub history: Vec<EpochRecord>,
    /// The search that chose the tuned settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// The resolved experiment, as in `config.resolved.yaml`.
    #[serde(default)]
    pub config: Value,
    /// The environment, as in `env.json`.
    #[serde(default)]
    pub environment: Value,
}

/// The run is finished.
impl Settled for Summary {}

/// A trial of a comparison that cannot finish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// Its place in the comparison.
    pub cell: Cell,
    /// The seed.
    pub seed: u64,
    /// The exit code that it would have ended with on its own.
    pub exit: u8,
    /// The message of the error.
    pub error: String,
}

/// The place of a trial in a comparison: the labels of its row and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cell {
    /// The method's label.
    pub method: String,
    /// The backbone's label.
    pub backbone: String,
    /// The data set's label.
    pub dataset: String,
    /// The group of data sets that it belongs to (natural, specialised, structured, ..).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The settings in which this method differs from the others, as YAML by dotted path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overrides: BTreeMap<String, String>,
}

/// The search that chose the tuned settings, on validation images only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// `grid`, `random` or `halving`.
    pub search: String,
    /// The images of the trial after the search.
    #[serde(default)]
    pub retrain: Retrain,
    /// The seed of all candidates.
    pub seed: u64,
    /// All candidates, in the order of the search.
    pub candidates: Vec<Candidate>,
    /// The index of the best candidate.
    pub chosen: usize,
    /// Seconds that all candidates took together.
    pub seconds: f64,
}

/// A candidate of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The settings, as YAML by dotted path.
    pub set: BTreeMap<String, String>,
    /// Epochs that it ran.
    pub epochs: usize,
    /// Its best epoch, from 1, by validation.
    pub best_epoch: usize,
    /// Metrics on validation at its best epoch; none if it failed.
    pub validation: Option<Metrics>,
    /// The metric of the comparison at that epoch.
    pub score: Option<f64>,
    /// Seconds of training and validating.
    pub seconds: f64,
    /// The reason why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Parameters of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Parameters that train, the head's included.
    pub trainable: usize,
    /// All parameters, frozen ones included.
    pub total: usize,
    /// Parameters in the adapters.
    pub adapter: usize,
    /// The backbone's own parameters that train.
    pub tuned: usize,
    /// Parameters in the head.
    pub head: usize,
    /// Trainable parameters by the methods' formulas, without the head.
    pub formula: usize,
}

impl Params {
    /// The parameters of a model, beside the formula's count.
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
    /// The most bytes in use at once while training, weights included and caches excluded; on CUDA the
    /// size of the device's pool.
    pub peak_bytes: usize,
    /// Bytes of the cached prefix or images, in memory or on disk.
    #[serde(default)]
    pub cache_bytes: usize,
}

/// Time of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Mean seconds of a training epoch, validation excluded. The first epoch warms up and is left out,
    /// unless it is the only one.
    pub seconds_per_epoch: f64,
    /// The epochs that the mean is over; 0 if the only epoch, warm-up included, is all there is.
    #[serde(default)]
    pub timed_epochs: usize,
    /// Seconds spent on filling the cache of the prefix or of the images; 0 if another trial had
    /// filled it.
    #[serde(default)]
    pub cache_seconds: f64,
    /// Seconds of everything, resumed parts included.
    pub total_seconds: f64,
}

impl Time {
    /// The times of a run whose epochs took `epochs` seconds each.
    pub fn of(epochs: &[f64], cache_seconds: f64, total_seconds: f64) -> Self {
        // Kernels are compiled and tuned, memory is requested and files are read for the first time in
        // the first epoch, on a CPU as on a GPU.
        let timed = epochs.get(1..).unwrap_or_default();
        let mean = |seconds: &[f64]| seconds.iter().sum::<f64>() / seconds.len().max(1) as f64;
        Self {
            seconds_per_epoch: mean(if timed.is_empty() { epochs } else { timed }),
            timed_epochs: timed.len(),
            cache_seconds,
            total_seconds,
        }
    }

    /// Says which epochs the mean is over.
    pub fn timed(&self) -> String {
        match self.timed_epochs {
            0 => "warm-up included".to_owned(),
            1 => "the epoch after the first".to_owned(),
            count => format!("mean of the {count} epochs after the first"),
        }
    }
}

/// Speed of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inference {
    /// Images per second on the test split, reading excluded.
    pub images_per_second: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_epoch_is_not_timed_unless_it_is_the_only_one() {
        let time = |epochs: &[f64]| Time::of(epochs, 0.0, 9.0);
        let three = time(&[9.0, 1.0, 2.0]);
        assert_eq!((three.seconds_per_epoch, three.timed_epochs), (1.5, 2));
        assert_eq!(three.timed(), "mean of the 2 epochs after the first");
        let one = time(&[9.0]);
        assert_eq!((one.seconds_per_epoch, one.timed_epochs), (9.0, 0));
        assert_eq!(one.timed(), "warm-up included");
    }
}
