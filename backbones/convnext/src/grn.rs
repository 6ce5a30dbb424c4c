//! Global response normalisation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::hooks::like;
use peft_core::random::Distribution;
use peft_ops::global_response_norm;

use crate::place::Place;

/// Added to the mean length of an image's channels.
const EPSILON: f64 = 1e-6;

/// `x + weight (x n) + bias`, where `n` is the length of a channel over the whole map, divided by the mean of all
/// channels (Woo et al., 2023). It starts as the identity.
#[derive(Module, Debug)]
pub(crate) struct Grn {
    /// `[c]`.
    weight: Param<Tensor<1>>,
    /// `[c]`.
    bias: Param<Tensor<1>>,
}

impl Grn {
    pub fn new(place: &Place, part: &str, channels: usize) -> Self {
        let zeros = |name: &str| {
            let name = place.part(&format!("{part}.{name}"));
            place.init.param(&name, [channels], Distribution::Zeros)
        };
        Self {
            weight: zeros("weight"),
            bias: zeros("bias"),
        }
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [weight, bias] = [&self.weight, &self.bias].map(|param| like(param.val(), &x));
        global_response_norm(x, weight, bias, EPSILON)
    }
}
