//! The loss of a trial: cross-entropy, with label smoothing and weights of classes.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use peft_core::data::Split;
use peft_core::loss::CrossEntropy;

use crate::config::recipe::{Recipe, TrainOn};
use crate::data::batch::{Batch, Mixed};
use crate::data::held_out::Data;
use crate::exit::{Failure, config_error};

/// The loss of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss(pub CrossEntropy);

impl Loss {
    /// The loss that a recipe asks for on these data.
    ///
    /// # Errors
    /// Weights that do not fit the classes, or a label that cannot be read.
    pub fn of(recipe: &Recipe, data: &Data) -> Result<Self, Failure> {
        let weights = recipe.class_weights.as_ref().map(|weights| {
            let splits: &[Split] = match recipe.train_on {
                TrainOn::Train => &[Split::Train],
                TrainOn::TrainValidation => &[Split::Train, Split::Validation],
            };
            let images = data.images_of_classes(splits)?;
            weights.of(data.classes(), &images).map_err(config_error)
        });
        Ok(Self(CrossEntropy {
            smoothing: recipe.label_smoothing,
            weights: weights.transpose()?,
        }))
    }

    /// The weight of each class; none if all weigh the same.
    pub fn weights(&self) -> Option<&[f32]> {
        self.0.weights.as_deref()
    }

    /// The mean loss `[1]` of images with `logits [b, classes]` and `labels [b]`, on their device.
    pub fn value(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        mixed: Option<Mixed>,
    ) -> Tensor<1> {
        let labels = Tensor::from_inner(labels);
        match mixed {
            None => self.0.of(logits, labels),
            Some(Mixed { lambda, partners }) => {
                let labels = [labels, Tensor::from_inner(partners)];
                self.0.mixed(logits, labels, Tensor::from_inner(lambda))
            }
        }
    }

    /// The share that the images `rows` have in the mean loss of their batch.
    pub fn share(&self, batch: &Batch, rows: Range<usize>) -> f64 {
        let of = batch.targets.len();
        match (&self.0.weights, &batch.mixed) {
            (Some(weights), None) => {
                let sum = |labels: &[usize]| -> f64 {
                    labels.iter().map(|label| f64::from(weights[*label])).sum()
                };
                sum(&batch.targets[rows]) / sum(&batch.targets)
            }
            _ => rows.len() as f64 / of as f64,
        }
    }
}
