//! The loss of a trial: cross-entropy, with label smoothing and weights of classes, or binary cross-entropy
//! where images have several labels.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use peft_core::data::Split;
use peft_core::loss::{CrossEntropy, binary_cross_entropy};

use crate::config::recipe::{Recipe, TrainOn};
use crate::data::batch::{Batch, Mixed};
use crate::data::held_out::Data;
use crate::data::targets::Targets;
use crate::exit::{Failure, config_error};

/// The loss of a trial: cross-entropy of images with one label each. That of images with several is the binary
/// cross-entropy of each class, and has no settings.
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

    /// The mean loss `[1]` of images with `logits [b, classes]`, on their device.
    pub fn value(&self, logits: Tensor<2>, targets: &Targets, mixed: Option<&Mixed>) -> Tensor<1> {
        let device = logits.device();
        let (Some(labels), partners) = (
            targets.single(),
            mixed.and_then(|mixed| mixed.partners.single()),
        ) else {
            let shape = logits.dims();
            let shown = shown(targets, mixed, shape[1]);
            let shown = Tensor::from_data(TensorData::new(shown, shape), &device);
            return binary_cross_entropy(logits, shown);
        };
        let line = |labels: &[usize]| {
            let labels: Vec<i64> = labels.iter().map(|&label| label as i64).collect();
            let count = labels.len();
            Tensor::from_data(TensorData::new(labels, [count]), &device)
        };
        match (mixed, partners) {
            (Some(Mixed { lambda, .. }), Some(partners)) => {
                let lambda = TensorData::new(lambda.clone(), [lambda.len()]);
                let lambda = Tensor::from_data(lambda, &device);
                self.0.mixed(logits, [line(labels), line(partners)], lambda)
            }
            _ => self.0.of(logits, line(labels)),
        }
    }

    /// The share that the images `rows` have in the mean loss of their batch.
    pub fn share(&self, batch: &Batch, rows: Range<usize>) -> f64 {
        let of = batch.targets.len();
        match (&self.0.weights, batch.targets.single(), &batch.mixed) {
            (Some(weights), Some(labels), None) => {
                let sum = |labels: &[usize]| -> f64 {
                    labels.iter().map(|label| f64::from(weights[*label])).sum()
                };
                sum(&labels[rows]) / sum(labels)
            }
            _ => rows.len() as f64 / of as f64,
        }
    }
}

/// The targets of images with several labels, `[b * classes]`: mixed images have a share of each label.
fn shown(targets: &Targets, mixed: Option<&Mixed>, classes: usize) -> Vec<f32> {
    let mut own = targets.multi_hot(classes);
    if let Some(Mixed { lambda, partners }) = mixed {
        let other = partners.multi_hot(classes);
        let rows = own.chunks_mut(classes).zip(other.chunks(classes));
        for ((own, other), lambda) in rows.zip(lambda) {
            for (own, other) in own.iter_mut().zip(other) {
                *own = *own * lambda + other * (1.0 - lambda);
            }
        }
    }
    own
}
