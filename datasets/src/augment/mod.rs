//! Random changes of training images, as timm makes them for ImageNet.
//!
//! [`Augment`] is the configuration. [`Augment::draw`] draws the parameters for one image, and
//! [`Drawn::apply`] makes the pixels from them, in timm's order: random resized crop (or the
//! evaluation's resize), flips, RandAugment and colour jitter on grey levels, normalisation,
//! random erasing. [`Augment::mix`] draws what happens to a batch afterwards: mixup or cutmix.
//!
//! A draw depends only on its generator, the size of the image and the size of the input. With a
//! generator for each image and epoch, and one for each batch and epoch, an epoch is therefore the
//! same on any number of threads.

mod crop;
mod drawn;
mod erasing;
mod mix;
mod ops;
mod rand_augment;
mod random;
#[cfg(test)]
mod tests;

use peft_core::input::ImageSize;
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::crop::{Crop, RandomResizedCrop};
pub use self::drawn::Drawn;
pub use self::erasing::{EraseMode, Erased, Fill};
use self::mix::Mixing;
pub use self::mix::{Cut, Mix, MixMode, Mixed};
pub use self::ops::{ColorJitter, Op};
pub use self::rand_augment::RandAugment;
pub use self::random::RandomInterpolation;
use self::random::chance;
use crate::error::Error;

/// Random changes of training images. A change that is not named is not made; the names are timm's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Takes a random part of the image and resizes it to the input's size. Without this, images
    /// are resized and cropped as for evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// How random crops and the geometric operations of `auto_augment` resample. Without
    /// `random_resized_crop`, images are resized as the backbone's input says.
    pub interpolation: RandomInterpolation,
    /// Probability of a left-right mirror image, 0 to 1. timm trains with 0.5.
    pub hflip: f64,
    /// Probability of an upside-down image, 0 to 1.
    pub vflip: f64,
    /// RandAugment in timm's notation, for example `rand-m9-mstd0.5-inc1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<RandAugment>,
    /// Colour jitter; it follows `auto_augment` where both are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// Probability that rectangles of the normalised image are erased, 0 to 1. timm's recipes for
    /// ViTs use 0.25.
    pub re_prob: f64,
    /// How erased rectangles are filled.
    pub re_mode: EraseMode,
    /// The most rectangles in an image, at least 1. Their number is uniform in 1 to this, and they
    /// share the erased area.
    pub re_count: usize,
    /// Mixup's alpha, at least 0: the weight of an image against its partner is drawn from
    /// Beta(alpha, alpha). 0 turns mixup off; timm's recipes use 0.2 to 0.8.
    pub mixup: f64,
    /// Cutmix's alpha, at least 0: the same for areas. 0 turns cutmix off; timm's recipes use 1.
    pub cutmix: f64,
    /// Probability that a batch (an image or a pair, by `mixup_mode`) is mixed at all, 0 to 1.
    pub mixup_prob: f64,
    /// Probability of cutmix instead of mixup where both are on, 0 to 1.
    pub mixup_switch_prob: f64,
    /// Which images share one draw.
    pub mixup_mode: MixMode,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            random_resized_crop: None,
            interpolation: RandomInterpolation::default(),
            hflip: 0.0,
            vflip: 0.0,
            auto_augment: None,
            color_jitter: None,
            re_prob: 0.0,
            re_mode: EraseMode::default(),
            re_count: 1,
            mixup: 0.0,
            cutmix: 0.0,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: MixMode::default(),
        }
    }
}

impl Augment {
    /// Checks the range of every field.
    ///
    /// # Errors
    /// A field outside of its range.
    pub fn validate(&self) -> Result<(), Error> {
        for (field, probability) in [
            ("hflip", self.hflip),
            ("vflip", self.vflip),
            ("re_prob", self.re_prob),
            ("mixup_prob", self.mixup_prob),
            ("mixup_switch_prob", self.mixup_switch_prob),
        ] {
            let ok = (0.0..=1.0).contains(&probability);
            Error::check(field, ok, "0 to 1", probability)?;
        }
        for (field, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            let ok = alpha >= 0.0 && alpha.is_finite();
            Error::check(field, ok, "a finite number, at least 0", alpha)?;
        }
        Error::check("re_count", self.re_count > 0, "at least 1", self.re_count)?;
        if let Some(crop) = &self.random_resized_crop {
            crop.validate()?;
        }
        if let Some(jitter) = &self.color_jitter {
            jitter.validate()?;
        }
        Ok(())
    }

    /// Draws the parameters for an image of `width` x `height` pixels and an input of that
    /// `size`.
    pub fn draw(
        &self,
        generator: &mut Generator,
        (width, height): (usize, usize),
        size: ImageSize,
    ) -> Drawn {
        let crop = self.random_resized_crop.map(|crop| {
            let (left, top, width, height) = crop.draw(generator, width, height);
            Crop {
                left,
                top,
                width,
                height,
                interpolation: self.interpolation.draw(generator),
            }
        });
        // The order of the draws is part of the result: another order would change every augmented
        // run.
        let hflip = chance(generator, self.hflip);
        let vflip = chance(generator, self.vflip);
        let mut ops = Vec::new();
        if let Some(policy) = &self.auto_augment {
            policy.draw(generator, self.interpolation, &mut ops);
        }
        if let Some(jitter) = &self.color_jitter {
            jitter.draw(generator, &mut ops);
        }
        Drawn {
            crop,
            hflip,
            vflip,
            ops,
            erased: match chance(generator, self.re_prob) {
                true => erasing::draw(generator, self.re_mode, self.re_count, size),
                false => Vec::new(),
            },
        }
    }

    /// Whether batches are mixed.
    pub fn mixes(&self) -> bool {
        self.mixing().is_on()
    }

    /// Draws how a batch of `images` for an input of that `size` is mixed.
    pub fn mix(&self, generator: &mut Generator, images: usize, size: ImageSize) -> Mix {
        self.mixing().draw(generator, images, size)
    }

    fn mixing(&self) -> Mixing {
        Mixing {
            mixup: self.mixup,
            cutmix: self.cutmix,
            prob: self.mixup_prob,
            switch_prob: self.mixup_switch_prob,
            mode: self.mixup_mode,
        }
    }
}
