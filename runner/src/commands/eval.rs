//! `runner eval RUN`: the test split once more, from the adapter file.

use clap::Args;
use serde_json::json;

use crate::cli::args::{Format, PlaceArgs, TrainedArgs};
use crate::commands::{assemble, on_pool};
use crate::data::held_out::{Choice, Data};
use crate::exit::{Failure, config_error};
use crate::train::evaluate::evaluate;

/// Evaluate a finished run again on the test split, from its adapter file.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner eval runs/lora-r10/TRIAL --format json")]
pub struct EvalArgs {
    #[command(flatten)]
    pub trained: TrainedArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// How to print.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Evaluates a finished run.
pub fn eval(args: &EvalArgs) -> Result<(), Failure> {
    on_pool(&args.place, |device| {
        let (source, assembled) = assemble(&args.trained, &device)?;
        let data = Data::open(&*source.experiment.dataset, source.experiment.on_error)?;
        let (own, of_data) = (assembled.classes.len(), data.classes().len());
        if own != of_data {
            return Err(config_error(format!(
                "the adapter's head has {own} classes, the data set {of_data}"
            )));
        }
        let choice = Choice::after(&assembled);
        let loader = data.test(&choice, assembled.preprocess(), assembled.batch_size);
        let (metrics, seconds) = evaluate(&assembled.model, &loader, &device, assembled.compute)?;
        let speed = metrics.images as f64 / seconds;
        match args.format {
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
                for (name, accuracy) in assembled.classes.iter().zip(&metrics.per_class) {
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
