//! `runner eval RUN`: the test split once more, from the adapter file.

use peft_core::data::Split;
use serde_json::json;

use crate::cli::{Format, PlaceArgs, TrainedArgs};
use crate::commands::{Loaded, load, on_pool};
use crate::data::Loader;
use crate::exit::{Failure, config_error};
use crate::train::evaluate;
use peft_datasets::Preprocess;

/// Evaluates a finished run.
pub fn eval(which: &TrainedArgs, place: &PlaceArgs, format: Format) -> Result<(), Failure> {
    on_pool(place, |device| {
        let Loaded { trial, model } = load(which, &device)?;
        let (own, data) = (trial.classes.len(), trial.dataset.classes().len());
        if own != data {
            return Err(config_error(format!(
                "the adapter's head has {own} classes, the data set {data}"
            )));
        }
        let loader = Loader {
            dataset: &*trial.dataset,
            split: Split::Test,
            preprocess: Preprocess::new(&trial.input),
            batch_size: trial.experiment.recipe.batch_size,
        };
        let (metrics, seconds) = evaluate(&model, &loader, &device, trial.compute_type())?;
        let speed = metrics.images as f64 / seconds;
        match format {
            Format::Json => println!(
                "{}",
                json!({ "test": metrics, "inference": { "images_per_second": speed } })
            ),
            Format::Text => {
                println!("test top-1        {:.2} %", 100.0 * metrics.top1);
                println!("test top-5        {:.2} %", 100.0 * metrics.top5);
                println!("test loss         {:.4}", metrics.loss);
                println!("inference         {speed:.0} images/s");
                for (name, accuracy) in trial.classes.iter().zip(&metrics.per_class) {
                    match accuracy {
                        Some(accuracy) => println!("  {name:<16}{:.2} %", 100.0 * accuracy),
                        None => println!("  {name:<16}no image"),
                    }
                }
            }
        }
        Ok(())
    })
}
