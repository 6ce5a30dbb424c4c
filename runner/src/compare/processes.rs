//! Runs trials in processes of their own, on one device or several. A signal asks them to save and stop.

use std::any::Any;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::execute::write_failed;
use super::plan::Plan;
use crate::device::DeviceChoice;
use crate::exit::{Exit, Failure, failure, panic_message};
use crate::fetch::offline;
use crate::report::numbers::seconds;
use crate::run::interrupt;

/// A trial whose process has ended.
struct Ended {
    index: usize,
    device: DeviceChoice,
    status: ExitStatus,
    seconds: f64,
}

/// The settings with which the processes of the trials are started. Memory is measured per process,
/// so trials that run at the same time need one each.
pub struct Processes<'a> {
    /// The folder of the manifest.
    pub sweep: &'a Path,
    /// The folder of the prefix cache's files.
    pub cache: &'a Path,
    /// The devices, which the processes take in turn: the first job the first one.
    pub devices: &'a [DeviceChoice],
    /// The threads of each process; 0 shares the cores among the processes.
    pub threads: usize,
    /// Whether the processes vouch for their devices.
    pub trust_device: bool,
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
    if args.devices.len() > 1 {
        eprintln!("{}", table(plan, &ended));
    }
    let failed: Vec<&Ended> = ended
        .iter()
        .filter(|ended| !ended.status.success())
        .collect();
    for Ended { index, status, .. } in &failed {
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
    let threads = match args.threads {
        0 => (cores / args.jobs).max(1),
        threads => threads,
    };
    let queue = Mutex::new(VecDeque::from(indices));
    let next = || {
        let queue = queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner).pop_front()
    };
    let work = |job: usize| -> Result<Vec<Ended>, Failure> {
        let device = args.devices[job % args.devices.len()];
        let mut ended = Vec::new();
        while !stop.load(Ordering::Relaxed)
            && let Some(index) = next()
        {
            let start = Instant::now();
            let child = start_on(device, args, index, threads)?;
            ended.push(Ended {
                index,
                device,
                status: wait(child, stop)?,
                seconds: start.elapsed().as_secs_f64(),
            });
        }
        Ok(ended)
    };
    let work = &work;
    let ended = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.get())
            .map(|job| scope.spawn(move || work(job)))
            .collect();
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
    let mut ended: Vec<Ended> = ended.into_iter().flatten().collect();
    ended.sort_by_key(|ended| ended.index);
    Ok(ended)
}

/// Which device ran which trial.
fn table(plan: &Plan, ended: &[Ended]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(["trial", "device", "exit", "time"]);
    for ended in ended {
        let code = ended.status.code();
        table.add_row([
            plan.tasks[ended.index].title(),
            ended.device.to_string(),
            code.map_or_else(|| ended.status.to_string(), |code| code.to_string()),
            seconds(ended.seconds),
        ]);
    }
    table
}

/// Starts the process of one trial on a device.
fn start_on(
    device: DeviceChoice,
    args: &Processes,
    index: usize,
    threads: usize,
) -> Result<Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["sweep", "run"]).arg(args.sweep);
    command.args(["--index", &index.to_string()]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--device", &device.to_string()]);
    command.args(args.trust_device.then_some("--trust-device"));
    command.arg("--cache").arg(args.cache);
    command.args(offline::forbidden().map(|_| "--offline"));
    // The child gets a process group of its own, so that Ctrl-C in a terminal reaches this process
    // alone, which passes it on once. A second signal would end the child without saving.
    apart(&mut command);
    Ok(command.spawn()?)
}

/// Keeps what a terminal sends to this process from the process that `command` starts.
#[cfg(unix)]
fn apart(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

/// Keeps what a terminal sends to this process from the process that `command` starts.
#[cfg(windows)]
fn apart(command: &mut Command) {
    use std::os::windows::process::CommandExt;
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// Asks a process to save and stop. Returns false if the system has no signal for that.
#[cfg(unix)]
fn ask(child: &Child) -> bool {
    // SAFETY: `kill` takes no pointers. The child has not been waited for, so its number cannot have
    // been given to another process.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    true
}

/// Asks a process to save and stop. Returns false if the system has no signal for that.
#[cfg(not(unix))]
fn ask(_: &Child) -> bool {
    false
}

/// Waits for a child, and asks it to save and stop once this process is asked to.
fn wait(mut child: Child, stop: &AtomicBool) -> Result<ExitStatus, Failure> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if stop.load(Ordering::Relaxed) && !asked {
            if !ask(&child) {
                eprintln!(
                    "a trial goes on to its end: this system cannot ask a process to save and stop"
                );
            }
            asked = true;
        }
        // The standard library cannot wait for a child and for a signal at once.
        std::thread::sleep(Duration::from_millis(50));
    }
}
