//! The commands, one file or folder for each: its arguments, its code, what it prints.

pub mod bench;
pub mod compare;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod features;
pub mod inspect;
pub mod list;
pub mod merge;
pub mod predict;
mod print;
pub mod profile;
pub mod schema;
pub mod show;
pub mod study;
pub mod sweep;
pub mod train;

use std::path::{Path, PathBuf};

use crate::cli::args::{ConfigArgs, PlaceArgs, TrainedArgs};
use crate::config::experiment::Experiment;
use crate::device::{self, ComputeDevice};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::assembled::{Assembled, Source};
use crate::model::trial::Trial;
use crate::pool::on_worker;

/// Fails where nothing is asked for: `flag` was given as 0.
fn at_least_one(flag: &str, given: usize) -> Result<(), Failure> {
    if given == 0 {
        return Err(config_error(format_args!(
            "{flag}: expected at least 1, got 0"
        )));
    }
    Ok(())
}

/// The experiment that the command line names.
fn experiment(args: &ConfigArgs) -> Result<Experiment, Failure> {
    Experiment::read(&args.config, &args.set)
}

/// The names of a trial's methods, as in `lora+bias`.
fn methods(trial: &Trial) -> String {
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    methods.join("+")
}

/// The folder of the prefix cache's files: the one that was asked for, or `.cache` in the folder of
/// the results.
fn cache_folder(asked: Option<&Path>, results: &Path) -> PathBuf {
    asked.map_or_else(|| results.join(".cache"), Path::to_owned)
}

/// Chooses the device and the number of threads, and runs `work` on one of these.
fn on_pool<T: Send>(
    place: &PlaceArgs,
    work: impl FnOnce(ComputeDevice) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let device = device::choose(place.device)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(place.threads)
        .build_global()
        .map_err(|e| failure(Exit::Unexpected, format_args!("threads: {e}")))?;
    on_worker(|| work(device))
}

/// The model that `which` names, its source, and what people should know printed to stderr.
fn assemble(which: &TrainedArgs, device: &ComputeDevice) -> Result<(Source, Assembled), Failure> {
    let source = Source::open(&which.run, which.adapter.is_some(), device)?;
    let model = source.assemble(which.adapter.as_deref(), which.scale)?;
    remark(&model);
    Ok((source, model))
}

/// Prints the images that a model takes, and what its user should know.
fn remark(model: &Assembled) {
    eprintln!("input: {}", model.input);
    for remark in &model.remarks {
        eprintln!("{remark}");
    }
}
