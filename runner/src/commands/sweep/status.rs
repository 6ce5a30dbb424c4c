//! `runner sweep status`: how far the trials of a manifest are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::args::Format;
use crate::compare::manifest;
use crate::compare::plan::{Plan, Task};
use crate::exit::{Exit, Failure, failure};
use crate::lock::is_locked;
use crate::run::CHECKPOINT;
use crate::run::folder::outcome;
use crate::run::summary::Outcome;

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

/// How far a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Done,
    Failed,
    /// A process works on it.
    Running,
    /// A checkpoint is there, from which it goes on.
    Interrupted,
    Waiting,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Done,
        Self::Failed,
        Self::Running,
        Self::Interrupted,
        Self::Waiting,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Waiting => "waiting",
        }
    }
}

pub fn state(sweep: &Path, task: &Task) -> State {
    let folder = sweep.join(&task.folder);
    if let Some(Outcome::Done(_)) = outcome(&folder) {
        return State::Done;
    }
    if is_locked(&folder) {
        return State::Running;
    }
    match outcome(&folder) {
        Some(_) => State::Failed,
        None if folder.join(CHECKPOINT).is_file() => State::Interrupted,
        None => State::Waiting,
    }
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
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Prints how far the trials are.
pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let StatusArgs { sweep, format } = args;
    let Plan { tasks, .. } = manifest::read(sweep)?;
    let mut states: BTreeMap<_, _> = State::ALL.map(|state| (state.name(), 0)).into();
    let mut notable = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let state = state(sweep, task);
        *states.entry(state.name()).or_default() += 1;
        if matches!(state, State::Done | State::Waiting) {
            continue;
        }
        let error = match outcome(&sweep.join(&task.folder)) {
            Some(Outcome::Failed(failed)) => Some(failed.error),
            _ => None,
        };
        notable.push(Notable {
            index,
            trial: task.title(),
            state,
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
            for (state, count) in State::ALL.map(|state| (state, &status.states[state.name()])) {
                println!("{:<12}{count:>6} of {}", state.name(), status.trials);
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
                println!("{index}  {}  {trial}{error}", state.name());
            }
        }
    }
    Ok(())
}
