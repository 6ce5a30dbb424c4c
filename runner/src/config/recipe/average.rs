//! The moving average of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::recipe::range::share;

/// An exponential moving average of what trains, as timm's `ModelEmaV3`: after the first step it is the model's
/// values, and after each later one `decay` times itself plus `1 - decay` times the values. Statistics of
/// BatchNorm that train are averaged too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// The share of itself that a step keeps, in `[0, 1)`.
    pub decay: f64,
    /// Whether the share rises to `decay` over the steps: after step `n`, counted from 1, it is at most
    /// `1 - n^(-2/3)`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warmup: bool,
}

impl Average {
    /// Checks the range of the decay.
    ///
    /// # Errors
    /// The dotted path of the field, and its range.
    pub(super) fn check(&self) -> Result<(), String> {
        share("ema.decay", self.decay)
    }

    /// The share of the average that it keeps at step `step`, counted from 1.
    pub fn kept(&self, step: u64) -> f64 {
        match (step, self.warmup) {
            (0 | 1, _) => 0.0,
            (_, false) => self.decay,
            (step, true) => self.decay.min(1.0 - (step as f64).powf(-2.0 / 3.0)),
        }
    }
}
