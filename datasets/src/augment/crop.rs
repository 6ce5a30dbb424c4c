//! Random resized crops (Szegedy et al. 2015, Sec. 6), drawn as timm and torchvision do.

use peft_core::data::Image;
use peft_core::input::{ImageSize, Interpolation};
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::random::uniform;
use crate::error::Error;
use crate::transform::{Part, options, resample};

/// A random part of the image. The area is uniform, and so is the logarithm of the aspect. A part
/// that does not fit is drawn again; after ten draws the largest centred part with an allowed
/// aspect is taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomResizedCrop {
    /// Smallest and largest part of the image's area, in (0, 1]. Default: 0.08 to 1.
    pub scale: [f64; 2],
    /// Smallest and largest width over height, above 0. Default: 3/4 to 4/3.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self {
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }
    }
}

impl RandomResizedCrop {
    pub(super) fn validate(&self) -> Result<(), Error> {
        let ([low, high], expected) = (self.scale, "two rising numbers above 0, at most 1");
        let ok = low > 0.0 && low <= high && high <= 1.0;
        let got = format!("{:?}", self.scale);
        Error::check("random_resized_crop.scale", ok, expected, got)?;
        let ([low, high], expected) = (self.ratio, "two rising finite numbers above 0");
        let ok = low > 0.0 && low <= high && high.is_finite();
        let got = format!("{:?}", self.ratio);
        Error::check("random_resized_crop.ratio", ok, expected, got)
    }

    /// Draws the left, top, width and height of a part, in pixels.
    pub(super) fn draw(
        &self,
        generator: &mut Generator,
        width: usize,
        height: usize,
    ) -> (usize, usize, usize, usize) {
        let area = (width * height) as f64;
        let [least, most] = self.ratio;
        for _ in 0..10 {
            let target = uniform(generator, self.scale[0], self.scale[1]) * area;
            let ratio = uniform(generator, least.ln(), most.ln()).exp();
            let across = (target * ratio).sqrt().round_ties_even() as usize;
            let down = (target / ratio).sqrt().round_ties_even() as usize;
            // timm accepts a side of 0, at which Pillow fails.
            if (1..=width).contains(&across) && (1..=height).contains(&down) {
                let top = generator.below(height - down + 1);
                let left = generator.below(width - across + 1);
                return (left, top, across, down);
            }
        }
        // Nothing fitted, as in an image much longer than it is high.
        let ratio = width as f64 / height as f64;
        let (across, down) = if ratio < least {
            (width, (width as f64 / least).round_ties_even() as usize)
        } else if ratio > most {
            ((height as f64 * most).round_ties_even() as usize, height)
        } else {
            (width, height)
        };
        let (across, down) = (across.max(1), down.max(1));
        ((width - across) / 2, (height - down) / 2, across, down)
    }
}

/// A part of an image and how it is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub struct Crop {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// The filter, which does not see beyond the crop.
    pub interpolation: Interpolation,
}

impl Crop {
    /// The part, resized to `[h, w, 3]` of `size`: columns first, then rows, as in Pillow 12.3.
    pub(super) fn resize(&self, image: &Image, size: ImageSize) -> Result<Vec<u8>, Error> {
        let inside = |start: usize, length: usize, side: usize| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= side)
        };
        if !inside(self.left, self.width, image.width)
            || !inside(self.top, self.height, image.height)
        {
            return Err(Error::Invalid {
                field: "crop",
                expected: format!("a part of {} x {} pixels", image.width, image.height),
                got: format!("{self:?}"),
            });
        }
        let options = options(self.interpolation);
        let part = [self.left, self.top, self.width, self.height];
        let part = Part::new(&image.rgb, (image.width, image.height), part)?;
        let narrow = resample(&part, (size.width, self.height), &options)?;
        let narrow = Part::whole(&narrow, size.width, self.height)?;
        resample(&narrow, (size.width, size.height), &options)
    }
}
