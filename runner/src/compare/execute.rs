//! Carries out the trials of a comparison: what is done is skipped, what was interrupted goes on, and a
//! trial that fails is written down while the rest go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::files::write_atomically;

use super::plan::{Task, candidate, id, retrained};
use super::tune;
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::lock::lock;
use crate::model::workshop::Workshop;
use crate::run::folder::{RunFolder, outcome};
use crate::run::progress::Reporter;
use crate::run::summary::{Failed, Outcome, Tuning};
use crate::run::{Part, run};

/// Carries out trials, one after the other.
pub struct Executor<'a> {
    /// The folder of the comparison.
    pub root: &'a Path,
    /// What the trials share.
    pub workshop: Workshop<'a>,
    /// Set by a signal.
    pub interrupt: Arc<AtomicBool>,
}

/// What became of a trial.
pub enum Ended {
    /// Its summary is written, now or earlier.
    With(Box<Outcome>),
    /// Another process works on it.
    Elsewhere,
}

impl Executor<'_> {
    /// Carries out a trial, if it is not done.
    ///
    /// # Errors
    /// [`Exit::Interrupted`], or a disk to which not even the failure can be written.
    pub fn execute(&mut self, task: &Task) -> Result<Ended, Failure> {
        let folder = self.root.join(&task.folder);
        if let Some(done) = done(&folder, task) {
            return Ok(Ended::With(Box::new(done)));
        }
        let attempt = AssertUnwindSafe(|| self.attempt(task, &folder));
        let failed = match catch_unwind(attempt) {
            Ok(Ok(ended)) => return Ok(ended),
            Ok(Err(failed)) if failed.exit == Exit::Interrupted => return Err(failed),
            Ok(Err(failed)) => failed,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                failure(Exit::Unexpected, text.unwrap_or("a panic"))
            }
        };
        write_failed(&folder, task, failed.exit, &format!("{:#}", failed.error))
    }

    fn attempt(&mut self, task: &Task, folder: &Path) -> Result<Ended, Failure> {
        let base = task.experiment()?;
        let tuning = match &task.tuned {
            None => None,
            Some(tuned) => Some(tune::tune(self, tuned, &base)?),
        };
        let experiment = match &tuning {
            None => base.clone(),
            Some(tuning) => chosen(&base, tuning, task.seed)?,
        };
        let (trial, model) = self.workshop.open(experiment)?;
        if id(&trial.hash_of(base)?, task.tuned.as_ref()) != task.id {
            let message = "the weights or the data are not those that were planned with";
            return Err(config_error(message));
        }
        let device = self.workshop.device();
        let folder = folder.to_owned();
        let Some(folder) = RunFolder::try_open(folder, &trial.experiment, &device.name)? else {
            return Ok(Ended::Elsewhere);
        };
        // Another process may have done it since it was looked at.
        if let Some(done) = done(folder.path(), task) {
            return Ok(Ended::With(Box::new(done)));
        }
        let part = Part {
            caches: self.workshop.caches(),
            interrupt: self.interrupt.clone(),
            cell: Some(task.cell.clone()),
            tuning,
            reporter: Reporter::to_log(&folder.file("log.txt")),
        };
        let summary = run(&trial, model, &folder, device, part)?;
        Ok(Ended::With(Box::new(Outcome::Done(Box::new(summary)))))
    }

    /// The device of all trials.
    pub fn device(&self) -> &Chosen {
        self.workshop.device()
    }
}

/// Writes down why a trial failed, unless another process works on it or has done it.
///
/// # Errors
/// If it cannot be written.
pub fn write_failed(folder: &Path, task: &Task, exit: Exit, error: &str) -> Result<Ended, Failure> {
    fs_err::create_dir_all(folder)?;
    let Some(_lock) = lock(folder)? else {
        return Ok(Ended::Elsewhere);
    };
    if let Some(done) = done(folder, task) {
        return Ok(Ended::With(Box::new(done)));
    }
    let failed = Outcome::Failed(Failed {
        cell: task.cell.clone(),
        seed: task.seed,
        exit: exit as u8,
        error: error.to_owned(),
    });
    let json = serde_json::to_string_pretty(&failed);
    let json = json.map_err(|e| failure(Exit::Unexpected, e))?;
    write_atomically(&folder.join("summary.json"), format!("{json}\n").as_bytes())?;
    Ok(Ended::With(Box::new(failed)))
}

/// The experiment that a search chose.
fn chosen(
    base: &crate::config::experiment::Experiment,
    tuning: &Tuning,
    seed: u64,
) -> Result<crate::config::experiment::Experiment, Failure> {
    let best = &tuning.candidates[tuning.chosen];
    let fields = best
        .set
        .iter()
        .map(|(path, value)| Ok((path.clone(), serde_yaml::from_str(value)?)))
        .collect::<Result<_, serde_yaml::Error>>()
        .map_err(config_error)?;
    let candidate = candidate(base, &fields, tuning.seed)?;
    Ok(retrained(candidate, best.best_epoch, seed))
}

/// How a finished trial ended, in its place in this comparison; none if it has to run, also again after
/// a failure.
fn done(folder: &Path, task: &Task) -> Option<Outcome> {
    match outcome(folder)? {
        Outcome::Done(mut summary) => {
            summary.cell = Some(task.cell.clone());
            Some(Outcome::Done(summary))
        }
        Outcome::Failed(_) => None,
    }
}

/// The folder of a comparison below that of all runs.
pub fn root(runs: &Path, name: &str) -> PathBuf {
    runs.join(name)
}
