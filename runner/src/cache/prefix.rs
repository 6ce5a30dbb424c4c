//! The frozen part below the first cut of a trial, and the trial's settings of its cache.

use burn::tensor::DType;
use peft_core::backbone::{BoxedBackbone, Cut};
use peft_core::{TappedShape, Taps};

use crate::config::cache::{Store, ValueType};
use crate::data::random::EpochRandom;
use crate::data::rows::Encoding;
use crate::device::ComputeDevice;
use crate::model::trial::Trial;

/// The part of a trial that runs below its first cut.
#[derive(Clone, Copy)]
pub struct Prefix<'a> {
    /// The trial.
    pub trial: &'a Trial,
    /// The frozen part on the plain device; `None` if the cut is 0.
    pub backbone: Option<&'a BoxedBackbone>,
    /// The cuts at which it is read: the first cut, or those that a side network taps.
    pub taps: &'a Taps,
    /// The device.
    pub device: &'a ComputeDevice,
}

impl Prefix<'_> {
    /// The cut at which the part that trains takes over.
    pub fn cut(&self) -> Cut {
        self.taps.end()
    }

    /// Where the trial stores the rows.
    pub fn store(&self) -> Store {
        self.trial.experiment.prefix_cache
    }

    /// The trial's `cache_budget_gib`, in bytes.
    pub fn budget(&self) -> Option<usize> {
        let budget = self.trial.experiment.cache_budget_gib;
        budget.map(|gib| (gib * f64::from(1 << 30)) as usize)
    }

    /// The shape of a decoded row.
    pub fn shape(&self) -> TappedShape {
        self.trial.tapped_shape(self.taps)
    }

    /// The type that the prefix computes in.
    pub fn compute_type(&self) -> DType {
        self.trial.compute_type()
    }

    /// The content of a row.
    pub fn encoding(&self) -> Encoding {
        match self.cut() {
            0 => Encoding::Pixels,
            _ => Encoding::Values(self.value_type()),
        }
    }

    /// The type that activations are stored in: by default the one that the prefix computes in, so that
    /// nothing is lost.
    pub fn value_type(&self) -> ValueType {
        let computed = match self.compute_type() {
            DType::BF16 => ValueType::Bf16,
            _ => ValueType::F32,
        };
        self.trial.experiment.cache_type.unwrap_or(computed)
    }

    /// Whether stored activations are those that were computed, to the bit.
    pub fn is_exact(&self) -> bool {
        match self.compute_type() {
            DType::BF16 => self.value_type() != ValueType::F16,
            _ => self.value_type() == ValueType::F32,
        }
    }

    /// Whether rows differ from epoch to epoch under these random changes. Pixels are stored before the
    /// changes, so that only a random crop, which comes before the resize, makes them differ.
    pub fn is_changed_by(&self, random: &EpochRandom) -> bool {
        match self.cut() {
            0 => random.augment.random_resized_crop.is_some(),
            _ => random.augment != Default::default(),
        }
    }

    /// Returns the reason why rows that differ from epoch to epoch cannot be stored, if there is
    /// one. Of activations, a limited number of views can be stored.
    pub fn refusal(&self, random: &EpochRandom) -> Option<&'static str> {
        if self.cut() == 0 {
            Some("they are cropped at random")
        } else if random.augment.mixes() {
            Some("the images are mixed at random")
        } else if random.views == 0 {
            Some(
                "the images are changed at random; cache_views: 4 would cache four changes of each",
            )
        } else {
            None
        }
    }
}
