//! Measures training steps and inference of a trial, with the code that trains.

pub mod memory;
pub mod peak;

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use peft_core::random::Generator;
use peft_core::source::WeightsFile;
use peft_core::{Activation, Model, params};

use crate::config::experiment::Experiment;
use crate::config::find::missing_weights;
use crate::data::batch::Batch;
use crate::data::random::Pass;
use crate::data::targets::Targets;
use crate::device::ComputeDevice;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::trial::Trial;
use crate::train::Trainer;
use crate::train::step::Phase;

/// The number of times that something is measured.
#[derive(Clone, Copy, Debug)]
pub struct Repeats {
    /// Calls before the clock starts.
    pub warmup: usize,
    /// Calls that are timed.
    pub steps: usize,
}

/// The memory of training steps, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepMemory {
    /// The most at once, including weights; on CUDA the size of the device's pool.
    pub peak: usize,
    /// The bytes that the forward pass keeps for the backward pass.
    pub kept: usize,
    /// The gradients of everything that trains.
    pub gradients: usize,
    /// The optimiser's state.
    pub optimizer: usize,
}

/// Waits until the device has nothing left to do.
///
/// # Errors
/// If the device failed.
pub fn sync(device: &ComputeDevice) -> Result<(), Failure> {
    let synced = device.device.sync();
    synced.map_err(|e| failure(Exit::Unexpected, format_args!("{}: {e:?}", device.name)))
}

/// The seconds of each timed call of `step`, after the warm-up. The device's queue is empty when the clock
/// starts and when it stops.
///
/// # Errors
/// If the device failed.
pub fn repeat(
    device: &ComputeDevice,
    repeats: Repeats,
    mut step: impl FnMut(),
) -> Result<Vec<f64>, Failure> {
    let mut seconds = Vec::with_capacity(repeats.steps);
    for index in 0..repeats.warmup + repeats.steps {
        sync(device)?;
        let start = Instant::now();
        step();
        sync(device)?;
        let taken = start.elapsed().as_secs_f64();
        if index >= repeats.warmup {
            seconds.push(taken);
        } else if !device.is_cpu() {
            // The first steps compile and tune kernels, for minutes on a GPU.
            let of = repeats.warmup;
            eprintln!("warm-up {} of {of}: {taken:.2} s", index + 1);
        }
    }
    Ok(seconds)
}

/// The memory of two steps, the first of which makes the optimiser's state.
///
/// # Errors
/// If the device failed.
pub fn step_memory(
    trainer: &mut Trainer,
    batch: &Batch,
    device: &ComputeDevice,
) -> Result<StepMemory, Failure> {
    let live = || memory::live(&device.device);
    let model = trainer.model();
    let infos = params::infos(&model).into_iter();
    let trained = infos.filter(|info| model.trains(&info.name));
    let gradients: usize = trained.map(|info| info.bytes).sum();
    // A second owner of the parameters would force the step to copy them instead of changing them
    // in place.
    drop(model);
    let (mut kept, mut optimizer) = (0, 0);
    memory::reset_peak();
    // The second step shows what the forward pass keeps once the state exists.
    for first in [true, false] {
        sync(device)?;
        let before = live();
        let mut between = before;
        trainer.step(batch.clone(), &mut |phase| match phase {
            Phase::Prefix => (),
            Phase::Forward => kept = live().saturating_sub(before),
            Phase::Backward => between = live(),
            // The step freed the gradients and made the state, so the difference plus the gradients
            // is the state.
            Phase::Optimizer if first => {
                optimizer = (live() + gradients).saturating_sub(between);
            }
            Phase::Optimizer => (),
        });
    }
    sync(device)?;
    Ok(StepMemory {
        peak: memory::peak(&device.device),
        kept,
        gradients,
        optimizer,
    })
}

/// The seconds of each part of each timed training step. The device's queue is waited for after each part.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The frozen part below the first cut.
    pub prefix: Vec<f64>,
    /// The rest of the forward pass, from the first cut to the loss.
    pub forward: Vec<f64>,
    /// The backward pass, from the loss to the gradients.
    pub backward: Vec<f64>,
    /// The optimiser, from the gradients to the next parameters.
    pub optimizer: Vec<f64>,
}

/// Times the parts of training steps.
///
/// # Errors
/// If the device failed.
pub fn parts(
    trainer: &mut Trainer,
    batch: &Batch,
    device: &ComputeDevice,
    repeats: Repeats,
) -> Result<Parts, Failure> {
    let (mut parts, mut failed) = (Parts::default(), None);
    for index in 0..repeats.warmup + repeats.steps {
        sync(device)?;
        let mut start = Instant::now();
        trainer.step(batch.clone(), &mut |phase| {
            // A callback cannot return an error, so the first one is kept until the step is over.
            failed = failed.take().or(sync(device).err());
            let seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
            if index < repeats.warmup {
                return;
            }
            match phase {
                Phase::Prefix => parts.prefix.push(seconds),
                Phase::Forward => parts.forward.push(seconds),
                Phase::Backward => parts.backward.push(seconds),
                Phase::Optimizer => parts.optimizer.push(seconds),
            }
        });
    }
    match failed {
        None => Ok(parts),
        Some(failure) => Err(failure),
    }
}

/// Returns the first training batch, and the seconds between batches if nothing else is done with
/// them.
///
/// # Errors
/// If an image cannot be read and `on_error` is `fail`.
pub fn data(
    trainer: &Trainer,
    device: &ComputeDevice,
    repeats: Repeats,
) -> Result<(Batch, Vec<f64>), Failure> {
    let (loader, pass) = (trainer.training(), Pass::Training(trainer.random(0)));
    let wanted = (repeats.warmup + repeats.steps).min(loader.batches());
    let (mut first, mut seconds, mut last) = (None, Vec::new(), Instant::now());
    loader.each(0..wanted, pass, &device.device, |index, batch| {
        sync(device)?;
        // The wait for the first batch includes the start of the threads.
        if index >= repeats.warmup.min(wanted - 1) {
            seconds.push(last.elapsed().as_secs_f64());
        }
        last = Instant::now();
        first.get_or_insert(batch);
        Ok::<_, Failure>(true)
    })?;
    match first {
        Some(batch) => Ok((batch, seconds)),
        None => Err(config_error("dataset: it has no training images")),
    }
}

/// The seconds of each timed forward pass from images to logits.
///
/// # Errors
/// If the device failed.
pub fn inference(
    model: &Model,
    trial: &Trial,
    batch: &Batch,
    device: &ComputeDevice,
    repeats: Repeats,
) -> Result<Vec<f64>, Failure> {
    let compute = trial.compute_type();
    repeat(device, repeats, || {
        model.logits(batch.x.clone().cast(compute), 0, None);
    })
}

/// The experiment with random weights where those that it names are not there, since a measurement takes as
/// long with any values; says so on stderr.
pub fn with_weights(mut experiment: Experiment) -> Experiment {
    if let Some(why) = missing_weights(&*experiment.backbone) {
        eprintln!("backbone: {why}; measuring with random weights");
        let mut source = experiment.backbone.source();
        source.weights = Some(WeightsFile::RANDOM.into());
        experiment.backbone.set_source(source);
    }
    experiment
}

/// A batch of random images, as many as the recipe says.
pub fn random_batch(trial: &Trial, device: &ComputeDevice) -> Batch {
    random_rows(trial, device, trial.experiment.recipe.batch_size)
}

/// So many random images, uniform in `[-1, 1)`, and labels, from the experiment's seed.
pub fn random_rows(trial: &Trial, device: &ComputeDevice, rows: usize) -> Batch {
    let shape = trial.input.batch(rows);
    let mut generator = Generator::new(trial.experiment.seed, "bench");
    let pixels: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| generator.uniform(-1.0, 1.0))
        .collect();
    let classes = trial.data.classes().len();
    let labels = (0..rows).map(|_| generator.below(classes));
    let targets = match trial.data.is_multi_label() {
        false => Targets::One(labels.collect()),
        true => Targets::Many(labels.map(|label| vec![label]).collect()),
    };
    let images = TensorData::new(pixels, shape);
    Batch {
        x: Activation::Map(Tensor::from_data(images, &device.device)).into(),
        from: 0,
        groups: Vec::new(),
        places: (0..rows).collect(),
        targets,
        mixed: None,
    }
}

/// The bytes of the images and labels of a batch.
pub fn batch_bytes(trial: &Trial) -> usize {
    trial.experiment.recipe.batch_size
        * (trial.input.values() * size_of::<f32>() + size_of::<i64>())
}

/// The median: the middle value, or the mean of the two middle ones.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
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
