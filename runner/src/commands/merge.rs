//! `runner merge RUN --out FILE`: a checkpoint with the adapter folded into its weights.

use std::path::Path;

use peft_core::params::floats;
use peft_core::{Model, weights};

use crate::cli::{PlaceArgs, TrainedArgs};
use crate::commands::{Loaded, load, on_pool};
use crate::data::random::Pass;
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::trial::{Trial, checkpoint_tensors};

/// How far merged logits may be from unmerged ones, over the largest of them or 1.
const TOLERANCE: f32 = 1e-4;

/// Folds, checks the logits on images of the test split, and writes.
pub fn merge(which: &TrainedArgs, out: &Path, place: &PlaceArgs) -> Result<(), Failure> {
    if out.exists() {
        let message = format!("--out {}: it is there already", out.display());
        return Err(config_error(message));
    }
    on_pool(place, |device| {
        let Loaded { trial, model } = load(which, &device)?;
        let merged = model.merged()?;
        let (images, error) = difference(&trial, &model, &merged, &device)?;
        if error.is_nan() || error > TOLERANCE {
            return Err(failure(
                Exit::Unexpected,
                format_args!(
                    "merged and unmerged logits differ by {error:.1e} of the largest one, allowed \
                     {TOLERANCE:.0e}; nothing was written"
                ),
            ));
        }
        let metadata = [("format".to_owned(), "pt".to_owned())];
        weights::write(out, &checkpoint_tensors(&merged), metadata.into())?;
        println!("checked           {images} validation images, logits within {error:.1e}");
        println!("checkpoint        {}", out.display());
        Ok(())
    })
}

/// On how many images, and by how much at most, the logits differ.
fn difference(
    trial: &Trial,
    model: &Model,
    merged: &Model,
    device: &Chosen,
) -> Result<(usize, f32), Failure> {
    let batch_size = trial.experiment.recipe.batch_size;
    let loader = trial.data.validation(trial.preprocess(), batch_size);
    let (mut images, mut error) = (0, 0.0f32);
    let batches = loader.batches().min(2);
    loader.each(0..batches, Pass::Plain, &device.device, |_, batch| {
        let x = batch.x.cast(trial.compute_type());
        let logits = |model: &Model| floats(model.logits(x.clone(), 0, None).into_data());
        let (expected, got) = (logits(model), logits(merged));
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let worst = expected
            .iter()
            .zip(got)
            .fold(0.0, |m: f32, (a, b)| match (a - b).is_nan() {
                true => f32::NAN,
                false => m.max((a - b).abs()),
            });
        // A NaN stays: `max` would drop it.
        error = if worst.is_nan() {
            worst
        } else {
            error.max(worst / scale)
        };
        images += batch.targets.len();
        Ok::<_, Failure>(!error.is_nan())
    })?;
    Ok((images, error))
}
