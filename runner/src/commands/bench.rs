//! `runner bench`: times training steps and inference with random images, in the code that trains.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use peft_core::flops::Flops;
use peft_core::random::Generator;
use peft_core::{Activation, Model};
use serde::Serialize;

use crate::cli::{BenchArgs, Format};
use crate::commands::on_pool;
use crate::data::Batch;
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::experiment::Experiment;
use crate::memory;
use crate::progress::Reporter;
use crate::recipe::Precision;
use crate::train::Trainer;
use crate::trial::Trial;

/// What was timed and how long it took.
#[derive(Debug, Serialize)]
struct Timing {
    method: String,
    backbone: String,
    batch: usize,
    precision: Precision,
    device: String,
    trainable: usize,
    warmup: usize,
    steps: usize,
    median_seconds: f64,
    mean_seconds: f64,
    images_per_second: f64,
    inference_images_per_second: f64,
    /// 10^9 operations of a training step, by arithmetic.
    gflop_per_step: f64,
    /// The same over the median time.
    gflop_per_second: f64,
    /// While training, weights included; on CUDA the device's pool.
    peak_bytes: usize,
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
        let timing = time(&trial, model, &device, args)?;
        match args.format {
            Format::Text => print(&timing),
            Format::Json => {
                let json =
                    serde_json::to_string(&timing).map_err(|e| failure(Exit::Unexpected, e))?;
                println!("{json}");
            }
        }
        Ok(())
    })
}

fn time(trial: &Trial, model: Model, device: &Chosen, args: &BenchArgs) -> Result<Timing, Failure> {
    let batch = random_batch(trial, device);
    let (name, counts) = (trial.spec.name.clone(), model.counts());
    let flops = Flops::of(&model);
    let mut reporter = Reporter::unlogged();
    // No checkpoint: the path is no file and nothing is saved.
    let (path, interrupt) = (PathBuf::new(), Arc::default());
    let mut trainer = Trainer::new(trial, model, device, path, interrupt, &mut reporter)?;
    memory::reset_peak();
    let training = repeat(device, args, || {
        trainer.step(clone(&batch));
    })?;
    let peak_bytes = memory::peak(&device.device);

    let model = trainer.model();
    drop(trainer);
    let compute = trial.compute_type();
    let inference = repeat(device, args, || {
        let images = batch.x.clone().cast(compute);
        model.logits(images, 0, None);
    })?;

    let images = trial.experiment.recipe.batch_size;
    let gflop_per_step = images as f64 * flops.step() as f64 / 1e9;
    let methods = trial.experiment.method.iter();
    let methods: Vec<_> = methods.map(|method| method.typetag_name()).collect();
    Ok(Timing {
        method: methods.join("+"),
        backbone: name,
        batch: images,
        precision: trial.experiment.recipe.precision,
        device: device.name.clone(),
        trainable: counts.trainable,
        warmup: args.warmup,
        steps: args.steps,
        median_seconds: median(&training),
        mean_seconds: training.iter().sum::<f64>() / training.len() as f64,
        images_per_second: images as f64 / median(&training),
        inference_images_per_second: images as f64 / median(&inference),
        gflop_per_step,
        gflop_per_second: gflop_per_step / median(&training),
        peak_bytes,
    })
}

/// Seconds of each timed call of `step`, after the warm-up. The queue is empty when the clock
/// starts and when it stops.
fn repeat(device: &Chosen, args: &BenchArgs, mut step: impl FnMut()) -> Result<Vec<f64>, Failure> {
    let sync = || {
        let synced = device.device.sync();
        synced.map_err(|e| failure(Exit::Unexpected, format_args!("{}: {e:?}", device.name)))
    };
    let mut seconds = Vec::with_capacity(args.steps);
    for index in 0..args.warmup + args.steps {
        sync()?;
        let start = Instant::now();
        step();
        sync()?;
        if index >= args.warmup {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

/// Images uniform in `[-1, 1)` and labels, from the experiment's seed.
fn random_batch(trial: &Trial, device: &Chosen) -> Batch {
    let (rows, size) = (trial.experiment.recipe.batch_size, trial.input.size);
    let mut generator = Generator::new(trial.experiment.seed, "bench");
    let pixels: Vec<f32> = (0..rows * 3 * size * size)
        .map(|_| generator.uniform(-1.0, 1.0))
        .collect();
    let classes = trial.data.classes().len();
    let targets: Vec<usize> = (0..rows).map(|_| generator.below(classes)).collect();
    let labels: Vec<i64> = targets.iter().map(|&label| label as i64).collect();
    let images = TensorData::new(pixels, [rows, 3, size, size]);
    Batch {
        x: Activation::Map(Tensor::from_data(images, &device.device)),
        from: 0,
        labels: Tensor::from_data(TensorData::new(labels, [rows]), &device.device),
        groups: Vec::new(),
        places: (0..rows).collect(),
        targets,
        lambda: None,
    }
}

/// The same batch; the tensors are shared.
fn clone(batch: &Batch) -> Batch {
    Batch {
        x: batch.x.clone(),
        from: batch.from,
        labels: batch.labels.clone(),
        targets: batch.targets.clone(),
        groups: batch.groups.clone(),
        places: batch.places.clone(),
        lambda: batch.lambda.clone(),
    }
}

/// The middle value, or the mean of the two middle ones.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The result, on stdout.
fn print(timing: &Timing) {
    let mib = timing.peak_bytes as f64 / (1 << 20) as f64;
    let precision = format!("{:?}", timing.precision).to_lowercase();
    let rows = [
        ("method", timing.method.clone()),
        ("backbone", timing.backbone.clone()),
        ("batch", timing.batch.to_string()),
        ("precision", precision),
        ("device", timing.device.clone()),
        ("trainable", timing.trainable.to_string()),
        (
            "median",
            format!(
                "{:.4} s a step (of {})",
                timing.median_seconds, timing.steps
            ),
        ),
        ("mean", format!("{:.4} s a step", timing.mean_seconds)),
        (
            "training",
            format!("{:.1} images/s", timing.images_per_second),
        ),
        (
            "inference",
            format!("{:.1} images/s", timing.inference_images_per_second),
        ),
        (
            "arithmetic",
            format!(
                "{:.3} GFLOP a step, {:.1} GFLOP/s",
                timing.gflop_per_step, timing.gflop_per_second
            ),
        ),
        (
            "peak memory",
            format!("{} bytes ({mib:.1} MiB)", timing.peak_bytes),
        ),
    ];
    for (key, value) in rows {
        println!("{key:<18}{value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }
}
