//! `runner data time`: how fast an experiment's training images become batches, with nothing trained.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::cache::{Caches, Prefix};
use crate::cli::args::{ConfigArgs, Format, PlaceArgs};
use crate::commands::print::{json_line, row};
use crate::commands::{at_least_one, experiment, on_pool};
use crate::config::experiment::Experiment;
use crate::data::held_out::Data;
use crate::data::loader::Loader;
use crate::data::random::{EpochRandom, Pass};
use crate::device::ComputeDevice;
use crate::exit::Failure;
use crate::measure;
use crate::model::base::Base;
use crate::model::trial::Trial;
use crate::report::numbers::{mebibytes, seconds, speed};
use crate::run::progress::Reporter;

/// Time how fast an experiment's training images become batches; nothing is trained.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner data time --config peft/ap.yaml --set prefix_cache=off")]
pub struct TimeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Epochs to read.
    #[arg(long, default_value_t = 3)]
    pub epochs: usize,
    /// Folder of the prefix cache's files; --set prefix_cache=off times the images themselves.
    #[arg(long, value_name = "DIR", default_value = "runs/.cache")]
    pub cache: PathBuf,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The speed of reading.
#[derive(Debug, Serialize)]
struct Timing {
    images: usize,
    batch: usize,
    threads: usize,
    /// Time to open the data set: its lists, and the hash of its content.
    open_seconds: f64,
    /// Time from an open data set to the first batch on the device.
    first_batch_seconds: f64,
    /// Whether batches came from a cache.
    cached: bool,
    /// Time to fill the cache.
    cache_seconds: f64,
    /// Size of the cache.
    cache_bytes: usize,
    /// The speed of each epoch.
    images_per_second: Vec<f64>,
}

/// Reads some epochs of the training split, in the order and with the augmentation of a training run.
pub fn time(args: &TimeArgs) -> Result<(), Failure> {
    at_least_one("--epochs", args.epochs)?;
    let experiment = experiment(&args.config)?;
    on_pool(&args.place, |device| {
        let timing = timed(experiment, &device, args)?;
        match args.format {
            Format::Text => print(&timing),
            Format::Json => json_line(&timing)?,
        }
        Ok(())
    })
}

fn timed(
    experiment: Experiment,
    device: &ComputeDevice,
    args: &TimeArgs,
) -> Result<Timing, Failure> {
    let base = Base::open(experiment.backbone.clone(), experiment.seed, device)?;
    let start = Instant::now();
    let data = Data::open(&*experiment.dataset, experiment.on_error, experiment.seed)?;
    let open_seconds = start.elapsed().as_secs_f64();
    let (trial, model) = Trial::on(&base, data, experiment, device)?;

    let recipe = &trial.experiment.recipe;
    let random = EpochRandom {
        seed: trial.experiment.seed,
        epoch: 0,
        augment: recipe.augmentation.augment(),
        views: trial.experiment.cache_views,
    };
    let prefix = Prefix {
        trial: &trial,
        backbone: (model.first_cut() > 0).then_some(&model.backbone),
        taps: model.taps(),
        device,
    };
    let reporter = Reporter::unlogged();
    let images = trial.data.train(trial.preprocess(), recipe.batch_size);
    let images = images.with_warnings(&reporter);
    let start = Instant::now();
    // Before a cache is attached, so that the first batch is read and decoded in any case.
    images.each(0..1, Pass::Training(random), &device.device, |_, _| {
        Ok::<_, Failure>(true)
    })?;
    let first_batch_seconds = start.elapsed().as_secs_f64();

    let caches = Caches::new(&args.cache, false);
    let (loader, cost) = caches.attach(
        images,
        &prefix,
        Some(random),
        recipe.last_epoch(),
        &Arc::default(),
        &reporter,
    )?;
    reporter.finish();
    let epoch = |epoch| read(&loader, random.of_epoch(epoch), device);
    Ok(Timing {
        images: loader.len(),
        batch: loader.batch_size(),
        threads: rayon::current_num_threads(),
        open_seconds,
        first_batch_seconds,
        cached: loader.is_cached(),
        cache_seconds: cost.seconds,
        cache_bytes: cost.bytes,
        images_per_second: (0..args.epochs).map(epoch).collect::<Result<_, _>>()?,
    })
}

/// Reads one epoch, every batch onto the device; images per second.
fn read(loader: &Loader, random: EpochRandom, device: &ComputeDevice) -> Result<f64, Failure> {
    let (batches, mut images) = (loader.batches(), 0);
    let start = Instant::now();
    loader.each(
        0..batches,
        Pass::Training(random),
        &device.device,
        |_, batch| {
            images += batch.targets.len();
            Ok::<_, Failure>(true)
        },
    )?;
    // Copies to a device are asynchronous: without waiting for them the last ones would not be
    // timed.
    measure::sync(device)?;
    Ok(images as f64 / start.elapsed().as_secs_f64())
}

fn print(timing: &Timing) {
    let Timing {
        images,
        batch,
        threads,
        open_seconds,
        first_batch_seconds,
        cached,
        cache_seconds,
        cache_bytes,
        images_per_second,
    } = timing;
    row(
        "images",
        format_args!("{images} in batches of {batch}, {threads} threads"),
    );
    let (open, first) = (seconds(*open_seconds), seconds(*first_batch_seconds));
    row(
        "opened in",
        format_args!("{open}, first batch {first} later"),
    );
    if *cached {
        let (size, time) = (mebibytes(*cache_bytes), seconds(*cache_seconds));
        row("cached", format_args!("{size} in {time}"));
    }
    for (epoch, images_per_second) in (1..).zip(images_per_second) {
        row(&format!("epoch {epoch}"), speed(*images_per_second));
    }
}
