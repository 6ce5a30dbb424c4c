//! `runner sweep status`: how far the trials of a manifest are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::args::Format;
use crate::compare::manifest;
use crate::compare::plan::Plan;
use crate::compare::state::{State, Unfinished};
use crate::exit::{Exit, Failure, failure};

/// Print how far the trials are.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep status sweeps/quick")]
pub struct StatusArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// How far a sweep is.
#[derive(Serialize)]
struct Status {
    trials: usize,
    states: BTreeMap<&'static str, usize>,
    /// By index, those that are not done and not waiting.
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

/// Prints how far the trials are.
pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let StatusArgs { sweep, format } = args;
    let Plan { tasks, .. } = manifest::read(sweep)?;
    let mut states: BTreeMap<_, _> = State::NAMES.map(|name| (name, 0)).into();
    let mut notable = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let state = State::of(&sweep.join(&task.folder));
        *states.entry(state.name()).or_default() += 1;
        let name = state.name();
        let error = match state {
            State::Done(_) | State::Unfinished(Unfinished::Waiting) => continue,
            State::Failed(failed) => Some(failed.error),
            State::Unfinished(_) => None,
        };
        notable.push(Notable {
            index,
            trial: task.title(),
            state: name,
            error,
        });
    }
    let status = Status {
        trials: tasks.len(),
        states,
        notable,
    };
    match format {
        Format::Json => {
            let json = serde_json::to_string_pretty(&status);
            println!("{}", json.map_err(|e| failure(Exit::Unexpected, e))?);
        }
        Format::Text => {
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
                let error = error.unwrap_or_default();
                println!("{index}  {state}  {trial}{error}");
            }
        }
    }
    Ok(())
}
