//! `runner data`: where a data set comes from, what it holds, as numbers and as a picture, and how fast
//! it is read.

mod check;
mod fetch;
mod open;
mod sheet;
mod show;
mod time;

pub use check::{found, print};
use clap::Subcommand;

use crate::exit::Failure;

/// Fetch a data set, look at it, check it, or time how fast it is read.
#[derive(Subcommand)]
pub enum DataCommand {
    Fetch(fetch::FetchArgs),
    Check(check::CheckArgs),
    Show(show::ShowArgs),
    Time(time::TimeArgs),
}

/// Carries out a command about a data set.
pub fn data(command: &DataCommand) -> Result<(), Failure> {
    match command {
        DataCommand::Fetch(args) => fetch::fetch(args),
        DataCommand::Check(args) => check::check(args),
        DataCommand::Show(args) => show::show(args),
        DataCommand::Time(args) => time::time(args),
    }
}
