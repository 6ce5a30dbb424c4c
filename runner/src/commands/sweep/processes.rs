//! Runs trials in processes of their own, which a signal asks to save and stop. Only Unix has such
//! signals.

use std::any::Any;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cli::args::{PlaceArgs, TrustArgs};
use crate::compare::execute::write_failed;
use crate::compare::plan::Plan;
use crate::exit::{Exit, Failure, failure, panic_message};
use crate::run::interrupt;

/// The index of a trial, and the way in which its process ended.
type Ended = (usize, ExitStatus);

/// The settings with which the processes of the trials are started. Memory is measured per process,
/// so trials that run at the same time need one each.
pub struct Processes<'a> {
    /// The folder of the manifest.
    pub sweep: &'a Path,
    /// The folder of the prefix cache's files.
    pub cache: &'a Path,
    /// The device and the threads of each process; 0 threads share the cores among the processes.
    pub place: &'a PlaceArgs,
    /// What is asked of the device.
    pub trust: TrustArgs,
    /// The number of processes at a time.
    pub jobs: NonZeroUsize,
}

/// Runs every trial in a process of its own.
///
/// # Errors
/// If trials failed, a signal came, or a process cannot be started.
pub fn in_processes(args: &Processes, plan: &Plan, indices: Vec<usize>) -> Result<(), Failure> {
    let stop = interrupt()?;
    let count = indices.len();
    let ended = run_all(args, indices, &stop)?;
    if stop.load(Ordering::Relaxed) {
        return Err(Failure::interrupted());
    }
    let failed: Vec<&Ended> = ended
        .iter()
        .filter(|(_, status)| !status.success())
        .collect();
    for (index, status) in &failed {
        // A process that ends in good order has recorded why its trial failed.
        if status.code() != Some(Exit::SomeFailed as i32) {
            let task = &plan.tasks[*index];
            let error = format!("its process ended with {status}");
            eprintln!("trial {index} ({}): {error}", task.title());
            let folder = args.sweep.join(&task.folder);
            write_failed(&folder, task, Exit::Unexpected, &error)?;
        }
    }
    match failed.len() {
        0 => Ok(()),
        failed => {
            let message = format_args!("{failed} of {count} trials failed");
            Err(failure(Exit::SomeFailed, message))
        }
    }
}

/// Runs the trials from one queue until it is empty or a signal comes.
fn run_all(
    args: &Processes,
    indices: Vec<usize>,
    stop: &AtomicBool,
) -> Result<Vec<Ended>, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match args.place.threads {
        0 => (cores / args.jobs).max(1),
        threads => threads,
    };
    let queue = Mutex::new(VecDeque::from(indices));
    let next = || {
        let queue = queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner).pop_front()
    };
    let work = || -> Result<Vec<Ended>, Failure> {
        let mut ended = Vec::new();
        while !stop.load(Ordering::Relaxed)
            && let Some(index) = next()
        {
            let child = start(args, index, threads)?;
            ended.push((index, wait(child, stop)?));
        }
        Ok(ended)
    };
    let ended = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.get()).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|ended| {
                let failed = |panic: Box<dyn Any + Send>| {
                    Err(failure(Exit::Unexpected, panic_message(&*panic)))
                };
                ended.unwrap_or_else(failed)
            })
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    Ok(ended.into_iter().flatten().collect())
}

/// Starts the process of one trial.
fn start(args: &Processes, index: usize, threads: usize) -> Result<Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sweep", "run"]).arg(args.sweep);
    command.args(["--index", &index.to_string()]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--device", &args.place.device.to_string()]);
    command.args(args.trust.trust_device.then_some("--trust-device"));
    command.arg("--cache").arg(args.cache);
    // The child gets a process group of its own, so that Ctrl-C in a terminal reaches this process
    // alone, which passes it on once. A second signal would end the child without saving.
    Ok(command.process_group(0).spawn()?)
}

/// Waits for a child, and asks it to save and stop once this process is asked to.
fn wait(mut child: Child, stop: &AtomicBool) -> Result<ExitStatus, Failure> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) && !asked {
            // SAFETY: `kill` takes no pointers. The child has not been waited for, so its number
            // cannot have been given to another process.
            unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
            asked = true;
        }
        // The standard library cannot wait for a child and for a signal at once.
        std::thread::sleep(Duration::from_millis(50));
    }
}
