//! One file a command.

mod bench;
mod doctor;
mod eval;
mod list;
mod predict;
mod schema;
mod show;
mod train;

pub use bench::bench;
pub use doctor::doctor;
pub use eval::eval;
pub use list::list;
pub use predict::predict;
pub use schema::schema;
pub use show::show;
pub use train::train;

use std::path::Path;

use peft_core::data::Dataset;
use peft_core::{Model, adapter_file};

use crate::cli::PlaceArgs;
use crate::device::{self, Chosen};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::experiment::Experiment;
use crate::folder::finished;
use crate::trial::Trial;

/// Runs `work` on a worker of rayon's pool: from outside it, every parallel operation wakes the
/// workers and waits for them.
fn on_pool<T: Send>(
    place: &PlaceArgs,
    work: impl FnOnce(Chosen) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let device = device::choose(place.device)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(place.threads)
        .build_global()
        .map_err(|e| failure(Exit::Unexpected, format_args!("threads: {e}")))?;
    let mut result = None;
    rayon::scope(|_| result = Some(work(device)));
    result.unwrap_or_else(|| Err(failure(Exit::Unexpected, "the work did not run")))
}

/// A finished run, loaded again.
struct Loaded {
    trial: Trial,
    model: Model,
}

/// Loads the model of a finished run.
fn load_run(run: &Path, device: &Chosen) -> Result<Loaded, Failure> {
    let at = |message: String| config_error(format_args!("{}: {message}", run.display()));
    let config = run.join("config.resolved.yaml");
    let text = std::fs::read_to_string(&config)
        .map_err(|e| at(format!("no run folder (config.resolved.yaml: {e})")))?;
    if finished(run).is_none() {
        return Err(at(
            "the run is not finished; run its command again to go on".into(),
        ));
    }
    let value = serde_yaml::from_str(&text).map_err(|e| at(e.to_string()))?;
    let experiment = Experiment::typed(value).map_err(at)?;
    let (trial, model) = Trial::open(experiment, device)?;
    let weights = trial.weights_hash.as_deref();
    let (model, _) = adapter_file::load(&run.join("adapter.safetensors"), model, weights)?;
    Ok(Loaded { trial, model })
}

/// The classes' names.
fn classes(dataset: &dyn Dataset) -> Vec<String> {
    dataset.classes().to_vec()
}
