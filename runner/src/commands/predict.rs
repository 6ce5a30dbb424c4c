//! `runner predict RUN IMAGE..`: the most likely classes of image files.

use std::path::PathBuf;

use clap::Args;
use peft_core::data::Image;
use peft_datasets::decode;
use rayon::prelude::*;
use serde_json::json;

use crate::cli::args::{Format, PlaceArgs};
use crate::commands::{at_least_one, on_pool, remark};
use crate::exit::{Failure, config_error};
use crate::model::assembled::Source;

/// Predict the classes of image files with a finished run.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner predict runs/lora-r10/TRIAL photo.jpg --top 3")]
pub struct PredictArgs {
    /// The run's folder; with --adapter also a config: a YAML file or a name under configs/.
    pub run: PathBuf,
    /// Image files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// A trained adapter instead of the run's own: a run's folder, or one of HF PEFT. May be
    /// repeated; all of them act on the one backbone.
    #[arg(long = "adapter", value_name = "[NAME=]DIR")]
    pub adapters: Vec<String>,
    /// Predict with this one of the adapters only. May be repeated.
    #[arg(long = "use", value_name = "NAME")]
    pub names: Vec<String>,
    /// Share of the adapter that acts: 0 is the frozen backbone, 1 the adapted one.
    #[arg(long)]
    pub scale: Option<f64>,
    /// Number of classes to print for each image.
    #[arg(long, default_value_t = 5)]
    pub top: usize,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// The most likely classes of each image, by one adapter.
struct Predictions {
    adapter: Option<String>,
    classes: Vec<String>,
    ranked: Vec<Vec<(usize, f32)>>,
}

/// Predicts the most likely classes of each image.
pub fn predict(request: &PredictArgs) -> Result<(), Failure> {
    at_least_one("--top", request.top)?;
    let adapters = chosen(&request.adapters, &request.names)?;
    on_pool(&request.place, |device| {
        let source = Source::open(&request.run, !adapters.is_empty(), &device)?;
        // The images are decoded once, however many adapters there are.
        let images = request.images.par_iter().map(decode);
        let images: Vec<Image> = images.collect::<Result<_, _>>().map_err(config_error)?;
        // Everything is computed before the first line is printed, so that a bad image leaves no
        // partial output.
        let mut all = Vec::new();
        for adapter in adapters
            .iter()
            .map(Some)
            .chain(adapters.is_empty().then_some(None))
        {
            let path = adapter.map(|(_, path)| path.as_path());
            let model = source.assemble(path, request.scale)?;
            remark(&model);
            let rows = model.predict(&images)?;
            all.push(Predictions {
                adapter: adapter.map(|(name, _)| name.clone()),
                ranked: rows.iter().map(|row| best(row, request.top)).collect(),
                classes: model.classes,
            });
        }
        match request.format {
            Format::Text => all.iter().for_each(|one| print_text(&request.images, one)),
            Format::Json => print_json(&request.images, &all),
        }
        Ok(())
    })
}

/// Returns the adapters of `[NAME=]DIR` that are asked for by name; the default name is that of the
/// folder.
fn chosen(given: &[String], names: &[String]) -> Result<Vec<(String, PathBuf)>, Failure> {
    let mut adapters = Vec::<(String, PathBuf)>::new();
    for text in given {
        let (name, path) = match text.split_once('=') {
            Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
            None => {
                let path = PathBuf::from(text);
                let name = path.file_name().unwrap_or_default();
                (name.to_string_lossy().into_owned(), path)
            }
        };
        if adapters.iter().any(|(other, _)| *other == name) {
            let message = format!("--adapter: two are called {name}; write NAME=DIR");
            return Err(config_error(message));
        }
        adapters.push((name, path));
    }
    if let Some(unknown) = names
        .iter()
        .find(|name| !adapters.iter().any(|(known, _)| known == *name))
    {
        let known: Vec<_> = adapters.iter().map(|(name, _)| name.as_str()).collect();
        return Err(config_error(format!(
            "--use {unknown}: there is no such adapter; there are: {}",
            known.join(", ")
        )));
    }
    adapters.retain(|(name, _)| names.is_empty() || names.contains(name));
    Ok(adapters)
}

/// Returns the `top` largest probabilities with their labels. Of equal ones the smaller label comes
/// first.
fn best(probabilities: &[f32], top: usize) -> Vec<(usize, f32)> {
    let mut ranked: Vec<_> = probabilities.iter().copied().enumerate().collect();
    // The sort is stable, so labels of equal probability stay in order.
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(top);
    ranked
}

fn print_text(images: &[PathBuf], predictions: &Predictions) {
    let prefix = match &predictions.adapter {
        Some(name) => format!("{name}  "),
        None => String::new(),
    };
    for (image, ranked) in images.iter().zip(&predictions.ranked) {
        for &(label, probability) in ranked {
            let class = &predictions.classes[label];
            println!("{prefix}{}  {class}  {probability:.4}", image.display());
        }
    }
}

/// Prints a list with one entry per image, or with several adapters per adapter and image.
fn print_json(images: &[PathBuf], all: &[Predictions]) {
    let mut entries = Vec::new();
    for one in all {
        for (image, ranked) in images.iter().zip(&one.ranked) {
            let prediction = |&(label, probability): &(usize, f32)| {
                let class = &one.classes[label];
                json!({ "class": class, "label": label, "probability": probability })
            };
            let predictions: Vec<_> = ranked.iter().map(prediction).collect();
            let image = image.to_string_lossy();
            let mut entry = json!({ "image": image, "predictions": predictions });
            if let Some(name) = &one.adapter {
                entry["adapter"] = name.as_str().into();
            }
            entries.push(entry);
        }
    }
    println!("{}", json!(entries));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_likely_classes_come_first_and_ties_go_to_the_smaller_label() {
        let labels = |top| {
            best(&[0.0, 0.5, 0.25, 0.25], top)
                .into_iter()
                .map(|(label, _)| label)
        };
        assert!(labels(3).eq([1, 2, 3]));
        assert_eq!(labels(9).count(), 4);
    }
}
