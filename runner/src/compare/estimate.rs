//! The plan of a comparison's cells, before any work: what trains and where, which images the model
//! takes, how many trainings there are, and how long they take by a measured step.

use std::collections::BTreeMap;
use std::sync::Arc;

use peft_core::data::Split;
use peft_core::{Counts, Model};

use super::config::MethodEntry;
use super::search::Retrain;
use super::tuned::Tuned;
use crate::config::recipe::TrainOn;
use crate::device::ComputeDevice;
use crate::exit::Failure;
use crate::measure::{self, Repeats, median};
use crate::model::trial::Trial;
use crate::report::numbers::{grouped, milliseconds, seconds};
use crate::run::plan::{folded_places, formula, input};
use crate::run::progress::Reporter;
use crate::run::summary::Cell;
use crate::train::Trainer;

/// A step is measured on as many images as this takes, in seconds, if the batch has so many.
const STEP: f64 = 0.3;

/// A cell before its trials have run.
pub struct CellPlan {
    /// Its place in the tables.
    pub cell: Cell,
    counts: Counts,
    formula: usize,
    /// Where the method acts, equal places folded.
    places: Vec<String>,
    input: String,
    remarks: Vec<String>,
    /// Trainings of all seeds, with those of the search.
    pub trainings: usize,
    /// Images of all training steps of these.
    pub images: usize,
    /// Seconds of a training step for each of its images, if a step was measured.
    per_image: Option<f64>,
}

/// Seconds per image by backbone and method, where they were measured.
pub type Measured = BTreeMap<(String, String), f64>;

impl CellPlan {
    /// The plan of a cell whose first trial is open. `measured` asks for an estimate of time.
    ///
    /// # Errors
    /// If the step that is measured fails.
    pub fn of(
        (trial, model): (&Trial, Model),
        cell: Cell,
        method: &MethodEntry,
        (seeds, tuned): (usize, Option<&Tuned>),
        device: &ComputeDevice,
        measured: Option<&mut Measured>,
    ) -> Result<Self, Failure> {
        let recipe = &trial.experiment.recipe;
        let epochs = recipe
            .stop_after
            .unwrap_or(recipe.epochs)
            .min(recipe.epochs);
        let train = trial.data.len(Split::Train);
        let both = train + trial.data.len(Split::Validation);
        let (mut trainings, mut images) = (seeds, seeds * epochs * train);
        if recipe.train_on == TrainOn::TrainValidation {
            images = seeds * epochs * both;
        }
        if let Some(tuned) = tuned {
            let candidates = tuned.search.candidates(&method.tune).len();
            let mut before = 0;
            for rung in tuned.search.rungs(candidates, epochs) {
                images += rung.candidates * (rung.epochs - before) * train;
                before = rung.epochs;
            }
            if tuned.search.retrain() == Retrain::TrainValidation {
                // At most all epochs: the search may choose fewer.
                images += seeds * epochs * (both - train);
            }
            trainings += candidates;
        }
        let mut plan = Self {
            counts: model.counts(),
            formula: trial.formula,
            places: folded_places(&trial.spec, &model),
            input: input(trial),
            remarks: trial.remarks.clone(),
            trainings,
            images,
            per_image: None,
            cell,
        };
        if let Some(measured) = measured {
            let key = (plan.cell.backbone.clone(), plan.cell.method.clone());
            let per_image = match measured.get(&key) {
                Some(per_image) => *per_image,
                None => {
                    let per_image = per_image(trial, model, device)?;
                    *measured.entry(key).or_insert(per_image)
                }
            };
            plan.per_image = Some(per_image);
        }
        Ok(plan)
    }

    /// The seconds of all training steps, without the prefix cache.
    pub fn seconds(&self) -> Option<f64> {
        Some(self.per_image? * self.images as f64)
    }

    /// The plan in words, a line for each fact.
    pub fn lines(&self) -> Vec<String> {
        let Cell {
            method,
            backbone,
            dataset,
            ..
        } = &self.cell;
        let counts = self.counts;
        let mut lines = vec![format!("  {method}, {backbone}, {dataset}")];
        let mut line = |key: &str, value: String| lines.push(format!("    {key:<10}{value}"));
        line(
            "trains",
            format!(
                "{} of {} parameters: adapter {}, backbone {}, head {}",
                counts.trainable, counts.total, counts.adapter, counts.tuned, counts.head
            ),
        );
        line("formula", formula(self.formula, counts));
        for place in &self.places {
            line("acts at", place.clone());
        }
        line("input", self.input.clone());
        for remark in &self.remarks {
            line("remark", remark.clone());
        }
        line("work", work(self.trainings, self.images, self.seconds()));
        if let Some(per_image) = self.per_image {
            line("step", format!("{} an image", milliseconds(per_image)));
        }
        lines
    }
}

/// `6 trainings, 51,744 images, about 41 s of training steps`.
fn work(trainings: usize, images: usize, time: Option<f64>) -> String {
    let plural = if trainings == 1 { "" } else { "s" };
    let time = time.map(|time| format!(", about {} of training steps", seconds(time)));
    let (images, time) = (grouped(images), time.unwrap_or_default());
    format!("{trainings} training{plural}, {images} images{time}")
}

/// The work of all cells.
pub fn total(cells: &[CellPlan]) -> String {
    let sum = |of: fn(&CellPlan) -> usize| cells.iter().map(of).sum();
    let time: Option<f64> = cells.iter().map(CellPlan::seconds).sum();
    work(sum(|cell| cell.trainings), sum(|cell| cell.images), time)
}

/// The seconds of a training step for each of its images, on random images. The first step, which makes
/// what later ones use again, is not counted.
fn per_image(trial: &Trial, model: Model, device: &ComputeDevice) -> Result<f64, Failure> {
    let reporter = Reporter::unlogged();
    let mut trainer = Trainer::new(trial, model, device, None, Arc::default(), &reporter)?;
    let repeats = Repeats {
        warmup: 1,
        steps: 1,
    };
    let mut time = |rows: usize| {
        let batch = measure::random_rows(trial, device, rows);
        let taken = measure::repeat(device, repeats, || {
            trainer.step(batch.clone(), &mut |_| ());
        })?;
        Ok::<_, Failure>(median(&taken) / rows as f64)
    };
    let one = time(1)?;
    let rows = (STEP / one).clamp(1.0, trial.experiment.recipe.batch_size as f64) as usize;
    if rows > 1 { time(rows) } else { Ok(one) }
}
