//! Metrics of a model on the images of a loader.

use std::time::Instant;

use burn::tensor::DType;
use peft_core::Model;
use peft_core::params::floats;

use crate::data::images::names;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};
use crate::train::metrics::{Metrics, Tally};
use crate::train::multi_label::MultiLabel;
use crate::train::outputs::Outputs;

/// Computes the metrics of a model on the images of a loader, and the seconds that its forward
/// passes took. A pass begins at the cut at which the batches of the loader are.
///
/// # Errors
/// If an image cannot be read and `on_error` is not `skip`, or none of them can.
pub fn evaluate(
    model: &Model,
    loader: &Loader,
    device: &ComputeDevice,
    compute: DType,
) -> Result<(Metrics, f64), Failure> {
    measure(model, loader, device, compute, None)
}

/// As [`evaluate`], and also returns the probabilities of all images, which some metrics need.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_all(
    model: &Model,
    loader: &Loader,
    device: &ComputeDevice,
    compute: DType,
) -> Result<(Metrics, f64, Outputs), Failure> {
    let mut outputs = Outputs::default();
    let (metrics, seconds) = measure(model, loader, device, compute, Some(&mut outputs))?;
    let auroc = outputs.auroc();
    Ok((Metrics { auroc, ..metrics }, seconds, outputs))
}

fn measure(
    model: &Model,
    loader: &Loader,
    device: &ComputeDevice,
    compute: DType,
    outputs: Option<&mut Outputs>,
) -> Result<(Metrics, f64), Failure> {
    let dataset = loader.images().dataset();
    let (groups, many) = (dataset.groups(), dataset.is_multi_label());
    // Images with several labels are scored over all of them.
    let mut own = Outputs::default();
    let mut outputs = outputs.or(many.then_some(&mut own));
    let mut tally = Tally::new(model.head.classes(), groups);
    let mut seconds = 0.0;
    loader.each(
        0..loader.batches(),
        Pass::Plain,
        &device.device,
        |_, batch| {
            let start = Instant::now();
            let x = batch.x.cast(compute);
            // Reading the logits waits for the device, so the clock covers the whole pass.
            let logits = floats(model.logits(x, batch.from, None).into_data());
            seconds += start.elapsed().as_secs_f64();
            tally.add(&logits, &batch.targets, &batch.groups);
            if let Some(outputs) = &mut outputs {
                outputs.add(&logits, &batch.targets, &batch.places);
            }
            Ok::<_, Failure>(true)
        },
    )?;
    let metrics = Metrics {
        skipped: loader.skipped(),
        multi_label: outputs.filter(|_| many).map(|all| MultiLabel::of(all)),
        ..tally.finish()
    };
    match metrics.images {
        0 => Err(none_readable(&names(loader.splits()))),
        _ => Ok((metrics, seconds)),
    }
}

pub fn none_readable(which: &str) -> Failure {
    config_error(format!("dataset: none of the {which} images can be read"))
}
