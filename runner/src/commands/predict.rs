//! `runner predict RUN IMAGE..`: the most likely classes of image files.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use peft_core::params::floats;
use peft_core::{Activation, Model};
use peft_datasets::{Preprocess, decode};
use rayon::prelude::*;
use serde_json::json;

use crate::cli::{Format, PlaceArgs};
use crate::commands::{Loaded, classes, load_run, on_pool};
use crate::data::preprocess;
use crate::device::Chosen;
use crate::exit::{Failure, config_error};
use crate::trial::Trial;

/// Predicts the `top` most likely classes of each image with a finished run.
pub fn predict(
    run: &Path,
    images: &[PathBuf],
    top: usize,
    place: &PlaceArgs,
    format: Format,
) -> Result<(), Failure> {
    if top == 0 {
        return Err(config_error("--top: expected at least 1, got 0"));
    }
    on_pool(place, |device| {
        let Loaded { trial, model } = load_run(run, &device)?;
        let names = classes(&*trial.dataset);
        // All of them before the first line: a bad image leaves nothing half done.
        let mut ranked = Vec::with_capacity(images.len());
        for paths in images.chunks(trial.experiment.recipe.batch_size) {
            let logits = logits(paths, &trial, &model, &device)?;
            let rows = logits.chunks_exact(names.len());
            ranked.extend(rows.map(|row| best(&softmax(row), top)));
        }
        match format {
            Format::Text => print_text(images, &ranked, &names),
            Format::Json => print_json(images, &ranked, &names),
        }
        Ok(())
    })
}

/// The logits of some image files, `[b * classes]` row by row.
fn logits(
    paths: &[PathBuf],
    trial: &Trial,
    model: &Model,
    device: &Chosen,
) -> Result<Vec<f32>, Failure> {
    let preprocess = preprocess(&trial.input);
    let (values, size) = (preprocess.values(), preprocess.size);
    let mut pixels = vec![0.0; values * paths.len()];
    pixels
        .par_chunks_mut(values)
        .zip(paths)
        .try_for_each(|(pixels, path)| read(path, &preprocess, pixels))?;
    let images = TensorData::new(pixels, [paths.len(), 3, size, size]);
    let images = Activation::Map(Tensor::from_data(images, &device.device));
    let logits = model.logits(images.cast(trial.compute_type()), 0, None);
    Ok(floats(logits.into_data()))
}

/// Decodes and preprocesses one image into `pixels [3 * size * size]`.
fn read(path: &Path, preprocess: &Preprocess, pixels: &mut [f32]) -> Result<(), Failure> {
    let image = decode(path).map_err(config_error)?;
    preprocess
        .apply(&image, pixels)
        .map_err(|e| config_error(format_args!("{}: {e}", path.display())))
}

/// Probabilities of a row of logits.
fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let powers: Vec<f64> = logits.iter().map(|&v| f64::from(v - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The `top` largest probabilities with their labels; ties go to the smaller label.
fn best(probabilities: &[f64], top: usize) -> Vec<(usize, f64)> {
    let mut ranked: Vec<_> = probabilities.iter().copied().enumerate().collect();
    ranked.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
    ranked.truncate(top);
    ranked
}

fn print_text(images: &[PathBuf], ranked: &[Vec<(usize, f64)>], names: &[String]) {
    for (image, predictions) in images.iter().zip(ranked) {
        for &(label, probability) in predictions {
            println!("{}  {}  {probability:.4}", image.display(), names[label]);
        }
    }
}

fn print_json(images: &[PathBuf], ranked: &[Vec<(usize, f64)>], names: &[String]) {
    let prediction = |&(label, probability): &(usize, f64)| json!({ "class": names[label], "label": label, "probability": probability });
    let image = |(image, predictions): (&PathBuf, &Vec<(usize, f64)>)| {
        let predictions: Vec<_> = predictions.iter().map(prediction).collect();
        json!({ "image": image.to_string_lossy(), "predictions": predictions })
    };
    let all: Vec<_> = images.iter().zip(ranked).map(image).collect();
    println!("{}", json!(all));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_best_come_first() {
        let probabilities = softmax(&[0.0, 1000.0, 999.0, 999.0]);
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let labels = |top| {
            best(&probabilities, top)
                .into_iter()
                .map(|(label, _)| label)
        };
        assert!(labels(3).eq([1, 2, 3]));
        assert_eq!(labels(9).count(), 4);
    }
}
