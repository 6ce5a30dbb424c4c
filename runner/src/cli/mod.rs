//! The command line: which commands there are. Each command's arguments lie next to its code.

pub mod args;

use clap::{Parser, Subcommand};

use crate::commands::bench::{self, BenchArgs};
use crate::commands::compare::{self, CompareArgs};
use crate::commands::data::{self, DataCommand};
use crate::commands::doctor::{self, DoctorArgs};
use crate::commands::eval::{self, EvalArgs};
use crate::commands::export::{self, ExportArgs};
use crate::commands::features::{self, FeaturesArgs};
use crate::commands::inspect::{self, InspectArgs};
use crate::commands::list::{self, ListArgs};
use crate::commands::merge::{self, MergeArgs};
use crate::commands::predict::{self, PredictArgs};
use crate::commands::profile::{self, ProfileArgs};
use crate::commands::schema::{self, SchemaArgs};
use crate::commands::show::{self, ShowArgs};
use crate::commands::sweep::{self, SweepCommand};
use crate::commands::train::{self, TrainArgs};
use crate::exit::Failure;

/// Parameter-efficient fine-tuning of vision models: a YAML in, an adapted model and its measured
/// run out.
#[derive(Parser)]
#[command(name = "runner", version, arg_required_else_help = true)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Subcommand)]
enum Command {
    Train(TrainArgs),
    Compare(CompareArgs),
    #[command(subcommand)]
    Sweep(SweepCommand),
    List(ListArgs),
    Inspect(InspectArgs),
    Show(ShowArgs),
    Eval(EvalArgs),
    Merge(MergeArgs),
    Export(ExportArgs),
    Predict(PredictArgs),
    Features(FeaturesArgs),
    Schema(SchemaArgs),
    Doctor(DoctorArgs),
    #[command(subcommand)]
    Data(DataCommand),
    Bench(BenchArgs),
    Profile(ProfileArgs),
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// If the command fails.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            None => train::train(&self.train),
            Some(Command::Train(args)) => train::train(args),
            Some(Command::Compare(args)) => compare::compare(args),
            Some(Command::Sweep(command)) => sweep::sweep(command),
            Some(Command::List(args)) => list::list(args),
            Some(Command::Inspect(args)) => inspect::inspect(args),
            Some(Command::Show(args)) => show::show(args),
            Some(Command::Eval(args)) => eval::eval(args),
            Some(Command::Merge(args)) => merge::merge(args),
            Some(Command::Export(args)) => export::export(args),
            Some(Command::Predict(args)) => predict::predict(args),
            Some(Command::Features(args)) => features::features(args),
            Some(Command::Schema(args)) => schema::schema(args),
            Some(Command::Doctor(args)) => doctor::doctor(args),
            Some(Command::Data(command)) => data::data(command),
            Some(Command::Bench(args)) => bench::bench(args),
            Some(Command::Profile(args)) => profile::profile(args),
        }
    }
}
