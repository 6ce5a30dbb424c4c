//! `runner --config ..`: trains, tests once, and leaves a run folder.

use std::path::PathBuf;

use clap::Args;

use crate::cache::Caches;
use crate::cli::args::{ConfigArgs, PlaceArgs};
use crate::commands::{cache_folder, on_pool};
use crate::config::experiment::Experiment;
use crate::exit::{Failure, config_error};
use crate::model::trial::Trial;
use crate::run::folder::RunFolder;
use crate::run::plan::plan;
use crate::run::progress::Reporter;
use crate::run::summary::Summary;
use crate::run::{Part, interrupt, run};
use crate::train::metrics::Metric;

/// Train, test once, and leave a run folder; `runner --config ..` does the same.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner train --config peft/lora-r10.yaml --set method.rank=4")]
pub struct TrainArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the run folders.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Folder of the prefix cache's files, which runs and processes may share [default: .cache in
    /// the folder of --runs].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Start from a trained adapter: a run's folder, or one of HF PEFT (as --set adapter=DIR).
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Validate everything and print the plan, then stop.
    #[arg(long)]
    pub dry_run: bool,
}

/// Trains and evaluates.
pub fn train(args: &TrainArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/",
        ));
    };
    let mut experiment = Experiment::read(config, &args.config.set)?;
    if args.adapter.is_some() {
        experiment.adapter.clone_from(&args.adapter);
    }
    on_pool(&args.place, |device| {
        let (trial, model) = Trial::open(experiment, &device)?;
        if args.dry_run {
            print!("{}", plan(&trial, &model, &device));
            trial.remarks.iter().for_each(|remark| println!("{remark}"));
            return Ok(());
        }
        let path = trial.folder(&args.runs);
        let folder = RunFolder::open(path, &trial.experiment, &device.name)?;
        let summary = match folder.finished() {
            Some(summary) => {
                eprintln!("finished before: {}", folder.path().display());
                summary
            }
            None => {
                let caches = Caches::new(&cache_folder(args.cache.as_deref(), &args.runs), false);
                let part = Part {
                    caches: &caches,
                    interrupt: interrupt()?,
                    cell: None,
                    tuning: None,
                    reporter: Reporter::new(&folder.file("log.txt")),
                };
                run(&trial, model, &folder, &device, part)?
            }
        };
        print(&summary, &folder);
        Ok(())
    })
}

/// The result, on stdout.
fn print(summary: &Summary, folder: &RunFolder) {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let test = &summary.test;
    let mut rows = vec![
        ("test top-1", percent(test.top1)),
        ("test top-5", percent(test.top5)),
        ("test loss", format!("{:.4}", test.loss)),
    ];
    if let (true, Some(score)) = (summary.metric != Metric::Top1, test.score(summary.metric)) {
        rows.push((
            "test metric",
            format!("{} {}", percent(score), summary.metric),
        ));
    }
    if let Some(validation) = &summary.validation {
        rows.push(("validation top-1", percent(validation.top1)));
    }
    if summary.skipped > 0 {
        rows.push(("left out", format!("{} images", summary.skipped)));
    }
    rows.extend([
        (
            "epoch",
            format!("{} of {}", summary.best_epoch, summary.epochs),
        ),
        (
            "trainable",
            format!("{} of {}", summary.params.trainable, summary.params.total),
        ),
        (
            "peak memory",
            format!(
                "{:.1} MiB",
                summary.memory.peak_bytes as f64 / (1 << 20) as f64
            ),
        ),
        (
            "time",
            format!(
                "{:.2} s an epoch, {:.1} s in all",
                summary.time.seconds_per_epoch, summary.time.total_seconds
            ),
        ),
        (
            "inference",
            format!("{:.0} images/s", summary.inference.images_per_second),
        ),
        ("run", folder.path().display().to_string()),
    ]);
    for (key, value) in rows {
        println!("{key:<18}{value}");
    }
}
