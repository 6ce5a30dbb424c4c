//! The state of an unfinished run. It is one file, written atomically, from which training resumes
//! to the bit.
//!
//! It holds what trains and its moving average, the optimiser's state, the best epoch's values, and the progress. Step
//! and epoch determine all random numbers, so no generator needs saving.

use std::collections::HashMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::TensorData;
use peft_core::checkpoint::Checkpoint;
use peft_core::data::Split;
use peft_core::params::{self, Tensors};
use peft_core::weights;
use peft_core::{Error, Model, adapter_file};
use serde::{Deserialize, Serialize};

use crate::train::average::Averaged;
use crate::train::metrics::Metrics;
use crate::train::optimizers::Optimizers;
use crate::train::slot::Slot;

/// The progress of a run, and its history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Hash of the experiment it belongs to.
    pub config_hash: String,
    /// Epochs that are complete.
    pub epoch: usize,
    /// Batches of the current epoch that are done.
    pub batch: usize,
    /// Optimiser steps since the start.
    pub step: u64,
    /// Sum of the batch losses of the current epoch, weighted by images.
    pub loss_sum: f64,
    /// Images of the current epoch that are done.
    pub images: usize,
    /// Seconds of the current epoch.
    pub epoch_seconds: f64,
    /// Seconds since the start, interruptions excluded.
    pub total_seconds: f64,
    /// The most bytes in use at once in earlier parts of an interrupted run.
    pub peak_bytes: usize,
    /// Images that could not be read, and why.
    #[serde(default)]
    pub left_out: Vec<(Split, usize, String)>,
    /// One entry per epoch.
    pub history: Vec<EpochRecord>,
    /// Index into `history` of the best epoch so far.
    pub best: Option<usize>,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// The epoch, from 1.
    pub epoch: usize,
    /// Optimiser steps at its end.
    pub step: u64,
    /// Mean training loss, with label smoothing.
    pub train_loss: f64,
    /// Metrics on validation; none if the run trains on it.
    pub validation: Option<Metrics>,
    /// The value of the metric that chooses the epoch, on validation.
    #[serde(default)]
    pub score: Option<f64>,
    /// The learning rate of its last step.
    pub lr: f64,
    /// Seconds of training, validation excluded.
    pub seconds: f64,
}

impl EpochRecord {
    /// Whether this epoch is better than another on validation: its score is higher, or equal with a
    /// lower loss.
    pub fn beats(&self, other: &Self) -> bool {
        let rank = |record: &Self| {
            let loss = record.validation.as_ref().map_or(f64::INFINITY, |v| v.loss);
            (record.score.unwrap_or(f64::NEG_INFINITY), loss)
        };
        let ((new, new_loss), (old, old_loss)) = (rank(self), rank(other));
        new > old || (new == old && new_loss < old_loss)
    }
}

/// A training state in memory.
pub struct State {
    /// The model, on the autodiff device.
    pub model: Slot<Model>,
    /// The model with the moving average of what trains, if the recipe asks for one.
    pub average: Option<Averaged>,
    /// The optimiser.
    pub optimizer: Optimizers,
    /// Its progress.
    pub progress: Progress,
    /// Masks of the entries that train, by parameter, once a method has selected them.
    pub selected: Option<Tensors>,
    /// The trained values at the best epoch.
    pub best: Option<Tensors>,
}

impl State {
    /// The model that is validated, tested and saved, on the plain device: the average if there is one.
    pub fn judged(&self) -> Model {
        match &self.average {
            Some(average) => average.model().clone(),
            None => self.model.valid(),
        }
    }
}

const FORMAT: &str = "peft-checkpoint/1";
/// The state of the optimiser, and of the second one of parameters without weight decay.
const OPTIMIZERS: [&str; 2] = ["optimizer", "optimizer_spared"];

/// Writes the checkpoint.
///
/// # Errors
/// An error with the path. If the disk is full, the old checkpoint stays as it was.
pub fn save(path: &Path, state: &State) -> Result<(), Error> {
    let fail = |e: String| Error::file(path, e);
    let optimizers = state.optimizer.to_bytes().map_err(fail)?;
    let prefixed = |prefix: &'static str, tensors: Tensors| {
        let rename = move |(name, data)| (format!("{prefix}.{name}"), data);
        tensors.into_iter().map(rename)
    };
    let mut tensors: Tensors = prefixed("now", adapter_file::tensors(&state.model)).collect();
    if let Some(average) = &state.average {
        tensors.extend(prefixed("average", adapter_file::tensors(average.model())));
    }
    tensors.extend(prefixed(
        "selected",
        state.selected.clone().unwrap_or_default(),
    ));
    tensors.extend(prefixed("best", state.best.clone().unwrap_or_default()));
    // One file instead of three: a crash cannot leave an optimiser of one step beside the weights
    // of another.
    for (name, bytes) in OPTIMIZERS.into_iter().zip(optimizers) {
        let length = bytes.len();
        tensors.insert(name.to_owned(), TensorData::new(bytes, [length]));
    }
    let progress = serde_json::to_string(&state.progress).map_err(|e| fail(e.to_string()))?;
    let metadata = HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("progress".to_owned(), progress),
    ]);
    weights::write(path, &tensors, metadata)
}

/// Resumes from a checkpoint.
///
/// # Errors
/// If the file is not complete, or belongs to another experiment or model.
pub fn load(path: &Path, mut state: State, config_hash: &str) -> Result<State, Error> {
    let file = Checkpoint::open(path)?;
    let metadata = file.metadata();
    let fail = |message: &str| Error::file(path, message);
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(fail("expected a checkpoint of this program"));
    }
    let progress: Progress = metadata
        .get("progress")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| fail("expected the progress in the metadata"))?;
    // The folder of a run is named after this hash, so a mismatch means that files were moved or
    // changed. Going on would mix two experiments.
    if progress.config_hash != config_hash {
        return Err(fail("the checkpoint belongs to another configuration"));
    }
    let [mut now, mut average, mut selected, mut best]: [Tensors; 4] = Default::default();
    let mut optimizers = [const { None }; 2];
    for (name, data) in file.tensors()? {
        if let Some(name) = name.strip_prefix("now.") {
            now.insert(name.to_owned(), data);
        } else if let Some(name) = name.strip_prefix("average.") {
            average.insert(name.to_owned(), data);
        } else if let Some(name) = name.strip_prefix("selected.") {
            selected.insert(name.to_owned(), data);
        } else if let Some(name) = name.strip_prefix("best.") {
            best.insert(name.to_owned(), data);
        } else if let Some(part) = OPTIMIZERS.iter().position(|known| *known == name) {
            optimizers[part] = Some(data.iter::<u8>().collect::<Vec<u8>>());
        }
    }
    let written = |model, tensors| {
        params::write(model, tensors)
            .map_err(|mismatch| fail(&format!("it does not fit the model: {mismatch:?}")))
    };
    state.model.try_update(|model| written(model, now))?;
    if let Some(averaged) = &mut state.average {
        averaged.try_update(|model| written(model, average))?;
    }
    let parts = optimizers.into_iter().flatten().collect();
    let optimizer = state.optimizer.with_bytes(parts);
    Ok(State {
        model: state.model,
        average: state.average,
        optimizer: optimizer.map_err(|e| fail(&format!("the optimiser's state: {e}")))?,
        selected: (!selected.is_empty()).then_some(selected),
        // With `select: last` there are no best values in the file, but the best epoch is known.
        best: progress.best.map(|_| best),
        progress,
    })
}
