//! `runner sweep`: a comparison that is larger than a sitting. `plan` writes its trials down, any number
//! of processes `run` them, `status` and `collect` read what they left. Scheduling is left to job
//! schedulers, for which `script` prints a job array.

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
use crate::exit::{Failure, config_error};
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

/// Carries out a command about a sweep.
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

/// Writes the manifest.
fn plan_sweep(args: &PlanArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/, such as compare/quick.yaml",
        ));
    };
    let comparison = Comparison::read(config, &args.config.set)?;
    on_pool(&args.place, |device| {
        // Nothing is trained, so nothing is cached.
        let mut workshop = Workshop::new(&device, Path::new(""));
        let plan = plan(&comparison, &mut workshop)?;
        let path = manifest::write(&args.out, &plan)?;
        println!("{}: {} trials", path.display(), plan.tasks.len());
        Ok(())
    })
}

/// Build tables and report from what the trials left.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep collect sweeps/quick")]
pub struct CollectArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
}

/// Builds the report from the trials' summaries.
fn collect(args: &CollectArgs) -> Result<(), Failure> {
    let sweep = &args.sweep;
    let plan = manifest::read(sweep)?;
    let results = manifest::collect(sweep, plan);
    report(sweep, &results)?;
    verdict(&results)
}
