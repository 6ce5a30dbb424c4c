//! `runner sweep`: a comparison that is larger than a sitting. `plan` writes its trials down, any number
//! of processes `run` them, `status` and `collect` read what they left. Scheduling is left to job
//! schedulers, for which `script` prints a job array.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::cli::{Format, SweepPlanArgs, SweepRunArgs, SweepScriptArgs};
use crate::commands::compare::{carry_out, report, verdict};
use crate::commands::on_pool;
use crate::compare::config::Comparison;
use crate::compare::execute::{Executor, write_failed};
use crate::compare::manifest;
use crate::compare::plan::{Plan, Task, plan, slug};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::lock::is_locked;
use crate::model::workshop::Workshop;
use crate::run::folder::outcome;
use crate::run::summary::Outcome;
use crate::run::{CHECKPOINT, interrupt};

/// Writes the manifest.
pub fn plan_sweep(args: &SweepPlanArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/, such as compare/quick.yaml",
        ));
    };
    let comparison = Comparison::read(config, &args.config.set)?;
    on_pool(&args.place, |device| {
        // Nothing is trained, so nothing is cached.
        let mut workshop = Workshop::new(&device, Path::new(""));
        let plan = plan(&comparison, &mut workshop)?;
        let path = manifest::write(&args.out, &plan)?;
        println!("{}: {} trials", path.display(), plan.tasks.len());
        Ok(())
    })
}

/// Carries out some of the trials, here or in processes of their own.
pub fn run_sweep(args: &SweepRunArgs) -> Result<(), Failure> {
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
fn in_processes(args: &SweepRunArgs, plan: &Plan, indices: Vec<usize>) -> Result<(), Failure> {
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
        let message = "interrupted; run the same command to go on";
        return Err(failure(Exit::Interrupted, message));
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

fn start(args: &SweepRunArgs, index: usize, threads: usize) -> Result<Child, Failure> {
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

/// How far a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
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

fn state(sweep: &Path, task: &Task) -> State {
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
pub fn status(sweep: &Path, format: Format) -> Result<(), Failure> {
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

/// Builds the report from the trials' summaries.
pub fn collect(sweep: &Path) -> Result<(), Failure> {
    let plan = manifest::read(sweep)?;
    let results = manifest::collect(sweep, plan);
    report(sweep, &results)?;
    verdict(&results)
}

/// Prints a job array for a scheduler.
pub fn script(args: &SweepScriptArgs) -> Result<(), Failure> {
    let plan = manifest::read(&args.sweep)?;
    let sweep = args.sweep.display().to_string();
    if sweep.contains(|c: char| c.is_whitespace() || "\"'$`\\".contains(c)) {
        let message = format!("{sweep}: expected a path that needs no quotes in a script");
        return Err(config_error(message));
    }
    let template = args.scheduler.template();
    let last = plan.tasks.len().saturating_sub(1);
    let filled = template
        .replace("{name}", &slug(&plan.results.name))
        .replace("{trials}", &plan.tasks.len().to_string())
        .replace("{last}", &last.to_string())
        .replace("{sweep}", &sweep)
        .replace("{time}", &args.time.0);
    print!("{filled}");
    Ok(())
}
