//! `runner bench`: times training steps and inference with random images, in the code that trains.

use std::io;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use peft_core::flops::Flops;
use peft_core::{Model, params};
use serde::Serialize;

use crate::cli::args::{ConfigArgs, Format, PlaceArgs};
use crate::commands::on_pool;
use crate::config::experiment::Experiment;
use crate::config::recipe::Precision;
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::measure::memory;
use crate::measure::{self, Repeats, median};
use crate::model::trial::Trial;
use crate::run::progress::Reporter;
use crate::train::Trainer;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// Time training steps and inference with random images, in the code that trains.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner bench --config peft/lora-r10.yaml --steps 20")]
pub struct BenchArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Steps before the clock starts.
    #[arg(long, default_value_t = 3)]
    pub warmup: usize,
    /// Steps that are timed; medians are printed.
    #[arg(long, default_value_t = 10)]
    pub steps: usize,
    /// What to time.
    #[arg(long, default_value = "both")]
    pub what: Timed,
    /// Time again, without a warm-up, for every line on stdin until it ends: for measurements that
    /// take turns with another program's.
    #[arg(long)]
    pub again: bool,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// What a benchmark times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Timed {
    /// Training steps.
    Training,
    /// Forward passes from image to logits.
    Inference,
    /// Both, one after the other.
    Both,
}

/// What was timed and how long it took.
#[derive(Debug, Default, Serialize)]
struct Timing {
    method: String,
    backbone: String,
    batch: usize,
    precision: Precision,
    device: String,
    trainable: usize,
    warmup: usize,
    steps: usize,
    /// Of each training step.
    seconds: Vec<f64>,
    /// Of each forward pass from image to logits.
    inference_seconds: Vec<f64>,
    median_seconds: Option<f64>,
    mean_seconds: Option<f64>,
    images_per_second: Option<f64>,
    inference_images_per_second: Option<f64>,
    /// 10^9 operations of a training step, by arithmetic.
    gflop_per_step: f64,
    /// The same over the median time.
    gflop_per_second: Option<f64>,
    /// Of all parameters and buffers.
    weights_bytes: usize,
    /// Of the images and labels.
    batch_bytes: usize,
    /// While training, else in inference; weights included; on CUDA the device's pool.
    peak_bytes: usize,
    /// What the forward pass of a training step leaves for the backward.
    kept_bytes: Option<usize>,
}

/// Times training steps of the configured experiment.
pub fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/",
        ));
    };
    if args.steps == 0 {
        return Err(config_error("--steps: expected at least 1, got 0"));
    }
    let experiment = Experiment::read(config, &args.config.set)?;
    on_pool(&args.place, |device| {
        let (trial, model) = Trial::open(experiment, &device)?;
        time(&trial, model, &device, args)
    })
}

fn time(trial: &Trial, model: Model, device: &Chosen, args: &BenchArgs) -> Result<(), Failure> {
    let mut repeats = Repeats {
        warmup: args.warmup,
        steps: args.steps,
    };
    let batch = measure::random_batch(trial, device);
    let images = trial.experiment.recipe.batch_size;
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    let mut timing = Timing {
        method: methods.join("+"),
        backbone: trial.spec.name.clone(),
        batch: images,
        precision: trial.experiment.recipe.precision,
        device: device.name.clone(),
        trainable: model.counts().trainable,
        warmup: args.warmup,
        steps: args.steps,
        gflop_per_step: images as f64 * Flops::of(&model).step() as f64 / 1e9,
        weights_bytes: params::infos(&model).iter().map(|info| info.bytes).sum(),
        batch_bytes: measure::batch_bytes(trial),
        ..Timing::default()
    };
    let mut reporter = Reporter::unlogged();
    let mut trainer = Trainer::new(trial, model, device, None, Arc::default(), &mut reporter)?;
    if args.what != Timed::Inference {
        let memory = measure::step_memory(&mut trainer, &batch, device)?;
        (timing.peak_bytes, timing.kept_bytes) = (memory.peak, Some(memory.kept));
    }
    let mut lines = io::stdin().lines();
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
            Format::Json => {
                let json =
                    serde_json::to_string(&timing).map_err(|e| failure(Exit::Unexpected, e))?;
                println!("{json}");
            }
        }
        if !args.again || !matches!(lines.next(), Some(Ok(_))) {
            return Ok(());
        }
        // It is warm.
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

/// The result, on stdout.
fn print(timing: &Timing) {
    let mebibytes = |bytes: usize| format!("{bytes} bytes ({:.1} MiB)", bytes as f64 / MEBIBYTE);
    let precision = format!("{:?}", timing.precision).to_lowercase();
    let (steps, flops) = (timing.steps, timing.gflop_per_step);
    let speed = |speed: f64| format!("{speed:.1} images/s");
    let rows = [
        ("method", Some(timing.method.clone())),
        ("backbone", Some(timing.backbone.clone())),
        ("batch", Some(timing.batch.to_string())),
        ("precision", Some(precision)),
        ("device", Some(timing.device.clone())),
        ("trainable", Some(timing.trainable.to_string())),
        (
            "median",
            (timing.median_seconds).map(|median| format!("{median:.4} s a step (of {steps})")),
        ),
        (
            "mean",
            (timing.mean_seconds).map(|mean| format!("{mean:.4} s a step")),
        ),
        ("training", timing.images_per_second.map(speed)),
        ("inference", timing.inference_images_per_second.map(speed)),
        (
            "arithmetic",
            (timing.gflop_per_second)
                .map(|speed| format!("{flops:.3} GFLOP a step, {speed:.1} GFLOP/s")),
        ),
        ("weights", Some(mebibytes(timing.weights_bytes))),
        ("peak memory", Some(mebibytes(timing.peak_bytes))),
        ("kept for backward", timing.kept_bytes.map(mebibytes)),
    ];
    for (key, value) in rows {
        if let Some(value) = value {
            println!("{key:<18}{value}");
        }
    }
}
