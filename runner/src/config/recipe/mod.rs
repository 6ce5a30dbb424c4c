//! The recipe: optimiser, schedule, epochs, batch, precision, augmentation.

mod augmentation;
mod class_weights;
mod optimizer;
mod range;
mod schedule;

use std::collections::BTreeMap;

use burn::tensor::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::recipe::augmentation::Augmentation;
pub use crate::config::recipe::class_weights::ClassWeights;
use crate::config::recipe::optimizer::Optimizer;
use crate::config::recipe::range::{count, share, within};
use crate::config::recipe::schedule::Schedule;

/// The recipe: how a model is trained.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The schedule: how the learning rate changes over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Factors of the learning rate by regular expression over the whole name of what trains, each more
    /// than 0: `{'head\..*': 10}`. They multiply each other and those of the method.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rates: BTreeMap<String, f64>,
    /// The number of passes over the training split, at least 1.
    pub epochs: usize,
    /// The number of images in a forward pass, at least 1.
    pub batch_size: usize,
    /// The number of batches whose gradients are averaged for one step, at least 1.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// The largest Euclidean norm of all gradients together, more than 0; larger ones are scaled
    /// down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// The weight of the uniform distribution in the target, in `[0, 1)`.
    #[serde(default)]
    pub label_smoothing: f64,
    /// The weights of classes in the training loss, as in torch's `CrossEntropyLoss(weight=..)`:
    /// `inverse_frequency`, a list in the order of the classes, or a mapping from their names or indices,
    /// each more than 0. Metrics are not weighted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClassWeights")]
    pub class_weights: Option<ClassWeights>,
    /// The number of epochs without a better validation metric after which training stops, at least
    /// 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// The epoch that is tested.
    #[serde(default)]
    pub select: Select,
    /// The number of epochs after which training stops, from 1 to `epochs`; the schedule stays that
    /// of all epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<usize>,
    /// The images that gradients are computed from. With `train_validation` no images are left to
    /// select an epoch by, so it needs `select: last` and no patience.
    #[serde(default)]
    pub train_on: TrainOn,
    /// How the images of an epoch are drawn.
    #[serde(default, skip_serializing_if = "Sampling::is_default")]
    pub sampling: Sampling,
    /// The type in which the frozen part computes. Trained parameters, the head and the loss stay f32.
    #[serde(default)]
    pub precision: Precision,
    /// Random changes of the training images: `none`, `flip` or a mapping in timm's names. With
    /// mixup or cutmix the training loss is that of the mixed targets.
    #[serde(default)]
    pub augmentation: Augmentation,
}

fn one() -> usize {
    1
}

/// The epoch that is tested. It is chosen on validation images only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// The epoch with the highest metric on validation; of equal ones the one with the lowest loss,
    /// then the earliest.
    #[default]
    Best,
    /// The last epoch.
    Last,
}

/// The images that gradients are computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainOn {
    /// The training split.
    #[default]
    Train,
    /// The training and the validation split, once everything is chosen.
    TrainValidation,
}

/// How the images of an epoch are drawn. An epoch has as many images as the training split either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// Every image once, in a random order.
    #[default]
    Shuffled,
    /// As many of each class: images of a small class are repeated, and some of a large class wait for
    /// another epoch.
    Balanced,
}

impl Sampling {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The type in which the frozen part computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// Brain floating point of 16 bits, on a device that supports it.
    Bf16,
}

impl Precision {
    /// The type of the frozen part's tensors.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl Recipe {
    /// The number of epochs that are trained at most.
    pub fn last_epoch(&self) -> usize {
        self.stop_after.unwrap_or(self.epochs)
    }

    /// Checks the ranges of all fields, and those that exclude each other.
    ///
    /// # Errors
    /// The dotted path of a field outside its range, and the range.
    pub fn check(&self) -> Result<(), String> {
        count("epochs", self.epochs)?;
        count("batch_size", self.batch_size)?;
        count("accumulate", self.accumulate)?;
        if let Some(patience) = self.patience {
            count("patience", patience)?;
        }
        if let Some(epochs) = self.stop_after {
            let range = format!("1 to {}", self.epochs);
            let ok = (1..=self.epochs).contains(&epochs);
            within("stop_after", ok, &range, epochs as f64)?;
        }
        for (pattern, factor) in &self.rates {
            let ok = *factor > 0.0 && factor.is_finite();
            let field = format!("rates.{pattern}");
            within(&field, ok, "a finite number more than 0", *factor)?;
        }
        self.check_selection()?;
        self.check_augmentation()?;
        share("label_smoothing", self.label_smoothing)?;
        if let Some(weights) = &self.class_weights {
            weights.check()?;
        }
        if let Some(norm) = self.clip_norm {
            within("clip_norm", norm > 0.0, "more than 0", norm)?;
        }
        self.optimizer.check()?;
        self.schedule.check(self.epochs)
    }

    fn check_selection(&self) -> Result<(), String> {
        let selects = self.select == Select::Best || self.patience.is_some();
        if self.train_on == TrainOn::TrainValidation && selects {
            return Err(
                "recipe.train_on: train_validation leaves nothing to select an epoch by: expected \
                 select: last and no patience"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_augmentation(&self) -> Result<(), String> {
        let augment = self.augmentation.augment();
        let valid = augment.validate();
        valid.map_err(|e| format!("recipe.augmentation: {e}"))?;
        if augment.mixes() {
            let range = "at least 2 where augmentation mixes images";
            let size = self.batch_size;
            within("batch_size", size > 1, range, size as f64)?;
        }
        Ok(())
    }
}
