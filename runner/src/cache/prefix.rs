//! What is frozen below the first cut of a trial, and what the trial says of caching it.

use burn::tensor::DType;
use peft_core::activation::BoundaryShape;
use peft_core::backbone::{BoxedBackbone, Cut};

use crate::config::cache::{Store, ValueType};
use crate::data::rows::Encoding;
use crate::device::Chosen;
use crate::model::trial::Trial;

/// What runs below the first cut of a trial.
#[derive(Clone, Copy)]
pub struct Prefix<'a> {
    /// The trial.
    pub trial: &'a Trial,
    /// The frozen part on the plain device; none where the cut is 0.
    pub backbone: Option<&'a BoxedBackbone>,
    /// The first cut.
    pub cut: Cut,
    /// The device.
    pub device: &'a Chosen,
}

impl Prefix<'_> {
    /// Where its rows are kept.
    pub fn store(&self) -> Store {
        self.trial.experiment.prefix_cache
    }

    /// What the trial's `cache_budget_gib` says, in bytes.
    pub fn budget(&self) -> Option<usize> {
        let budget = self.trial.experiment.cache_budget_gib;
        budget.map(|gib| (gib * f64::from(1 << 30)) as usize)
    }

    /// The shape of a row, decoded.
    pub fn shape(&self) -> BoundaryShape {
        self.trial.shape_at(self.cut)
    }

    /// What it computes in.
    pub fn compute_type(&self) -> DType {
        self.trial.compute_type()
    }

    /// What a row holds.
    pub fn encoding(&self) -> Encoding {
        match self.cut {
            0 => Encoding::Pixels,
            _ => Encoding::Values(self.value_type()),
        }
    }

    /// What activations are kept as: by default what the prefix computes in, so that nothing is lost.
    pub fn value_type(&self) -> ValueType {
        let computed = match self.compute_type() {
            DType::BF16 => ValueType::Bf16,
            _ => ValueType::F32,
        };
        self.trial.experiment.cache_type.unwrap_or(computed)
    }
}
