//! `runner data`: what a data set holds, as numbers and as a picture, and how fast it is read.

mod check;
mod open;
mod sheet;
mod show;
mod time;

use clap::Subcommand;

use crate::exit::Failure;

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
