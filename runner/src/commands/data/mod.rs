//! `runner data`: what a data set holds, as numbers and as a picture, and how fast it is read.

mod check;
mod sheet;
mod show;
mod time;

use clap::Subcommand;
use peft_core::DatasetConfig;

use crate::cli::args::DatasetArgs;
use crate::config::about::About;
use crate::config::experiment::Experiment;
use crate::exit::{Failure, config_error};

/// Look at a data set, check it, or time how fast it is read.
#[derive(Subcommand)]
pub enum DataCommand {
    Check(check::CheckArgs),
    Show(show::ShowArgs),
    Time(time::TimeArgs),
}

/// Carries out a command about a data set.
pub fn data(command: &DataCommand) -> Result<(), Failure> {
    match command {
        DataCommand::Check(args) => check::check(args),
        DataCommand::Show(args) => show::show(args),
        DataCommand::Time(args) => time::time(args),
    }
}

/// The configuration that the command line names, and what is known about the data set.
fn read(which: &DatasetArgs) -> Result<(Box<dyn DatasetConfig>, Option<About>), Failure> {
    let root = which
        .root
        .iter()
        .map(|root| format!("dataset.root={}", root.display()));
    let overrides: Vec<_> = which.set.iter().cloned().chain(root).collect();
    Experiment::read_dataset(&which.dataset, &overrides)
}

/// The error of a data set that cannot be opened, with the files that are expected and where they come
/// from.
fn unopened(error: &peft_core::Error, about: Option<&About>) -> Failure {
    let known = about.map(|about| {
        let About {
            title,
            layout,
            source,
            terms,
            ..
        } = about;
        format!("\n{title} on disk:\n{layout}\nsource: {source}\nterms: {terms}")
    });
    config_error(format!("dataset: {error}{}", known.unwrap_or_default()))
}
