//! `runner profile`: what an experiment costs. Parameters, arithmetic by formula, memory by what it is
//! for, the time of each part of a step, and what share of the device's matrix-product peak that is.

use std::sync::Arc;

use burn::tensor::DType;
use clap::Args;
use peft_core::Model;
use peft_core::flops::Flops;
use peft_core::params::{self, ParamInfo};
use serde::Serialize;

use crate::cli::args::{ConfigArgs, Format, PlaceArgs};
use crate::commands::on_pool;
use crate::config::experiment::Experiment;
use crate::config::recipe::Precision;
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::measure::memory;
use crate::measure::peak;
use crate::measure::{self, Repeats, median};
use crate::model::trial::Trial;
use crate::run::progress::Reporter;
use crate::run::summary::Params;
use crate::train::Trainer;

/// Measure what an experiment costs: parameters, arithmetic, memory by purpose, the time of each part
/// of a step, and its share of the device's matrix-product peak.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner profile --config peft/ap.yaml --threads 4")]
pub struct ProfileArgs {
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
    /// How to print.
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

/// Bytes by what they are for.
#[derive(Serialize)]
struct Memory {
    /// The backbone and the head, buffers included.
    weights: usize,
    adapter: usize,
    /// Live after the forward pass and not before it.
    kept_for_backward: usize,
    /// One value for everything that trains.
    gradients: usize,
    /// What the first step of the optimiser left.
    optimizer: usize,
    /// Most that was live at once in two steps, all of the above included; on CUDA the pool.
    peak: usize,
    /// The device's pool after the last step, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<Pool>,
}

/// A device's pool.
#[derive(Serialize)]
struct Pool {
    in_use: usize,
    reserved: usize,
}

/// Medians.
#[derive(Serialize)]
struct Seconds {
    /// From the data set to a batch on the device. In training it is prepared beside the step before.
    data: f64,
    prefix: f64,
    forward: f64,
    backward: f64,
    optimizer: f64,
    /// A step without waiting between its parts, data excluded.
    step: f64,
    inference: f64,
}

/// 10^9 operations a second, and shares of the peak.
#[derive(Serialize)]
struct Speed {
    /// The fastest product of square matrices of the precision.
    matmul_peak: f64,
    step: f64,
    /// Of the peak: the prefix, the rest of the forward pass, the backward pass, the step.
    share_prefix: Option<f64>,
    share_forward: Option<f64>,
    share_backward: Option<f64>,
    share_step: f64,
}

/// Profiles the configured experiment.
pub fn profile(args: &ProfileArgs) -> Result<(), Failure> {
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
        let profile = measure(&trial, model, &device, args)?;
        match args.format {
            Format::Text => print(&profile),
            Format::Json => {
                let json = serde_json::to_string_pretty(&profile)
                    .map_err(|e| failure(Exit::Unexpected, e))?;
                println!("{json}");
            }
        }
        Ok(())
    })
}

fn measure(
    trial: &Trial,
    model: Model,
    device: &Chosen,
    args: &ProfileArgs,
) -> Result<Profile, Failure> {
    let repeats = Repeats {
        warmup: args.warmup,
        steps: args.steps,
    };
    let (counts, flops) = (model.counts(), Flops::of(&model));
    let of_backbone = |info: &&ParamInfo| {
        let room = info.name.split('.').next();
        matches!(room, Some("backbone" | "head"))
    };
    let infos = params::infos(&model);
    let all: usize = infos.iter().map(|info| info.bytes).sum();
    let weights = infos
        .iter()
        .filter(of_backbone)
        .map(|info| info.bytes)
        .sum();
    let first_cut = match trial.spec.boundaries.get(model.first_cut()) {
        Some(boundary) => boundary.to_string(),
        None => "the features".to_owned(),
    };
    let mut reporter = Reporter::unlogged();
    let mut trainer = Trainer::new(trial, model, device, None, Arc::default(), &mut reporter)?;

    let (batch, data) = measure::data(&trainer, device, repeats)?;
    let taken = measure::step_memory(&mut trainer, &batch, device)?;
    let steps = measure::repeat(device, repeats, || {
        trainer.step(batch.clone(), &mut |_| ());
    })?;
    let parts = measure::parts(&mut trainer, &batch, device, repeats)?;
    let pool = memory::pool(&device.device).map(|(in_use, reserved)| Pool { in_use, reserved });
    let trained = trainer.model();
    let inference = measure::inference(&trained, trial, &batch, device, repeats)?;
    let (precision, dtype) = match trial.experiment.recipe.precision {
        Precision::F32 => (Precision::F32, DType::F32),
        Precision::Bf16 => (Precision::Bf16, DType::BF16),
    };
    let peak = peak::matmul(device, dtype)
        .map_err(|e| failure(Exit::Unexpected, format_args!("{}: {e}", device.name)))?;

    let images = batch.targets.len() as f64;
    let seconds = Seconds {
        data: median(&data),
        prefix: median(&parts.prefix),
        forward: median(&parts.forward),
        backward: median(&parts.backward),
        optimizer: median(&parts.optimizer),
        step: median(&steps),
        inference: median(&inference),
    };
    let speed = |operations: u64, seconds: f64| images * operations as f64 / seconds / 1e9;
    let share =
        |operations: u64, seconds: f64| (operations > 0).then(|| speed(operations, seconds) / peak);
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    Ok(Profile {
        method: methods.join("+"),
        backbone: trial.spec.name.clone(),
        dataset: trial.experiment.dataset.typetag_name().to_owned(),
        batch: batch.targets.len(),
        precision,
        device: device.name.clone(),
        threads: rayon::current_num_threads(),
        warmup: args.warmup,
        steps: args.steps,
        first_cut,
        params: Params::new(counts, trial.formula),
        memory: Memory {
            weights,
            adapter: all - weights,
            kept_for_backward: taken.kept,
            gradients: taken.gradients,
            optimizer: taken.optimizer,
            peak: taken.peak,
            pool,
        },
        images_per_second: images / seconds.step,
        inference_images_per_second: images / seconds.inference,
        speed: Speed {
            matmul_peak: peak,
            step: speed(flops.step(), seconds.step),
            share_prefix: share(flops.prefix, seconds.prefix),
            share_forward: share(flops.suffix + flops.adapter, seconds.forward),
            share_backward: share(flops.backward(), seconds.backward),
            share_step: speed(flops.step(), seconds.step) / peak,
        },
        flops_per_image: Arithmetic {
            flops,
            forward: flops.forward(),
            backward: flops.backward(),
            step: flops.step(),
        },
        seconds,
    })
}

/// The result for people, on stdout.
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
    let precision = format!("{:?}", profile.precision).to_lowercase();
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

    println!("\nGFLOP an image, by formula");
    let giga = |operations: u64| format!("{:.3}", operations as f64 / 1e9);
    row("forward", giga(arithmetic.forward));
    row("  prefix", giga(arithmetic.flops.prefix));
    row("  suffix", giga(arithmetic.flops.suffix));
    row("  adapter", giga(arithmetic.flops.adapter));
    row("backward", giga(arithmetic.backward));
    row("  of activations", giga(arithmetic.flops.activations));
    row("  of weights", giga(arithmetic.flops.weights));

    println!("\nmemory, MiB");
    let mebibytes = |bytes: usize| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
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

    println!("\nmilliseconds a step, and share of the matrix-product peak");
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
    println!("  (data is prepared beside the step before it and is not in the step's time)");

    println!("\nspeed");
    row(
        "training",
        format!("{:.1} images/s", profile.images_per_second),
    );
    let inference = profile.inference_images_per_second;
    row("inference", format!("{inference:.1} images/s"));
    row("step", format!("{:.1} GFLOP/s", speed.step));
    let side = peak::SIDE;
    let peak = speed.matmul_peak;
    row("peak", format!("{peak:.1} GFLOP/s ({side}^3, {precision})"));
}
