//! `runner eval RUN`: the test split once more, from the adapter file.

use serde_json::json;

use crate::cli::{Format, PlaceArgs, TrainedArgs};
use crate::commands::{Loaded, load, on_pool};
use crate::data::held_out::Choice;
use crate::exit::{Failure, config_error};
use crate::train::evaluate::evaluate;

/// Evaluates a finished run.
pub fn eval(which: &TrainedArgs, place: &PlaceArgs, format: Format) -> Result<(), Failure> {
    on_pool(place, |device| {
        let loaded = load(which, &device)?;
        let choice = Choice::after(&loaded);
        let Loaded { trial, model } = loaded;
        let (own, data) = (trial.classes.len(), trial.data.classes().len());
        if own != data {
            return Err(config_error(format!(
                "the adapter's head has {own} classes, the data set {data}"
            )));
        }
        let batch_size = trial.experiment.recipe.batch_size;
        let loader = trial.data.test(&choice, trial.preprocess(), batch_size);
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
                if metrics.skipped > 0 {
                    println!("left out          {} images", metrics.skipped);
                }
                for (name, accuracy) in &metrics.groups {
                    println!("group {name:<12}{:.2} %", 100.0 * accuracy);
                }
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
