//! The recipe: optimiser, schedule, epochs, batch, precision, augmentation.

mod augmentation;
mod average;
mod class_weights;
mod optimizer;
mod range;
mod schedule;

use std::collections::BTreeMap;

use burn::tensor::DType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::recipe::augmentation::Augmentation;
pub use crate::config::recipe::average::Average;
pub use crate::config::recipe::class_weights::ClassWeights;
pub use crate::config::recipe::optimizer::{Decays, Optimizer};
use crate::config::recipe::range::{count, share, within};
use crate::config::recipe::schedule::Schedule;

/// The recipe: how a model is trained.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// The parameters to which weight decay applies.
    #[serde(default, skip_serializing_if = "Decays::is_default")]
    pub decays: Decays,
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
    /// The probability, in `[0, 1)`, with which the branches of the last block are left out of the sum for an image
    /// of a batch; it grows linearly from 0 at the first block, as in timm (stochastic depth, Huang et al. 2016).
    /// Blocks of the frozen prefix are not dropped: what they give is computed once.
    #[serde(default, skip_serializing_if = "none_dropped")]
    pub drop_path: f64,
    /// The moving average of what trains, which is then validated, tested and saved; without it, the values
    /// themselves are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<Average>,
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

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn none_dropped(probability: &f64) -> bool {
    *probability == 0.0
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
    /// Brain floating point of 16 bits, on a device that supports it. The CPU halves the memory of weights and
    /// activations this way, and computes in `f32`.
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
        share("drop_path", self.drop_path)?;
        if let Some(norm) = self.clip_norm {
            within("clip_norm", norm > 0.0, "more than 0", norm)?;
        }
        if let Some(average) = &self.ema {
            average.check()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::experiment::Experiment;
    use crate::config::find;

    fn shipped(name: &str) -> Recipe {
        let set = [format!("recipe={name}")];
        let read = Experiment::read("peft/linear-probe", &set);
        read.unwrap_or_else(|f| panic!("{name}: {}", f.error))
            .recipe
    }

    #[test]
    fn every_shipped_recipe_is_read() {
        let names = find::names("recipes/");
        assert!(names.len() >= 9, "{names:?}");
        for name in names {
            let name = name.strip_prefix("recipes/").unwrap();
            shipped(name)
                .check()
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn published_protocols_have_their_rates() {
        // Of the epochs 0, 5, 10 and 99, in batches of which 16 make an epoch.
        let cosine = |epoch: f64, largest: f64, least: f64| {
            least + (largest - least) * 0.5 * (1.0 + (std::f64::consts::PI * epoch / 100.0).cos())
        };
        let common = |largest: f64, start: f64, least: f64| {
            let half = start + 0.5 * (largest - start);
            [
                start,
                half,
                cosine(10.0, largest, least),
                cosine(99.0, largest, least),
            ]
        };
        let petl = common(1e-3, 1e-6, 1e-5);
        for (name, expected, decays) in [
            ("vtab-petl", petl, Decays::Everything),
            ("vtab-noah", petl, Decays::Matrices),
            ("vtab-bench", petl, Decays::Everything),
            ("vtab-ssf", common(5e-3, 1e-7, 1e-8), Decays::Matrices),
        ] {
            let recipe = shipped(name);
            let rate = |epoch: usize| {
                recipe.optimizer.lr() * recipe.schedule.factor(16 * epoch + 15, 16, recipe.epochs)
            };
            for (epoch, expected) in [0, 5, 10, 99].into_iter().zip(expected) {
                let got = rate(epoch);
                assert!(
                    (got - expected).abs() < 1e-9,
                    "{name}, epoch {epoch}: {got}"
                );
            }
            assert_eq!((recipe.epochs, recipe.batch_size), (100, 64), "{name}");
            assert_eq!(recipe.decays, decays, "{name}");
            assert_eq!(recipe.train_on, TrainOn::TrainValidation, "{name}");
        }
        assert_eq!(shipped("vtab-noah").drop_path, 0.1);
        assert_eq!(shipped("vtab-bench").label_smoothing, 0.1);
        assert_eq!(shipped("vtab-vpt").batch_size, 128);
    }

    #[test]
    fn new_fields_at_their_defaults_are_not_written_and_bad_values_are_refused() {
        let plain = "{optimizer: {name: adamw, lr: 0.1}, schedule: {name: cosine}, epochs: 2, batch_size: 2}";
        let recipe: Recipe = serde_yaml::from_str(plain).unwrap();
        let text = serde_yaml::to_string(&recipe).unwrap();
        for field in ["decays", "drop_path", "ema", "per"] {
            assert!(!text.contains(field), "{field}: {text}");
        }
        for (field, expected) in [
            (
                "drop_path: 1.0",
                "recipe.drop_path: expected at least 0 and less than 1, got 1",
            ),
            (
                "ema: {decay: 1.0}",
                "recipe.ema.decay: expected at least 0 and less than 1, got 1",
            ),
        ] {
            let text = plain.replace("batch_size", &format!("{field}, batch_size"));
            let recipe: Recipe = serde_yaml::from_str(&text).unwrap();
            assert_eq!(recipe.check().unwrap_err(), expected);
        }
        for unknown in ["decays: norms", "ema: 0.9"] {
            let text = plain.replace("batch_size", &format!("{unknown}, batch_size"));
            assert!(serde_yaml::from_str::<Recipe>(&text).is_err(), "{unknown}");
        }
    }
}
