//! The input images that a checkpoint expects. They belong to the weights, not to the architecture,
//! and are published beside them, for example in a `config.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::image_size::ImageSize;

/// Mean of each channel of ImageNet's images, with which most networks are trained.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of each channel of ImageNet's images.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The way in which an image becomes the input of a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// Rows and columns in pixels.
    pub size: ImageSize,
    /// Mean of each channel (red, green, blue), for values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// The filter with which images are resized.
    pub interpolation: Interpolation,
    /// Fraction of the resized image that is kept, in `(0, 1]`: images are resized to `floor(size /
    /// crop_pct)` pixels and the centre is cut out.
    pub crop_pct: f32,
    /// The sides that are resized to that many pixels.
    pub crop_mode: CropMode,
}

impl InputSpec {
    /// The shape of a batch of `images`, `[images, 3, h, w]`.
    pub fn batch(&self, images: usize) -> [usize; 4] {
        let [height, width] = self.size.sides();
        [images, 3, height, width]
    }

    /// Number of values of an image, `3 h w`.
    pub fn values(&self) -> usize {
        3 * self.size.pixels()
    }
}

impl std::fmt::Display for InputSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            size,
            mean,
            std,
            interpolation,
            crop_pct,
            crop_mode,
        } = self;
        let filter = match interpolation {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        };
        let mode = match crop_mode {
            CropMode::Center => "center",
            CropMode::Squash => "squash",
        };
        let [height, width] = size.sides();
        write!(
            f,
            "{height} x {width}, {filter}, crop {crop_pct} ({mode}), mean {mean:?}, std {std:?}"
        )
    }
}

/// A resampling filter, antialiased like Pillow's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle filter.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    #[default]
    Bicubic,
}

/// The sides of an image that are resized before its centre is cut out, in the terms of timm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The side that is shorter beside the target's; the aspect ratio is kept.
    #[default]
    Center,
    /// Both sides; the aspect ratio is lost.
    Squash,
}
