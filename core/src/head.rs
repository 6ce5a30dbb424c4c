//! The linear head: features to logits, trained in every row of a comparison.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};

use crate::backbone::Init;
use crate::checkpoint::CheckpointHead;
use crate::layers::linear;
use crate::random::Distribution;

/// `logits = features W^T + b`.
#[derive(Module, Debug)]
pub struct LinearHead {
    /// `[classes, features]`.
    pub weight: Param<Tensor<2>>,
    /// `[classes]`.
    pub bias: Param<Tensor<1>>,
}

impl LinearHead {
    /// A new head: weights truncated normal with deviation 0.02 (timm's), bias zero.
    pub fn new(features: usize, classes: usize, init: &Init) -> Self {
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            weight: init.param("head.weight", [classes, features], normal),
            bias: init.param("head.bias", [classes], Distribution::Zeros),
        }
    }

    /// The head that came with a checkpoint.
    pub fn from_checkpoint(head: CheckpointHead, device: &Device) -> Self {
        Self {
            weight: Param::from_data(head.weight, device),
            bias: Param::from_data(head.bias, device),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Logits in f32, whatever the backbone computes in.
    ///
    /// # Shapes
    /// `[b, features] -> [b, classes]`.
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let features = match features.dtype() {
            DType::F32 | DType::F64 => features,
            _ => features.cast(DType::F32),
        };
        linear(features, self.weight.val(), Some(self.bias.val()))
    }
}
