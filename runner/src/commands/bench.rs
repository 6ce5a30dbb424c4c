//! `runner bench`: times training steps and inference with random images, in the code that trains.

use std::io;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use peft_core::flops::Flops;
use peft_core::{Model, params};
use peft_ops::Level;
use serde::Serialize;

use crate::cli::args::{ConfigArgs, Format, PlaceArgs, StepsArgs};
use crate::commands::print::{json_line, row};
use crate::commands::{at_least_one, experiment, methods, on_pool};
use crate::config::recipe::Precision;
use crate::device::ComputeDevice;
use crate::exit::Failure;
use crate::measure::memory;
use crate::measure::{self, Repeats, median};
use crate::model::trial::Trial;
use crate::report::numbers::{gigaflops, mebibytes, milliseconds, significant, speed};
use crate::run::progress::Reporter;
use crate::train::Trainer;

/// Time training steps and inference with random images, in the code that trains.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner bench --config peft/lora-r10.yaml --steps 20")]
pub struct BenchArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub steps: StepsArgs,
    /// The work to time.
    #[arg(long, default_value = "both")]
    pub what: Timed,
    /// Time again, without a warm-up, for every line on stdin until it ends: for measurements that
    /// take turns with another program's.
    #[arg(long)]
    pub again: bool,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The work that a benchmark times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Timed {
    /// Training steps.
    Training,
    /// Forward passes from image to logits.
    Inference,
    /// Both, one after the other.
    Both,
}

/// The experiment and its times.
#[derive(Debug, Default, Serialize)]
struct Timing {
    method: String,
    backbone: String,
    batch: usize,
    precision: Precision,
    device: String,
    /// The instructions that the kernels use on the CPU.
    level: &'static str,
    /// Bytes of the first and the second cache of a core, which products are cut to.
    cache_bytes: [usize; 2],
    trainable: usize,
    warmup: usize,
    steps: usize,
    /// Seconds of each training step.
    seconds: Vec<f64>,
    /// Seconds of each forward pass from image to logits.
    inference_seconds: Vec<f64>,
    median_seconds: Option<f64>,
    mean_seconds: Option<f64>,
    images_per_second: Option<f64>,
    inference_images_per_second: Option<f64>,
    /// 10^9 operations of a training step, by formula.
    gflop_per_step: f64,
    /// `gflop_per_step` divided by the median time.
    gflop_per_second: Option<f64>,
    /// Whether the backbone's values are random, because its weights are, or are not there.
    random_weights: bool,
    /// Bytes of all parameters and buffers.
    weights_bytes: usize,
    /// Bytes of the images and labels of a batch.
    batch_bytes: usize,
    /// The most bytes at once while training, or in inference if only that is timed. Weights are
    /// included; on CUDA it is the size of the pool.
    peak_bytes: usize,
    /// Bytes that the forward pass of a training step keeps for the backward pass.
    kept_bytes: Option<usize>,
}

/// Times what was asked for, once or for every line on stdin.
pub fn bench(args: &BenchArgs) -> Result<(), Failure> {
    at_least_one("--steps", args.steps.steps)?;
    let experiment = measure::with_weights(experiment(&args.config)?);
    on_pool(&args.place, |device| {
        let (trial, model) = Trial::open(experiment, &device)?;
        time(&trial, model, &device, args)
    })
}

/// Times a trial and prints each round.
fn time(
    trial: &Trial,
    model: Model,
    device: &ComputeDevice,
    args: &BenchArgs,
) -> Result<(), Failure> {
    let mut repeats = Repeats::from(args.steps);
    let batch = measure::random_batch(trial, device);
    let images = trial.experiment.recipe.batch_size;
    let caches = peft_ops::caches();
    let mut timing = Timing {
        method: methods(trial),
        backbone: trial.spec.name.clone(),
        batch: images,
        precision: trial.experiment.recipe.precision,
        device: device.name.clone(),
        level: peft_ops::level().map_or("off", Level::name),
        cache_bytes: [caches.first, caches.second],
        trainable: model.counts().trainable,
        warmup: repeats.warmup,
        steps: repeats.steps,
        gflop_per_step: images as f64 * Flops::of(&model).step() as f64 / 1e9,
        random_weights: trial.weights_hash().is_none(),
        weights_bytes: params::infos(&model).iter().map(|info| info.bytes).sum(),
        batch_bytes: measure::batch_bytes(trial),
        ..Timing::default()
    };
    let reporter = Reporter::unlogged();
    let mut trainer = Trainer::new(trial, model, device, None, Arc::default(), &reporter)?;
    if args.what != Timed::Inference {
        // These are the first steps: only they show how much the state of the optimiser takes.
        let memory = measure::step_memory(&mut trainer, &batch, device)?;
        (timing.peak_bytes, timing.kept_bytes) = (memory.peak, Some(memory.kept));
    }
    let mut lines = io::stdin().lines();
    // The memory of the steps above is known; what follows must not count their temporary tensors.
    memory::reset_peak();
    loop {
        if args.what != Timed::Inference {
            timing.seconds = measure::repeat(device, repeats, || {
                trainer.step(batch.clone(), &mut |_| ());
            })?;
        }
        if args.what != Timed::Training {
            let model = trainer.model();
            timing.inference_seconds = measure::inference(&model, trial, &batch, device, repeats)?;
        }
        if args.what == Timed::Inference {
            timing.peak_bytes = memory::peak(&device.device);
        }
        timing.sum_up(images as f64);
        match args.format {
            Format::Text => print(&timing),
            Format::Json => json_line(&timing)?,
        }
        // The other program writes a line when it is done, so that both never run at the same time.
        if !args.again || !matches!(lines.next(), Some(Ok(_))) {
            return Ok(());
        }
        // The kernels are compiled and the caches are warm now.
        repeats.warmup = 0;
    }
}

impl Timing {
    fn sum_up(&mut self, images: f64) {
        let middle = |seconds: &[f64]| (!seconds.is_empty()).then(|| median(seconds));
        let step = middle(&self.seconds);
        let mean = |_| self.seconds.iter().sum::<f64>() / self.seconds.len() as f64;
        self.mean_seconds = step.map(mean);
        self.median_seconds = step;
        self.images_per_second = step.map(|seconds| images / seconds);
        self.gflop_per_second = step.map(|seconds| self.gflop_per_step / seconds);
        let forward = middle(&self.inference_seconds);
        self.inference_images_per_second = forward.map(|seconds| images / seconds);
    }
}

/// Prints the result on stdout.
fn print(timing: &Timing) {
    row("method", &timing.method);
    row("backbone", &timing.backbone);
    row("batch", timing.batch);
    row("precision", timing.precision.dtype().name());
    row("device", &timing.device);
    row("trainable", timing.trainable);
    if let (Some(median), Some(mean)) = (timing.median_seconds, timing.mean_seconds) {
        let (median, mean) = (milliseconds(median), milliseconds(mean));
        let steps = timing.steps;
        row(
            "step",
            format_args!("{median} (median of {steps}; mean {mean})"),
        );
    }
    if let Some(training) = timing.images_per_second {
        row("training", speed(training));
    }
    if let Some(inference) = timing.inference_images_per_second {
        row("inference", speed(inference));
    }
    if let Some(arithmetic) = timing.gflop_per_second {
        let (step, arithmetic) = (significant(timing.gflop_per_step), gigaflops(arithmetic));
        row(
            "arithmetic",
            format_args!("{step} GFLOP per step, {arithmetic}"),
        );
    }
    let random = if timing.random_weights {
        ", random"
    } else {
        ""
    };
    let weights = mebibytes(timing.weights_bytes);
    row("weights", format_args!("{weights}{random}"));
    row("peak memory", mebibytes(timing.peak_bytes));
    if let Some(kept) = timing.kept_bytes {
        row("kept for backward", mebibytes(kept));
    }
}
