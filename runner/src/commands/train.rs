//! `runner train`: trains, tests once, and leaves a run folder.

use std::path::PathBuf;

use clap::Args;

use crate::cache::Caches;
use crate::cli::args::{ConfigArgs, DevicesArgs, PlaceArgs, RunsArgs, TrustArgs};
use crate::commands::print::row;
use crate::commands::{experiment, on_pool};
use crate::config::start::{StartFrom, StartHead};
use crate::device::choose;
use crate::exit::Failure;
use crate::model::trial::Trial;
use crate::report::numbers::{mebibytes, percent, seconds, speed};
use crate::run::folder::RunFolder;
use crate::run::plan::{places, plan};
use crate::run::progress::Reporter;
use crate::run::summary::Summary;
use crate::run::{Part, interrupt, names, run};
use crate::trust::admit;

/// Train, test once, and leave a run folder; `runner --config ..` does the same.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner train --config peft/lora-r10.yaml --set method.rank=4")]
pub struct TrainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub devices: DevicesArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub folders: RunsArgs,
    /// Start from a trained adapter: a run's folder, or one of HF PEFT (as --set adapter=DIR).
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Leave the adapter's head out and draw a new one, for other classes (as --set
    /// 'adapter={path: DIR, head: new}').
    #[arg(long, requires = "adapter")]
    pub new_head: bool,
    /// Validate everything and print the plan, then stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Also list every place where the adapters act; the plan folds equal ones.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Trains and evaluates.
pub fn train(args: &TrainArgs) -> Result<(), Failure> {
    let mut experiment = experiment(&args.config)?;
    if let Some(path) = &args.adapter {
        let head = match args.new_head {
            true => StartHead::New,
            false => StartHead::Keep,
        };
        experiment.adapter = Some(StartFrom::new(path.clone(), head));
    }
    on_pool(&args.devices.first(&args.place), |device| {
        let vouched = args.trust.trust_device;
        let device = device.vouched(vouched);
        let others = args.devices.devices.iter().skip(1);
        let others = others.map(|&other| Ok(choose(other)?.vouched(vouched)));
        let others = others.collect::<Result<Vec<_>, Failure>>()?;
        let (trial, model) = Trial::open(experiment, &device)?;
        let details = if args.verbose {
            places(&trial, &model)
        } else {
            Vec::new()
        };
        if args.dry_run {
            print!("{}", plan(&trial, &model, &device));
            let remarks = trial.remarks.iter().chain(&details);
            remarks.for_each(|line| println!("{line}"));
            return Ok(());
        }
        for device in std::iter::once(&device).chain(&others) {
            admit(device, &args.folders.cache(), &trial, &model)?;
        }
        // The name of the folder needs the hash, and the hash needs the opened weights and data.
        let path = trial.folder(&args.folders.runs);
        let folder = RunFolder::open(path, &trial.experiment, &names(&device, &others))?;
        let summary = match folder.finished() {
            Some(summary) => {
                eprintln!("finished before: {}", folder.path().display());
                summary
            }
            None => {
                let caches = Caches::new(&args.folders.cache(), false);
                let reporter = Reporter::new(&folder.file("log.txt"));
                details.iter().for_each(|line| reporter.line(line));
                let part = Part {
                    caches: &caches,
                    interrupt: interrupt()?,
                    cell: None,
                    tuning: None,
                    others: &others,
                    reporter,
                };
                run(&trial, model, &folder, &device, part)?
            }
        };
        print(&summary, &folder);
        Ok(())
    })
}

/// Prints the result on stdout.
fn print(summary: &Summary, folder: &RunFolder) {
    let test = &summary.test;
    for (metric, score) in test.first() {
        row(&format!("test {metric}"), percent(score));
    }
    row("test loss", format_args!("{:.4}", test.loss));
    let main = test.first().next().map(|(metric, _)| metric);
    if let (true, Some(score)) = (Some(summary.metric) != main, test.score(summary.metric)) {
        let score = percent(score);
        row("test metric", format_args!("{score} {}", summary.metric));
    }
    if let Some(validation) = &summary.validation {
        for (metric, score) in validation.first().take(1) {
            row(&format!("validation {metric}"), percent(score));
        }
    }
    if summary.skipped > 0 {
        row("left out", format_args!("{} images", summary.skipped));
    }
    let (best, epochs) = (summary.best_epoch, summary.epochs);
    row("epoch", format_args!("{best} of {epochs}"));
    let (trainable, total) = (summary.params.trainable, summary.params.total);
    row("trainable", format_args!("{trainable} of {total}"));
    row("peak memory", mebibytes(summary.memory.peak_bytes));
    let epoch = seconds(summary.time.seconds_per_epoch);
    let all = seconds(summary.time.total_seconds);
    let timed = summary.time.timed();
    row(
        "time",
        format_args!("{epoch} per epoch ({timed}), {all} in all"),
    );
    row("inference", speed(summary.inference.images_per_second));
    row("run", folder.path().display());
}
