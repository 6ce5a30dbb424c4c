//! The state of a trial, by what is in its folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::lock::is_locked;
use crate::run::CHECKPOINT;
use crate::run::folder::outcome;
use crate::run::summary::{Failed, Outcome, Summary};

/// The state of a trial.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It finished.
    Done(Box<Summary>),
    /// It failed. Running the comparison again tries it again.
    Failed(Failed),
    /// It has no result yet.
    Unfinished(Unfinished),
}

/// The reason why a trial has no result yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unfinished {
    /// A process works on it now.
    Running,
    /// A process began it and stopped; the next one goes on from the checkpoint.
    Interrupted,
    /// No process has begun it.
    #[default]
    Waiting,
}

impl State {
    /// Returns the state of the trial in `folder`. A folder that does not exist belongs to a trial
    /// that waits.
    pub fn of(folder: &Path) -> Self {
        let before = match outcome(folder) {
            Some(Outcome::Done(summary)) => return Self::Done(summary),
            Some(Outcome::Failed(failed)) => Some(failed),
            None => None,
        };
        // The lock tells more than an old failure: the trial is being tried again.
        if is_locked(folder) {
            return Self::Unfinished(Unfinished::Running);
        }
        // A process that just released the lock may have finished the trial since the first look.
        match (outcome(folder), before) {
            (Some(Outcome::Done(summary)), _) => Self::Done(summary),
            (Some(Outcome::Failed(failed)), _) | (None, Some(failed)) => Self::Failed(failed),
            (None, None) if folder.join(CHECKPOINT).is_file() => {
                Self::Unfinished(Unfinished::Interrupted)
            }
            (None, None) => Self::Unfinished(Unfinished::Waiting),
        }
    }

    /// The names of all states, in the order in which `runner sweep status` lists them.
    pub const NAMES: [&str; 5] = ["done", "failed", "running", "interrupted", "waiting"];

    /// Returns its name in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
            Self::Unfinished(unfinished) => unfinished.name(),
        }
    }
}

impl Unfinished {
    /// All of them, in the order in which reports list them.
    pub const ALL: [Self; 3] = [Self::Running, Self::Interrupted, Self::Waiting];

    /// Returns its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Waiting => "waiting",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::lock::LOCK;
    use crate::run::summary::Cell;

    #[test]
    fn a_running_trial_differs_from_one_that_has_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let state = || State::of(folder.path());
        assert_eq!(state(), State::Unfinished(Unfinished::Waiting));
        assert_eq!(
            State::of(&folder.path().join("missing")),
            State::Unfinished(Unfinished::Waiting)
        );
        let lock = File::create(folder.path().join(LOCK)).unwrap();
        lock.lock().unwrap();
        assert_eq!(state(), State::Unfinished(Unfinished::Running));
        // A failed trial that is tried again runs.
        let failed = Failed {
            cell: Cell {
                method: "ap".to_owned(),
                backbone: "vit".to_owned(),
                dataset: "digits".to_owned(),
                group: None,
                overrides: Default::default(),
            },
            seed: 0,
            exit: 3,
            error: "the loss is not finite".to_owned(),
        };
        let json = serde_json::to_string(&Outcome::Failed(failed.clone())).unwrap();
        std::fs::write(folder.path().join("summary.json"), json).unwrap();
        assert_eq!(state(), State::Unfinished(Unfinished::Running));
        lock.unlock().unwrap();
        assert_eq!(state(), State::Failed(failed));
    }

    #[test]
    fn a_checkpoint_without_a_process_is_an_interruption() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = folder.path().join(CHECKPOINT);
        std::fs::create_dir(checkpoint.parent().unwrap()).unwrap();
        std::fs::write(checkpoint, "").unwrap();
        let expected = State::Unfinished(Unfinished::Interrupted);
        assert_eq!(State::of(folder.path()), expected);
    }
}
