//! The commands, one file or folder for each: its arguments, its code, what it prints.

pub mod bench;
pub mod compare;
pub mod completions;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod export;
pub mod features;
pub mod init;
pub mod inspect;
pub mod list;
pub mod manual;
pub mod merge;
pub mod predict;
mod print;
pub mod profile;
pub mod schema;
pub mod show;
pub mod study;
pub mod sweep;
pub mod train;

use crate::cli::args::{ConfigArgs, PlaceArgs, TrainedArgs};
use crate::config::experiment::Experiment;
use crate::device::{self, ComputeDevice};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::assembled::{Assembled, Source};
use crate::model::trial::Trial;
use crate::pool::on_worker;

/// Fails if `flag` was given as 0, which asks for nothing.
fn at_least_one(flag: &str, given: usize) -> Result<(), Failure> {
    if given == 0 {
        return Err(config_error(format_args!(
            "{flag}: expected at least 1, got 0"
        )));
    }
    Ok(())
}

/// Reads the experiment that the command line names.
fn experiment(args: &ConfigArgs) -> Result<Experiment, Failure> {
    Experiment::read(&args.config, &args.set)
}

/// Returns the names of the methods of a trial, as in `lora+bias`.
fn methods(trial: &Trial) -> String {
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    methods.join("+")
}

/// Chooses the device and the number of threads, and runs `work` on one of the threads.
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

/// Assembles the model that `which` names. Returns it with its source, and prints remarks about it
/// to stderr.
fn assemble(which: &TrainedArgs, device: &ComputeDevice) -> Result<(Source, Assembled), Failure> {
    let source = Source::open(&which.run, which.adapter.is_some(), device)?;
    let model = source.assemble(which.adapter.as_deref(), which.scale)?;
    remark(&model);
    Ok((source, model))
}

/// Prints which images a model takes, and remarks for its user.
fn remark(model: &Assembled) {
    eprintln!("input: {}", model.input);
    for remark in &model.remarks {
        eprintln!("{remark}");
    }
}
