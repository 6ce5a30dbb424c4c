//! The draws that the augmentations share.

use peft_core::input::Interpolation;
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Uniform in `[low, high)`.
pub(super) fn uniform(generator: &mut Generator, low: f64, high: f64) -> f64 {
    low + (high - low) * f64::from(generator.unit())
}

/// True with this probability.
pub(super) fn chance(generator: &mut Generator, probability: f64) -> bool {
    f64::from(generator.unit()) < probability
}

/// A resampling filter, or one that is drawn for each use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RandomInterpolation {
    /// Bilinear or bicubic, each with probability one half.
    #[default]
    Random,
    /// Bilinear.
    Bilinear,
    /// Bicubic.
    Bicubic,
}

impl RandomInterpolation {
    pub(super) fn draw(self, generator: &mut Generator) -> Interpolation {
        match self {
            Self::Bilinear => Interpolation::Bilinear,
            Self::Bicubic => Interpolation::Bicubic,
            Self::Random if chance(generator, 0.5) => Interpolation::Bilinear,
            Self::Random => Interpolation::Bicubic,
        }
    }
}
