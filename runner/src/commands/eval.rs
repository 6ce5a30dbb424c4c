//! `runner eval RUN`: evaluates the test split once more, from the adapter file.

use clap::Args;
use serde_json::json;

use crate::cli::args::{Format, PlaceArgs, TrainedArgs};
use crate::commands::print::row;
use crate::commands::{assemble, on_pool};
use crate::data::held_out::{Choice, Data};
use crate::exit::Failure;
use crate::report::numbers::{percent, speed};
use crate::train::evaluate::evaluate_all;
use crate::train::metrics::Metrics;

/// Evaluate a finished run again on the test split, from its adapter file.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner eval runs/lora-r10/TRIAL --format json")]
pub struct EvalArgs {
    #[command(flatten)]
    pub trained: TrainedArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The form of the output: text for people, json for programs.
    #[arg(long, default_value = "text")]
    pub format: Format,
}

/// Evaluates a finished run.
pub fn eval(args: &EvalArgs) -> Result<(), Failure> {
    on_pool(&args.place, |device| {
        let (source, assembled) = assemble(&args.trained, &device)?;
        let data = {
            let experiment = &source.experiment;
            Data::open(&*experiment.dataset, experiment.on_error, experiment.seed)?
        };
        let join = assembled.join(data.classes())?;
        if let Some(remark) = join.remark(assembled.classes.len()) {
            eprintln!("{remark}");
        }
        let choice = Choice::after(&assembled);
        let loader = data.test(&choice, assembled.preprocess(), assembled.batch_size);
        let loader = join.apply(loader);
        let (metrics, seconds, _) =
            evaluate_all(&assembled.model, &loader, &device, assembled.compute)?;
        let images_per_second = metrics.images as f64 / seconds;
        match args.format {
            Format::Json => println!(
                "{}",
                json!({ "test": metrics, "inference": { "images_per_second": images_per_second } })
            ),
            Format::Text => print(&metrics, images_per_second, &assembled.classes),
        }
        Ok(())
    })
}

/// Prints the result for people on stdout.
fn print(metrics: &Metrics, images_per_second: f64, classes: &[String]) {
    for (metric, score) in metrics.first() {
        row(&format!("test {metric}"), percent(score));
    }
    if let Some(scores) = &metrics.multi_label {
        row("exact match", percent(scores.exact_match));
    }
    row("test loss", format_args!("{:.4}", metrics.loss));
    if metrics.skipped > 0 {
        row("left out", format_args!("{} images", metrics.skipped));
    }
    for (name, accuracy) in &metrics.groups {
        row(&format!("group {name}"), percent(*accuracy));
    }
    row("inference", speed(images_per_second));
    let by_class = match &metrics.multi_label {
        None => &metrics.per_class,
        Some(scores) => {
            row("of each class", "average precision");
            &scores.average_precision
        }
    };
    for (name, accuracy) in classes.iter().zip(by_class) {
        let accuracy = accuracy.map(percent);
        let accuracy = accuracy.unwrap_or_else(|| "no image".to_owned());
        row(&format!("  {name}"), accuracy);
    }
}
