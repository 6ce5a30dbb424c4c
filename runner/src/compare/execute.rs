//! Runs the trials of a comparison: finished ones are skipped, interrupted ones resume, and a trial
//! that fails is recorded while the others go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use peft_core::files::write_atomically;

use super::plan::{Task, candidate, document, id, retrained};
use super::tune::tune;
use crate::config::experiment::Experiment;
use crate::exit::{Exit, Failure, config_error, failure, panic_message};
use crate::lock::lock;
use crate::model::workshop::Workshop;
use crate::run::folder::{RunFolder, outcome};
use crate::run::progress::Reporter;
use crate::run::summary::{Failed, Outcome, Tuning};
use crate::run::{Part, run};

/// Runs trials one after the other.
pub struct Executor<'a> {
    /// The folder of the comparison.
    pub root: &'a Path,
    /// The backbones, data sets and caches that the trials share.
    pub workshop: Workshop<'a>,
    /// A flag that stops the work after the current step; the next run resumes from there.
    pub interrupt: Arc<AtomicBool>,
}

/// The end of a trial.
pub enum Ended {
    /// It has a summary, written now or earlier.
    With(Box<Outcome>),
    /// Another process works on it.
    Elsewhere,
}

/// A trial that has ended, among those that run together.
pub struct Step<'a> {
    /// Its index among them.
    pub index: usize,
    /// The trial.
    pub task: &'a Task,
    /// Its end.
    pub ended: &'a Ended,
    /// The seconds that it took; almost none if it was done before.
    pub seconds: f64,
}

impl Executor<'_> {
    /// Runs trials in order, and calls `observe` after each.
    ///
    /// # Errors
    /// [`Exit::Interrupted`], or a disk to which not even a failure can be written. A trial that fails is
    /// not an error here.
    pub fn execute_all<'t>(
        &mut self,
        tasks: impl IntoIterator<Item = &'t Task>,
        observe: &mut dyn FnMut(&Step),
    ) -> Result<(), Failure> {
        for (index, task) in tasks.into_iter().enumerate() {
            let start = Instant::now();
            let ended = self.execute(task)?;
            observe(&Step {
                index,
                task,
                ended: &ended,
                seconds: start.elapsed().as_secs_f64(),
            });
        }
        Ok(())
    }

    /// Runs a trial, unless it is done.
    ///
    /// # Errors
    /// See [`execute_all`](Self::execute_all).
    pub fn execute(&mut self, task: &Task) -> Result<Ended, Failure> {
        let folder = self.root.join(&task.folder);
        if let Some(done) = done(&folder, task) {
            return Ok(Ended::With(Box::new(done)));
        }
        // A panic ends one trial only. The workshop outlives it, but holds only complete values, so
        // asserting unwind safety is sound.
        let attempt = AssertUnwindSafe(|| self.attempt(task, &folder));
        let failed = match catch_unwind(attempt) {
            Ok(Ok(ended)) => return Ok(ended),
            Ok(Err(failed)) if failed.exit == Exit::Interrupted => return Err(failed),
            Ok(Err(failed)) => failed,
            Err(panic) => failure(Exit::Unexpected, panic_message(&*panic)),
        };
        write_failed(&folder, task, failed.exit, &format!("{:#}", failed.error))
    }

    fn attempt(&mut self, task: &Task, folder: &Path) -> Result<Ended, Failure> {
        let planned = task.experiment()?;
        let tuning = match &task.tuned {
            None => None,
            Some(tuned) => {
                let (workshop, interrupt) = (&mut self.workshop, &self.interrupt);
                Some(tune(self.root, workshop, interrupt, tuned, &planned)?)
            }
        };
        let (experiment, before) = match &tuning {
            None => (planned, None),
            Some(tuning) => (chosen(&planned, tuning, task.seed)?, Some(planned)),
        };
        let (trial, model) = self.workshop.open(experiment)?;
        // The id was planned before the search, so it is checked with the experiment as it was
        // then.
        let hash = match before {
            None => trial.hash.clone(),
            Some(planned) => trial.hash_of(planned)?,
        };
        // A manifest may be older than the files that it names. Training on other data under the
        // planned id would mix two experiments in one table.
        if id(&hash, task.tuned.as_ref()) != task.id {
            let message = "the weights or the data have changed since the trial was planned";
            return Err(config_error(message));
        }
        let device = self.workshop.device();
        let folder = folder.to_owned();
        let Some(folder) = RunFolder::try_open(folder, &trial.experiment, &device.name)? else {
            return Ok(Ended::Elsewhere);
        };
        // Another process may have finished the trial between the first look and the lock.
        if let Some(done) = done(folder.path(), task) {
            return Ok(Ended::With(Box::new(done)));
        }
        let part = Part {
            caches: self.workshop.caches(),
            interrupt: self.interrupt.clone(),
            cell: Some(task.cell.clone()),
            tuning,
            others: &[],
            reporter: Reporter::to_log(&folder.file("log.txt")),
        };
        let summary = run(&trial, model, &folder, device, part)?;
        Ok(Ended::With(Box::new(Outcome::Done(Box::new(summary)))))
    }
}

/// Records why a trial failed, unless another process works on it or has finished it.
///
/// # Errors
/// If the record cannot be written.
pub fn write_failed(folder: &Path, task: &Task, exit: Exit, error: &str) -> Result<Ended, Failure> {
    fs_err::create_dir_all(folder)?;
    // A process that works on the trial now must not find a failure in its folder.
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

/// Returns the experiment that a search chose.
fn chosen(base: &Experiment, tuning: &Tuning, seed: u64) -> Result<Experiment, Failure> {
    let best = &tuning.candidates[tuning.chosen];
    let fields = best
        .set
        .iter()
        .map(|(path, value)| Ok((path.clone(), serde_yaml::from_str(value)?)))
        .collect::<Result<_, serde_yaml::Error>>()
        .map_err(config_error)?;
    let candidate = candidate(document(base)?, &fields, tuning.seed)?;
    Ok(retrained(candidate, best.best_epoch, seed, tuning.retrain))
}

/// Returns the outcome of a finished trial in its place in this comparison; none if it has to run,
/// as does one that failed before.
fn done(folder: &Path, task: &Task) -> Option<Outcome> {
    match outcome(folder)? {
        Outcome::Done(mut summary) => {
            // Another comparison may have trained the same trial under other labels.
            summary.cell = Some(task.cell.clone());
            Some(Outcome::Done(summary))
        }
        Outcome::Failed(_) => None,
    }
}

/// Returns the folder of a comparison below that of all runs.
pub fn root(runs: &Path, name: &str) -> PathBuf {
    runs.join(name)
}
