//! The recipe: optimiser, schedule, epochs, batch, precision.

use std::borrow::Cow;

use burn::optim::ModuleOptimizer;
use burn::tensor::DType;
use peft_datasets::Augment;
use peft_ops::{AdamOptions, SgdOptions};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a model is trained.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The optimiser.
    pub optimizer: Optimizer,
    /// How the learning rate changes over the steps.
    #[serde(default)]
    pub schedule: Schedule,
    /// Passes over the training split, at least 1.
    pub epochs: usize,
    /// Images of a forward pass, at least 1.
    pub batch_size: usize,
    /// Batches whose gradients are averaged for one step, at least 1.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Largest Euclidean norm of all gradients together; larger ones are scaled down to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Weight in `[0, 1)` of the uniform distribution in the target.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Stop after this many epochs without a better validation metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// Which epoch is tested.
    #[serde(default)]
    pub select: Select,
    /// Stop after this many epochs; the schedule stays that of all epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<usize>,
    /// The images that gradients are computed from. With `train_validation` no images are left to select
    /// an epoch by, so that it needs `select: last` and no patience.
    #[serde(default)]
    pub train_on: TrainOn,
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

/// The optimiser. Weight decay applies to everything that trains.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Optimizer {
    /// Adam (Kingma and Ba 2015), weight decay added to the gradient.
    Adam {
        /// Largest learning rate, more than 0.
        lr: f64,
        /// Factor of the weights that is added to the gradient, at least 0.
        #[serde(default)]
        weight_decay: f64,
        /// Decay of the first and second moment, each in `[0, 1)`.
        #[serde(default = "betas")]
        betas: [f32; 2],
        /// Added to the denominator, more than 0.
        #[serde(default = "eps")]
        eps: f32,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// Largest learning rate, more than 0.
        lr: f64,
        /// Share of the weights times the learning rate that is taken off, at least 0.
        #[serde(default)]
        weight_decay: f64,
        /// Decay of the first and second moment, each in `[0, 1)`.
        #[serde(default = "betas")]
        betas: [f32; 2],
        /// Added to the denominator, more than 0.
        #[serde(default = "eps")]
        eps: f32,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// Largest learning rate, more than 0.
        lr: f64,
        /// Factor of the weights that is added to the gradient, at least 0.
        #[serde(default)]
        weight_decay: f64,
        /// Share of the last step that goes on, in `[0, 1)`.
        #[serde(default = "momentum")]
        momentum: f64,
        /// Nesterov's variant.
        #[serde(default)]
        nesterov: bool,
    },
}

fn betas() -> [f32; 2] {
    [0.9, 0.999]
}
fn eps() -> f32 {
    1e-8
}
fn momentum() -> f64 {
    0.9
}

/// How the learning rate changes, as a factor of the optimiser's `lr` that is computed for every step.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// The learning rate stays the same.
    Constant {
        /// Epochs over which it rises linearly from 0.
        #[serde(default)]
        warmup_epochs: f64,
    },
    /// Half a cosine from 1 down to `floor` at the last step.
    Cosine {
        /// Epochs over which it rises linearly from 0.
        #[serde(default)]
        warmup_epochs: f64,
        /// The factor at the end, in `[0, 1]`.
        #[serde(default)]
        floor: f64,
    },
    /// The learning rate is multiplied by `factor` after every `every` epochs.
    Step {
        /// Epochs over which it rises linearly from 0.
        #[serde(default)]
        warmup_epochs: f64,
        /// Epochs between changes, at least 1.
        every: usize,
        /// The factor, in `(0, 1]`.
        factor: f64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant { warmup_epochs: 0.0 }
    }
}

impl Schedule {
    /// The factor before step `step` (from 0) of `epochs` epochs of `steps_per_epoch` steps.
    pub fn factor(&self, step: usize, steps_per_epoch: usize, epochs: usize) -> f64 {
        let per_epoch = steps_per_epoch as f64;
        let (Self::Constant { warmup_epochs }
        | Self::Cosine { warmup_epochs, .. }
        | Self::Step { warmup_epochs, .. }) = self;
        let (step, total) = (step as f64, per_epoch * epochs as f64);
        let warmup = (warmup_epochs * per_epoch).min(total);
        if step < warmup {
            return (step + 1.0) / warmup.max(1.0);
        }
        match self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { floor, .. } => {
                let progress = (step - warmup) / (total - warmup).max(1.0);
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Self::Step { every, factor, .. } => {
                let epoch = (step / per_epoch) as usize;
                factor.powi((epoch / every) as i32)
            }
        }
    }
}

/// Which epoch is tested. The choice is made on validation images only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// The epoch with the highest metric on validation; among equal ones that with the lower loss, then
    /// the earlier one.
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

/// Random changes of the training images: a word, or a mapping in timm's names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Augmentation {
    /// `none`.
    #[default]
    None,
    /// `flip`: mirrored left to right with probability one half.
    Flip,
    /// The changes that the mapping names.
    Mapping(Augment),
}

impl Augmentation {
    /// The random changes of each image and batch.
    pub fn augment(&self) -> Augment {
        match self {
            Self::None => Augment::default(),
            Self::Flip => Augment {
                hflip: 0.5,
                ..Augment::default()
            },
            Self::Mapping(augment) => *augment,
        }
    }
}

impl Serialize for Augmentation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::Flip => serializer.serialize_str("flip"),
            Self::Mapping(augment) => augment.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Augmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrMapping;
        impl<'de> Visitor<'de> for WordOrMapping {
            type Value = Augmentation;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("`none`, `flip` or a mapping")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Augmentation, E> {
                match word {
                    "none" => Ok(Augmentation::None),
                    "flip" => Ok(Augmentation::Flip),
                    _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Augmentation, A::Error> {
                let augment = Augment::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Augmentation::Mapping(augment))
            }
        }
        deserializer.deserialize_any(WordOrMapping)
    }
}

impl JsonSchema for Augmentation {
    fn schema_name() -> Cow<'static, str> {
        "Augmentation".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Random changes of the training images: a word, or a mapping in timm's names.",
            "anyOf": [
                { "enum": ["none", "flip"] },
                generator.subschema_for::<Augment>(),
            ],
        })
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
        self.check_selection()?;
        self.check_augmentation()?;
        share("label_smoothing", self.label_smoothing)?;
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

/// An error that names the field and its range, unless `ok`.
fn within(field: &str, ok: bool, range: &str, got: f64) -> Result<(), String> {
    if ok {
        return Ok(());
    }
    Err(format!("recipe.{field}: expected {range}, got {got}"))
}

fn count(field: &str, value: usize) -> Result<(), String> {
    within(field, value > 0, "at least 1", value as f64)
}

fn share(field: &str, value: f64) -> Result<(), String> {
    let ok = (0.0..1.0).contains(&value);
    within(field, ok, "at least 0 and less than 1", value)
}

impl Schedule {
    fn check(&self, epochs: usize) -> Result<(), String> {
        let (Self::Constant { warmup_epochs }
        | Self::Cosine { warmup_epochs, .. }
        | Self::Step { warmup_epochs, .. }) = self;
        let ok = *warmup_epochs >= 0.0 && *warmup_epochs <= epochs as f64;
        let range = format!("0 to {epochs} (the epochs)");
        within("schedule.warmup_epochs", ok, &range, *warmup_epochs)?;
        match self {
            Self::Step { every, factor, .. } => {
                count("schedule.every", *every)?;
                let ok = *factor > 0.0 && *factor <= 1.0;
                within("schedule.factor", ok, "more than 0 and at most 1", *factor)
            }
            Self::Cosine { floor, .. } => {
                let ok = (0.0..=1.0).contains(floor);
                within("schedule.floor", ok, "0 to 1", *floor)
            }
            Self::Constant { .. } => Ok(()),
        }
    }
}

impl Optimizer {
    fn check(&self) -> Result<(), String> {
        let (Self::Adam {
            lr, weight_decay, ..
        }
        | Self::AdamW {
            lr, weight_decay, ..
        }
        | Self::Sgd {
            lr, weight_decay, ..
        }) = self;
        let ok = *lr > 0.0 && lr.is_finite();
        within("optimizer.lr", ok, "a finite number more than 0", *lr)?;
        let ok = *weight_decay >= 0.0 && weight_decay.is_finite();
        within("optimizer.weight_decay", ok, "at least 0", *weight_decay)?;
        match self {
            Self::Adam { betas, eps, .. } | Self::AdamW { betas, eps, .. } => {
                for beta in betas {
                    share("optimizer.betas", f64::from(*beta))?;
                }
                within("optimizer.eps", *eps > 0.0, "more than 0", f64::from(*eps))
            }
            Self::Sgd { momentum, .. } => share("optimizer.momentum", *momentum),
        }
    }

    /// The largest learning rate.
    pub fn lr(&self) -> f64 {
        let (Self::Adam { lr, .. } | Self::AdamW { lr, .. } | Self::Sgd { lr, .. }) = self;
        *lr
    }

    /// Burn's optimiser, without clipping: the training loop clips the norm of all gradients together.
    pub fn init(&self) -> ModuleOptimizer {
        match *self {
            Self::Adam {
                weight_decay,
                betas,
                eps,
                ..
            } => peft_ops::adam(AdamOptions {
                betas,
                epsilon: eps,
                weight_decay: weight_decay as f32,
            }),
            Self::AdamW {
                weight_decay,
                betas,
                eps,
                ..
            } => peft_ops::adam_w(AdamOptions {
                betas,
                epsilon: eps,
                weight_decay: weight_decay as f32,
            }),
            Self::Sgd {
                weight_decay,
                momentum,
                nesterov,
                ..
            } => peft_ops::sgd(SgdOptions {
                momentum,
                nesterov,
                weight_decay: weight_decay as f32,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_augmentation_is_a_word_or_a_mapping() {
        let read = |text: &str| serde_yaml::from_str::<Augmentation>(text);
        assert_eq!(read("none").unwrap().augment(), Augment::default());
        assert_eq!(read("flip").unwrap().augment().hflip, 0.5);
        let mapping = read("{auto_augment: rand-m9-inc1, mixup: 0.8}").unwrap();
        assert_eq!(mapping.augment().mixup, 0.8);
        for written in [Augmentation::None, Augmentation::Flip, mapping] {
            let text = serde_yaml::to_string(&written).unwrap();
            assert_eq!(read(&text).unwrap(), written, "{text}");
        }
        for (text, expected) in [
            ("mirror", "expected `none`, `flip` or a mapping"),
            ("{auto_augment: augmix}", "invalid `auto_augment`"),
            ("{flip: 0.5}", "unknown field `flip`"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn schedules_start_turn_and_end_where_they_should() {
        let cosine = Schedule::Cosine {
            warmup_epochs: 1.0,
            floor: 0.1,
        };
        let at = |step| cosine.factor(step, 10, 11);
        assert!((at(0) - 0.1).abs() < 1e-12 && (at(9) - 1.0).abs() < 1e-12);
        assert!((at(10) - 1.0).abs() < 1e-12);
        assert!((at(60) - 0.55).abs() < 1e-12);
        assert!(at(109) > 0.1 && at(109) < 0.11);
        let steps = Schedule::Step {
            warmup_epochs: 0.0,
            every: 2,
            factor: 0.5,
        };
        let epochs: Vec<f64> = (0..6)
            .map(|epoch| steps.factor(epoch * 10, 10, 6))
            .collect();
        assert_eq!(epochs, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
    }
}
