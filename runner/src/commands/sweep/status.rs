//! `runner sweep status`: prints the state of the trials of a manifest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::args::Format;
use crate::commands::print::json;
use crate::compare::manifest;
use crate::compare::plan::Plan;
use crate::compare::state::{State, Unfinished};
use crate::exit::Failure;

/// Print how many trials are done, failed, running, interrupted or waiting.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep status sweeps/quick")]
pub struct StatusArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The number of trials in each state.
#[derive(Serialize)]
struct Status {
    trials: usize,
    states: BTreeMap<&'static str, usize>,
    /// The trials that failed, are running or were interrupted.
    notable: Vec<Notable>,
}

#[derive(Serialize)]
struct Notable {
    index: usize,
    trial: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints the state of the trials.
pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let Plan { tasks, .. } = manifest::read(&args.sweep)?;
    let mut status = Status {
        trials: tasks.len(),
        states: State::NAMES.map(|name| (name, 0)).into(),
        notable: Vec::new(),
    };
    for (index, task) in tasks.iter().enumerate() {
        let state = State::of(&args.sweep.join(&task.folder));
        let name = state.name();
        *status.states.entry(name).or_default() += 1;
        let error = match state {
            State::Done(_) | State::Unfinished(Unfinished::Waiting) => continue,
            State::Failed(failed) => Some(failed.error),
            State::Unfinished(_) => None,
        };
        status.notable.push(Notable {
            index,
            trial: task.title(),
            state: name,
            error,
        });
    }
    match args.format {
        Format::Json => json(&status)?,
        Format::Text => print(&status),
    }
    Ok(())
}

/// Prints the states for people on stdout.
fn print(status: &Status) {
    for name in State::NAMES {
        println!("{name:<12}{:>6} of {}", status.states[name], status.trials);
    }
    for Notable {
        index,
        trial,
        state,
        error,
    } in &status.notable
    {
        let error = error.as_ref().map(|error| format!(": {error}"));
        println!("{index}  {state}  {trial}{}", error.unwrap_or_default());
    }
}
