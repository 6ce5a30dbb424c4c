//! `runner sweep run`: carries out trials of a manifest, here or each in a process of its own.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::Args;

use super::status::{State, state};
use crate::cli::args::PlaceArgs;
use crate::commands::compare::carry_out;
use crate::commands::{cache_folder, on_pool};
use crate::compare::execute::{Executor, write_failed};
use crate::compare::manifest;
use crate::compare::plan::{Plan, Task};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::workshop::Workshop;
use crate::run::interrupt;

/// Train what is not done: all trials, one, or a part; interrupted trials are resumed.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep run sweeps/quick --jobs 4")]
pub struct RunArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// One trial, counted from 0.
    #[arg(long, value_name = "I", conflicts_with = "chunk")]
    pub index: Option<usize>,
    /// The k-th of n parts of equal size, counted from 1.
    #[arg(long, value_name = "K/N")]
    pub chunk: Option<Chunk>,
    /// How many trials run at a time, each in a process of its own.
    #[arg(long, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the prefix cache's files [default: .cache in the sweep's folder].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RunArgs {
    fn cache(&self) -> PathBuf {
        cache_folder(self.cache.as_deref(), &self.sweep)
    }

    /// The indices of the selected trials, of so many.
    ///
    /// # Errors
    /// An index that no trial has.
    fn selected(&self, trials: usize) -> Result<Vec<usize>, String> {
        match (self.index, self.chunk) {
            (Some(index), _) if index < trials => Ok(vec![index]),
            (Some(index), _) => {
                let last = trials.saturating_sub(1);
                Err(format!("--index {index}: expected 0 to {last}"))
            }
            (None, Some(Chunk { part, of })) => {
                Ok((trials * (part - 1) / of..trials * part / of).collect())
            }
            (None, None) => Ok((0..trials).collect()),
        }
    }
}

/// `k/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    part: usize,
    of: usize,
}

impl FromStr for Chunk {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((part, of)) if 0 < part && part <= of => Ok(Self { part, of }),
            _ => Err(format!("expected k/n with k from 1 to n, got {text:?}")),
        }
    }
}

/// Carries out some of the trials, here or in processes of their own.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = manifest::read(&args.sweep)?;
    let indices = args.selected(plan.tasks.len()).map_err(config_error)?;
    if args.jobs.get() > 1 {
        return in_processes(args, &plan, indices);
    }
    on_pool(&args.place, |device| {
        let mut executor = Executor {
            root: &args.sweep,
            workshop: Workshop::new(&device, &args.cache()).in_files(),
            interrupt: interrupt()?,
        };
        let tasks: Vec<&Task> = indices.iter().map(|&index| &plan.tasks[index]).collect();
        carry_out(&mut executor, &tasks)?;
        let failed = |task: &&Task| state(&args.sweep, task) == State::Failed;
        match tasks.iter().copied().filter(failed).count() {
            0 => Ok(()),
            failed => {
                let message = format_args!("{failed} of {} trials failed", tasks.len());
                Err(failure(Exit::SomeFailed, message))
            }
        }
    })
}

/// Every trial in a process, `--jobs` of them at a time: memory is measured by process.
fn in_processes(args: &RunArgs, plan: &Plan, indices: Vec<usize>) -> Result<(), Failure> {
    let stop = interrupt()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match args.place.threads {
        0 => (cores / args.jobs).max(1),
        threads => threads,
    };
    let count = indices.len();
    let queue = Mutex::new(VecDeque::from(indices));
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let work = || -> Result<Vec<(usize, ExitStatus)>, Failure> {
        let mut ended = Vec::new();
        while !stop.load(Ordering::Relaxed)
            && let Some(index) = next()
        {
            let child = start(args, index, threads)?;
            ended.push((index, wait(child, &stop)?));
        }
        Ok(ended)
    };
    let ended = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.get()).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|ended| ended.unwrap_or_else(|_| Err(failure(Exit::Unexpected, "a panic"))))
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::interrupted());
    }
    let bad = |(_, status): &&(usize, ExitStatus)| !status.success();
    let bad: Vec<&(usize, ExitStatus)> = ended.iter().flatten().filter(bad).collect();
    for (index, status) in &bad {
        if status.code() != Some(Exit::SomeFailed as i32) {
            let task = &plan.tasks[*index];
            let error = format!("its process ended with {status}");
            eprintln!("trial {index} ({}): {error}", task.title());
            write_failed(
                &args.sweep.join(&task.folder),
                task,
                Exit::Unexpected,
                &error,
            )?;
        }
    }
    match bad.len() {
        0 => Ok(()),
        failed => {
            let message = format_args!("{failed} of {count} trials failed");
            Err(failure(Exit::SomeFailed, message))
        }
    }
}

fn start(args: &RunArgs, index: usize, threads: usize) -> Result<Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sweep", "run"]).arg(&args.sweep);
    command.args(["--index", &index.to_string()]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--device", &args.place.device.to_string()]);
    command.arg("--cache").arg(args.cache());
    // A terminal's Ctrl-C reaches this process alone, which passes it on once.
    Ok(command.process_group(0).spawn()?)
}

/// Waits for a child, which is asked to save and stop once this process is.
fn wait(mut child: Child, stop: &AtomicBool) -> Result<ExitStatus, Failure> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) && !asked {
            // SAFETY: the child is not waited for yet, so that its number is still its own.
            unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
            asked = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
