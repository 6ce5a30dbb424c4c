//! One file a command.

mod bench;
mod compare;
pub mod data;
mod doctor;
mod eval;
mod export;
mod features;
mod inspect;
mod list;
mod merge;
mod predict;
mod profile;
mod schema;
mod show;
mod sweep;
mod train;

pub use bench::bench;
pub use compare::compare;
pub use data::time::time;
pub use data::{check, show_data};
pub use doctor::doctor;
pub use eval::eval;
pub use export::export;
pub use features::features;
pub use inspect::inspect;
pub use list::list;
pub use merge::merge;
pub use predict::{Request, predict};
pub use profile::profile;
pub use schema::schema;
pub use show::show;
pub use sweep::{collect, plan_sweep, run_sweep, script, status};
pub use train::train;

use std::path::Path;

use peft_core::params::{self, ParamInfo};
use peft_core::{Model, adapter_file};

use crate::cli::{PlaceArgs, TrainedArgs};
use crate::config::experiment::Experiment;
use crate::data::held_out::{Data, Settled};
use crate::device::{self, Chosen};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::adapter::{ADAPTER, resolved};
use crate::model::base::Base;
use crate::model::trial::{Purpose, Trial};
use crate::run::folder::finished;

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

/// A trained model: a finished run, or an adapter on the backbone of a run or a config.
struct Loaded {
    trial: Trial,
    model: Model,
}

/// It is loaded to be used as it is.
impl Settled for Loaded {}

/// The experiment that `run` names: a finished run's, or a config's where an adapter or a head that
/// is there already takes the place of training.
fn experiment_of(run: &Path, adapted: bool) -> Result<Experiment, Failure> {
    let at = |message: &str| config_error(format_args!("{}: {message}", run.display()));
    let mut experiment = match (run.is_dir(), adapted) {
        (true, _) => resolved(run)?,
        (false, _) => Experiment::read(&run.to_string_lossy(), &[])?,
    };
    if !run.is_dir() && !adapted && experiment.head.is_new() {
        return Err(at(
            "no such run folder; a config needs an --adapter, or a head that is there without \
             training: text, or linear from the checkpoint",
        ));
    }
    if run.is_dir() && !adapted && finished(run).is_none() {
        return Err(at(
            "the run is not finished; run its command again to go on",
        ));
    }
    // What it started from is in what it trained.
    experiment.adapter = None;
    Ok(experiment)
}

/// Loads what `which` names.
fn load(which: &TrainedArgs, device: &Chosen) -> Result<Loaded, Failure> {
    let mut experiment = experiment_of(&which.run, which.adapter.is_some())?;
    experiment.adapter.clone_from(&which.adapter);
    let base = Base::open(experiment.backbone.clone(), experiment.seed, device)?;
    let data = Data::open(&*experiment.dataset, experiment.on_error)?;
    let (trial, model) = Trial::on(&base, data, experiment, Purpose::Use, device)?;
    eprintln!("input: {}", trial.input);
    let model = filled(&trial, model, &which.run, which.scale)?;
    Ok(Loaded { trial, model })
}

/// The model with its trained values, between the frozen backbone (0) and these (1).
fn filled(trial: &Trial, model: Model, run: &Path, scale: Option<f64>) -> Result<Model, Failure> {
    let of_backbone = |info: &ParamInfo| info.name.starts_with("backbone.");
    let frozen = params::read(&model, |info| model.saved(info) && of_backbone(info));
    let model = match &trial.adapter {
        Some(_) => trial.started(model)?,
        None if !run.is_dir() => model,
        None => {
            let weights = trial.weights_hash();
            adapter_file::load(&run.join(ADAPTER), model, weights)?.0
        }
    };
    match scale {
        Some(scale) => Ok(model.scaled(scale, &frozen)?),
        None => Ok(model),
    }
}
