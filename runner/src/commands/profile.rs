//! `runner profile`: measures the cost of an experiment. It prints parameters, arithmetic by
//! formula, memory by its purpose, the time of each part of a step, and the share of the
//! matrix-product peak of the device that it reaches.

use std::sync::Arc;

use clap::Args;
use peft_core::Model;
use peft_core::flops::Flops;
use peft_core::params::{self, ParamInfo};
use serde::Serialize;

use crate::cli::args::{ConfigArgs, Format, PlaceArgs, StepsArgs};
use crate::commands::print::json;
use crate::commands::{at_least_one, experiment, methods, on_pool};
use crate::config::recipe::Precision;
use crate::device::ComputeDevice;
use crate::exit::{Exit, Failure, failure};
use crate::measure::{self, Repeats, StepMemory, median, memory, peak};
use crate::model::trial::Trial;
use crate::report::numbers::{gigaflops, in_mebibytes, speed as images_per_second};
use crate::run::progress::Reporter;
use crate::run::summary::Params;
use crate::train::Trainer;

/// Measure what an experiment costs: parameters, arithmetic, memory, and time by part.
///
/// Arithmetic is counted by formula, and memory by its purpose. The time of each part of a step
/// comes with the share of the device's matrix-product peak that it reaches.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner profile --config peft/ap.yaml --threads 4")]
pub struct ProfileArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub steps: StepsArgs,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Everything that is printed.
#[derive(Serialize)]
struct Profile {
    method: String,
    backbone: String,
    dataset: String,
    batch: usize,
    precision: Precision,
    device: String,
    threads: usize,
    warmup: usize,
    steps: usize,
    first_cut: String,
    params: Params,
    flops_per_image: Arithmetic,
    memory: Memory,
    seconds: Seconds,
    images_per_second: f64,
    inference_images_per_second: f64,
    speed: Speed,
}

/// Floating-point operations of one image, by formula.
#[derive(Serialize)]
struct Arithmetic {
    #[serde(flatten)]
    flops: Flops,
    forward: u64,
    backward: u64,
    step: u64,
}

/// Bytes by their purpose.
#[derive(Serialize)]
struct Memory {
    /// The backbone and the head, buffers included.
    weights: usize,
    adapter: usize,
    /// Bytes that the forward pass allocated and that are still live when it ends.
    kept_for_backward: usize,
    /// One value for every parameter that trains.
    gradients: usize,
    /// The state that the first step of the optimiser leaves.
    optimizer: usize,
    /// The most bytes that were live at once in two steps, including all of the above; on CUDA the
    /// size of the pool.
    peak: usize,
    /// The pool of the device after the last step, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<Pool>,
}

/// A device's pool.
#[derive(Serialize)]
struct Pool {
    in_use: usize,
    reserved: usize,
}

/// Medians of the time that a batch takes, in seconds.
#[derive(Serialize)]
struct Seconds {
    /// Reading a batch from the data set onto the device. Training does this while the step before
    /// runs.
    data: f64,
    prefix: f64,
    forward: f64,
    backward: f64,
    optimizer: f64,
    /// A step, without data and without waiting between its parts.
    step: f64,
    inference: f64,
}

/// 10^9 operations per second, and shares of the peak.
#[derive(Serialize)]
struct Speed {
    /// The speed of the fastest product of square matrices in the precision of the experiment.
    matmul_peak: f64,
    step: f64,
    /// Share of the peak that the prefix reaches.
    share_prefix: Option<f64>,
    /// Share that the rest of the forward pass reaches.
    share_forward: Option<f64>,
    /// Share that the backward pass reaches.
    share_backward: Option<f64>,
    /// Share that the whole step reaches.
    share_step: f64,
}

/// Profiles the configured experiment.
pub fn profile(args: &ProfileArgs) -> Result<(), Failure> {
    at_least_one("--steps", args.steps.steps)?;
    let experiment = measure::with_weights(experiment(&args.config)?);
    on_pool(&args.place, |device| {
        let (trial, model) = Trial::open(experiment, &device)?;
        let profile = Profile::of(&trial, model, &device, args)?;
        match args.format {
            Format::Text => print(&profile),
            Format::Json => json(&profile)?,
        }
        Ok(())
    })
}

impl Profile {
    fn of(
        trial: &Trial,
        model: Model,
        device: &ComputeDevice,
        args: &ProfileArgs,
    ) -> Result<Self, Failure> {
        let (counts, flops) = (model.counts(), Flops::of(&model));
        let (weights, adapter) = bytes(&model);
        let first_cut = match trial.spec.boundaries.get(model.first_cut()) {
            Some(boundary) => boundary.to_string(),
            None => "the features".to_owned(),
        };
        let measured = Measured::of(trial, model, device, args)?;
        let precision = trial.experiment.recipe.precision;
        // This runs last, because on a GPU the pool keeps the memory of these products, which would
        // count in the peak of the step.
        let peak = peak::matmul(device, precision.dtype())
            .map_err(|e| failure(Exit::Unexpected, format_args!("{}: {e}", device.name)))?;
        let Measured {
            images,
            step_memory: taken,
            pool,
            seconds,
        } = measured;
        Ok(Self {
            method: methods(trial),
            backbone: trial.spec.name.clone(),
            dataset: trial.experiment.dataset.typetag_name().to_owned(),
            batch: images,
            precision,
            device: device.name.clone(),
            threads: rayon::current_num_threads(),
            warmup: args.steps.warmup,
            steps: args.steps.steps,
            first_cut,
            params: Params::new(counts, trial.formula),
            flops_per_image: Arithmetic::new(flops),
            memory: Memory {
                weights,
                adapter,
                kept_for_backward: taken.kept,
                gradients: taken.gradients,
                optimizer: taken.optimizer,
                peak: taken.peak,
                pool,
            },
            images_per_second: images as f64 / seconds.step,
            inference_images_per_second: images as f64 / seconds.inference,
            speed: Speed::new(flops, images, &seconds, peak),
            seconds,
        })
    }
}

/// Bytes of the backbone with its head, and of the adapters.
fn bytes(model: &Model) -> (usize, usize) {
    let of_backbone = |info: &ParamInfo| {
        let room = info.name.split('.').next();
        // The names of adapters begin with that of their method.
        matches!(room, Some("backbone" | "head"))
    };
    let infos = params::infos(model);
    let (backbone, adapter): (Vec<_>, Vec<_>) = infos.iter().partition(|info| of_backbone(info));
    let sum = |infos: Vec<&ParamInfo>| infos.iter().map(|info| info.bytes).sum();
    (sum(backbone), sum(adapter))
}

/// The figures that require a run of the model.
struct Measured {
    /// Images of a batch.
    images: usize,
    step_memory: StepMemory,
    pool: Option<Pool>,
    seconds: Seconds,
}

impl Measured {
    fn of(
        trial: &Trial,
        model: Model,
        device: &ComputeDevice,
        args: &ProfileArgs,
    ) -> Result<Self, Failure> {
        let repeats = Repeats::from(args.steps);
        let reporter = Reporter::unlogged();
        let mut trainer = Trainer::new(trial, model, device, None, Arc::default(), &reporter)?;
        let (batch, data) = measure::data(&trainer, device, repeats)?;
        // These are the first steps, because those show how much the state of the optimiser takes.
        let step_memory = measure::step_memory(&mut trainer, &batch, device)?;
        let steps = measure::repeat(device, repeats, || {
            // All steps train on the same batch: reading the data is timed by itself above.
            trainer.step(batch.clone(), &mut |_| ());
        })?;
        let parts = measure::parts(&mut trainer, &batch, device, repeats)?;
        let pool = memory::pool(&device.device).map(|(in_use, reserved)| Pool { in_use, reserved });
        let trained = trainer.model();
        let inference = measure::inference(&trained, trial, &batch, device, repeats)?;
        Ok(Self {
            images: batch.targets.len(),
            step_memory,
            pool,
            seconds: Seconds {
                data: median(&data),
                prefix: median(&parts.prefix),
                forward: median(&parts.forward),
                backward: median(&parts.backward),
                optimizer: median(&parts.optimizer),
                step: median(&steps),
                inference: median(&inference),
            },
        })
    }
}

impl Arithmetic {
    fn new(flops: Flops) -> Self {
        Self {
            forward: flops.forward(),
            backward: flops.backward(),
            step: flops.step(),
            flops,
        }
    }
}

impl Speed {
    /// Computes the speeds from the arithmetic of one image, the images of a batch and the peak in
    /// GFLOP/s.
    fn new(flops: Flops, images: usize, seconds: &Seconds, peak: f64) -> Self {
        let speed =
            |operations: u64, seconds: f64| images as f64 * operations as f64 / seconds / 1e9;
        // A part without operations has no share of the peak, whatever its time.
        let share = |operations: u64, seconds: f64| {
            (operations > 0).then(|| speed(operations, seconds) / peak)
        };
        let step = speed(flops.step(), seconds.step);
        Self {
            matmul_peak: peak,
            step,
            share_prefix: share(flops.prefix, seconds.prefix),
            share_forward: share(flops.suffix + flops.adapter, seconds.forward),
            share_backward: share(flops.backward(), seconds.backward),
            share_step: step / peak,
        }
    }
}

/// Prints the result for people on stdout.
fn print(profile: &Profile) {
    let Profile {
        params,
        flops_per_image: arithmetic,
        memory,
        seconds,
        speed,
        ..
    } = profile;
    let row = |key: &str, value: String| println!("  {key:<22}{value}");
    let precision = profile.precision.dtype().name();
    println!(
        "{} on {}, {}: batch {}, {precision}, {}, {} threads; medians of {} after {}",
        profile.method,
        profile.backbone,
        profile.dataset,
        profile.batch,
        profile.device,
        profile.threads,
        profile.steps,
        profile.warmup,
    );
    println!("prefix ends at {}", profile.first_cut);

    println!("\nparameters");
    row("all", params.total.to_string());
    row("trainable", params.trainable.to_string());
    row("  adapter", params.adapter.to_string());
    row("  tuned", params.tuned.to_string());
    row("  head", params.head.to_string());

    println!("\nGFLOP per image, by formula");
    let giga = |operations: u64| format!("{:.3}", operations as f64 / 1e9);
    row("forward", giga(arithmetic.forward));
    row("  prefix", giga(arithmetic.flops.prefix));
    row("  suffix", giga(arithmetic.flops.suffix));
    row("  adapter", giga(arithmetic.flops.adapter));
    row("backward", giga(arithmetic.backward));
    row("  of activations", giga(arithmetic.flops.activations));
    row("  of weights", giga(arithmetic.flops.weights));

    println!("\nmemory, MiB");
    let mebibytes = |bytes: usize| format!("{:.1}", in_mebibytes(bytes));
    row("weights", mebibytes(memory.weights));
    row("adapter", mebibytes(memory.adapter));
    row("kept for backward", mebibytes(memory.kept_for_backward));
    row("gradients", mebibytes(memory.gradients));
    row("optimiser", mebibytes(memory.optimizer));
    row("peak of all", mebibytes(memory.peak));
    if let Some(pool) = &memory.pool {
        let (used, reserved) = (mebibytes(pool.in_use), mebibytes(pool.reserved));
        row("pool", format!("{used} in use of {reserved}"));
    }

    println!("\nmilliseconds per step, and share of the matrix-product peak");
    let time = |key, seconds: f64, share: Option<f64>| {
        let share = share.map_or(String::new(), |share| format!("{:8.1} %", 100.0 * share));
        row(key, format!("{:8.2}{share}", 1e3 * seconds));
    };
    time("data", seconds.data, None);
    time("prefix", seconds.prefix, speed.share_prefix);
    time("forward", seconds.forward, speed.share_forward);
    time("backward", seconds.backward, speed.share_backward);
    time("optimiser", seconds.optimizer, None);
    time("step", seconds.step, Some(speed.share_step));
    println!(
        "  (training prepares the data while the step before runs; it is not part of the step)"
    );

    println!("\nspeed");
    row("training", images_per_second(profile.images_per_second));
    let inference = profile.inference_images_per_second;
    row("inference", images_per_second(inference));
    row("step", gigaflops(speed.step));
    let (side, peak) = (peak::SIDE, gigaflops(speed.matmul_peak));
    row("peak", format!("{peak} ({side}^3, {precision})"));
}
