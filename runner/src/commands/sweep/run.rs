//! `runner sweep run`: runs trials of a manifest, here or each in a process of its own.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use crate::cli::args::{DevicesArgs, PlaceArgs, TrustArgs, cache_folder};
use crate::commands::on_pool;
use crate::compare::execute::Executor;
use crate::compare::manifest;
use crate::compare::plan::Task;
use crate::compare::processes::{Processes, in_processes};
use crate::compare::progress::carry_out;
use crate::compare::state::State;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::workshop::Workshop;
use crate::run::interrupt;

/// Train the trials that are not done: all, one, or a part. Interrupted trials are resumed.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep run sweeps/quick --jobs 4 --devices cuda:0,cuda:1")]
pub struct RunArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// One trial, counted from 0.
    #[arg(long, value_name = "I", conflicts_with = "chunk")]
    pub index: Option<usize>,
    /// The k-th of n parts of equal size, counted from 1.
    #[arg(long, value_name = "K/N")]
    pub chunk: Option<Chunk>,
    /// The number of trials to run at a time, each in a process of its own if there are several
    /// [default: the number of devices].
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub devices: DevicesArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Folder of the prefix cache's files [default: .cache in the sweep's folder].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RunArgs {
    /// The folder of the prefix cache's files.
    pub fn cache(&self) -> PathBuf {
        cache_folder(self.cache.as_deref(), &self.sweep)
    }

    /// Returns the indices of the selected trials out of `trials`.
    ///
    /// # Errors
    /// An error for an index that no trial has.
    fn selected(&self, trials: usize) -> Result<Vec<usize>, String> {
        match (self.index, self.chunk) {
            (Some(index), _) if index < trials => Ok(vec![index]),
            (Some(index), _) => {
                let last = trials.saturating_sub(1);
                Err(format!("--index {index}: expected 0 to {last}"))
            }
            (None, Some(Chunk { part, of })) => {
                // Rounding down at both ends gives every trial to exactly one part.
                Ok((trials * (part - 1) / of..trials * part / of).collect())
            }
            (None, None) => Ok((0..trials).collect()),
        }
    }
}

/// A part `k/n` of the trials.
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

/// Runs the selected trials, here or in processes of their own.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = manifest::read(&args.sweep)?;
    let indices = args.selected(plan.tasks.len()).map_err(config_error)?;
    let devices = args.devices.all(&args.place);
    let jobs = args.jobs.or(NonZeroUsize::new(devices.len()));
    if let Some(jobs) = jobs.filter(|jobs| jobs.get() > 1) {
        let processes = Processes {
            sweep: &args.sweep,
            cache: &args.cache(),
            devices: &devices,
            threads: args.place.threads,
            trust_device: args.trust.trust_device,
            jobs,
        };
        return in_processes(&processes, &plan, indices);
    }
    on_pool(&args.devices.first(&args.place), |device| {
        let device = device.vouched(args.trust.trust_device);
        let mut executor = Executor {
            root: &args.sweep,
            // Trials of a sweep are processes, which can share prefixes only through files.
            workshop: Workshop::new(&device, &args.cache()).in_files(),
            interrupt: interrupt()?,
        };
        let tasks: Vec<&Task> = indices.iter().map(|&index| &plan.tasks[index]).collect();
        carry_out(&mut executor, &tasks)?;
        let state = |task: &Task| State::of(&args.sweep.join(&task.folder));
        let failed = |task: &&Task| matches!(state(task), State::Failed(_));
        match tasks.iter().copied().filter(failed).count() {
            0 => Ok(()),
            failed => {
                let message = format_args!("{failed} of {} trials failed", tasks.len());
                Err(failure(Exit::SomeFailed, message))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_trial_once() {
        let chunk = |text: &str| text.parse::<Chunk>();
        let selected = |chunk| {
            let args = RunArgs {
                sweep: PathBuf::new(),
                index: None,
                chunk: Some(chunk),
                jobs: None,
                devices: DevicesArgs::default(),
                place: PlaceArgs::default(),
                trust: TrustArgs::default(),
                cache: None,
            };
            args.selected(10).unwrap()
        };
        let parts = (1..=4).map(|part| selected(chunk(&format!("{part}/4")).unwrap()));
        let all: Vec<usize> = parts.flatten().collect();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
        for bad in ["0/4", "5/4", "1", "a/b", "1/0", ""] {
            assert!(chunk(bad).is_err(), "{bad}");
        }
    }
}
