//! The schedule of a recipe: the learning rate at every step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::recipe::range::{count, within};

/// The schedule of the learning rate: a factor of the `lr` of the optimiser, computed for every
/// step.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// The learning rate stays the same.
    Constant {
        /// The number of epochs over which it first rises linearly from `warmup_start`.
        #[serde(default)]
        warmup_epochs: f64,
        /// The factor before the first step, in `[0, 1]`.
        #[serde(default, skip_serializing_if = "is_zero")]
        warmup_start: f64,
    },
    /// Half a cosine from 1 down to `floor` at the last step.
    Cosine {
        /// The number of epochs over which it first rises linearly from `warmup_start`.
        #[serde(default)]
        warmup_epochs: f64,
        /// The factor before the first step, in `[0, 1]`.
        #[serde(default, skip_serializing_if = "is_zero")]
        warmup_start: f64,
        /// The factor at the end, in `[0, 1]`.
        #[serde(default)]
        floor: f64,
        /// When the factor changes.
        #[serde(default, skip_serializing_if = "Per::is_default")]
        per: Per,
    },
    /// The learning rate is multiplied by `factor` after every `every` epochs.
    Step {
        /// The number of epochs over which it first rises linearly from `warmup_start`.
        #[serde(default)]
        warmup_epochs: f64,
        /// The factor before the first step, in `[0, 1]`.
        #[serde(default, skip_serializing_if = "is_zero")]
        warmup_start: f64,
        /// The number of epochs between changes, at least 1.
        every: usize,
        /// The factor, in `(0, 1]`.
        factor: f64,
    },
}

/// When the factor of a cosine changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// The factor changes with every step. The cosine begins after the warm-up.
    #[default]
    Step,
    /// The factor changes with every epoch, as in timm's `CosineLRScheduler`: the first epoch has the factor `warmup_start`, and the
    /// warm-up stands for the first epochs of a cosine over all of them.
    Epoch,
}

impl Per {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant {
            warmup_epochs: 0.0,
            warmup_start: 0.0,
        }
    }
}

/// Fields that are 0 are not written, so that runs from before they existed keep their hash.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Schedule {
    /// Returns the factor of step `step` (from 0) of `epochs` epochs of `steps_per_epoch` steps.
    pub fn factor(&self, step: usize, steps_per_epoch: usize, epochs: usize) -> f64 {
        let per_epoch = steps_per_epoch as f64;
        let (warmup_epochs, warmup_start) = self.warmup();
        if let Self::Cosine {
            per: Per::Epoch,
            floor,
            ..
        } = self
        {
            let epoch = (step / steps_per_epoch) as f64;
            return match epoch < warmup_epochs {
                true => warmup_start + (1.0 - warmup_start) * epoch / warmup_epochs,
                false => cosine(epoch / epochs as f64, *floor),
            };
        }
        let (step, total) = (step as f64, per_epoch * epochs as f64);
        let warmup = (warmup_epochs * per_epoch).min(total);
        if step < warmup {
            // The first step already moves: a factor of 0 would waste its batch.
            let share = (step + 1.0) / warmup.max(1.0);
            return warmup_start + (1.0 - warmup_start) * share;
        }
        match self {
            Self::Constant { .. } => 1.0,
            Self::Cosine { floor, .. } => {
                // A warm-up over all epochs leaves no step for the cosine, hence at least 1.
                let progress = (step - warmup) / (total - warmup).max(1.0);
                cosine(progress, *floor)
            }
            Self::Step { every, factor, .. } => {
                let epoch = (step / per_epoch) as usize;
                factor.powi((epoch / every) as i32)
            }
        }
    }

    /// The epochs of the warm-up, and the factor before its first step.
    fn warmup(&self) -> (f64, f64) {
        let (Self::Constant {
            warmup_epochs,
            warmup_start,
        }
        | Self::Cosine {
            warmup_epochs,
            warmup_start,
            ..
        }
        | Self::Step {
            warmup_epochs,
            warmup_start,
            ..
        }) = self;
        (*warmup_epochs, *warmup_start)
    }

    /// Checks the ranges of all fields in a recipe of `epochs` epochs.
    ///
    /// # Errors
    /// The dotted path of a field outside its range, and the range.
    pub(super) fn check(&self, epochs: usize) -> Result<(), String> {
        let (warmup_epochs, warmup_start) = self.warmup();
        let ok = warmup_epochs >= 0.0 && warmup_epochs <= epochs as f64;
        let range = format!("0 to {epochs} (the epochs)");
        within("schedule.warmup_epochs", ok, &range, warmup_epochs)?;
        let ok = (0.0..=1.0).contains(&warmup_start);
        within("schedule.warmup_start", ok, "0 to 1", warmup_start)?;
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

/// Half a cosine from 1 at progress 0 down to `floor` at progress 1.
fn cosine(progress: f64, floor: f64) -> f64 {
    floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_start_turn_and_end_where_they_should() {
        let cosine = Schedule::Cosine {
            warmup_epochs: 1.0,
            warmup_start: 0.0,
            floor: 0.1,
            per: Per::Step,
        };
        let at = |step| cosine.factor(step, 10, 11);
        assert!((at(0) - 0.1).abs() < 1e-12 && (at(9) - 1.0).abs() < 1e-12);
        assert!((at(10) - 1.0).abs() < 1e-12);
        assert!((at(60) - 0.55).abs() < 1e-12);
        assert!(at(109) > 0.1 && at(109) < 0.11);
        let steps = Schedule::Step {
            warmup_epochs: 0.0,
            warmup_start: 0.0,
            every: 2,
            factor: 0.5,
        };
        let epochs: Vec<f64> = (0..6)
            .map(|epoch| steps.factor(epoch * 10, 10, 6))
            .collect();
        assert_eq!(epochs, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn a_warm_up_rises_from_its_start() {
        let at = |start: f64| {
            let schedule = Schedule::Constant {
                warmup_epochs: 1.0,
                warmup_start: start,
            };
            [0, 4, 9, 10].map(|step| schedule.factor(step, 10, 2))
        };
        assert_eq!(at(0.0), [0.1, 0.5, 1.0, 1.0]);
        assert_eq!(at(0.5), [0.55, 0.75, 1.0, 1.0]);
        let schedule = Schedule::Constant {
            warmup_epochs: 1.0,
            warmup_start: 2.0,
        };
        let error = schedule.check(2).unwrap_err();
        assert_eq!(
            error,
            "recipe.schedule.warmup_start: expected 0 to 1, got 2"
        );
    }
}
