//! `runner sweep`: runs a comparison that is too large for one process. `plan` writes its trials to
//! a file, any number of processes `run` them, and `status` and `collect` read the results.
//! Scheduling is left to job schedulers, for which `script` prints a job array.

mod run;
mod script;
mod status;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::args::{ConfigArgs, PlaceArgs};
use crate::commands::compare::{report, verdict};
use crate::commands::on_pool;
use crate::compare::config::Comparison;
use crate::compare::manifest;
use crate::compare::plan::plan;
use crate::exit::Failure;
use crate::model::workshop::Workshop;

/// Run a comparison in many processes, on one machine or on many.
#[derive(Subcommand)]
pub enum SweepCommand {
    Plan(PlanArgs),
    Run(run::RunArgs),
    Status(status::StatusArgs),
    Collect(CollectArgs),
    Script(script::ScriptArgs),
}

/// Runs a command about a sweep.
pub fn sweep(command: &SweepCommand) -> Result<(), Failure> {
    match command {
        SweepCommand::Plan(args) => plan_sweep(args),
        SweepCommand::Run(args) => run::run(args),
        SweepCommand::Status(args) => status::status(args),
        SweepCommand::Collect(args) => collect(args),
        SweepCommand::Script(args) => script::script(args),
    }
}

/// Write the trials of a comparison into a manifest, which never changes.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep plan --config compare/quick.yaml --out sweeps/quick")]
pub struct PlanArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The folder of the sweep.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Writes the manifest. Data sets and weights are opened for that, so that the plan is known to
/// work.
fn plan_sweep(args: &PlanArgs) -> Result<(), Failure> {
    let comparison = Comparison::read(&args.config.config, &args.config.set)?;
    on_pool(&args.place, |device| {
        // Nothing is trained, so the folder of the cache is never used.
        let mut workshop = Workshop::new(&device, Path::new("")).for_others();
        let plan = plan(&comparison, &mut workshop)?;
        let path = manifest::write(&args.out, &plan)?;
        println!("{}: {} trials", path.display(), plan.tasks.len());
        Ok(())
    })
}

/// Build tables and a report from the trials that are done.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep collect sweeps/quick")]
pub struct CollectArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
}

/// Builds the report from the summaries of the trials, with a line about trials that have none yet.
fn collect(args: &CollectArgs) -> Result<(), Failure> {
    let sweep = &args.sweep;
    let plan = manifest::read(sweep)?;
    let results = manifest::collect(sweep, plan);
    report(sweep, &results)?;
    verdict(&results)
}
