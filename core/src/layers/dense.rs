//! A trained linear layer of an adapter, which acts at every position.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use peft_ops::conv2d;

use crate::channels::like;
use crate::init::Init;
use crate::random::Distribution;

use super::linear::linear;

/// `y = W x + b` over the channels.
#[derive(Module, Debug)]
pub struct Dense {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    /// A new layer whose parameters are called `<name>.weight` and `<name>.bias`. The bias is zero.
    pub fn new(
        name: &str,
        [outputs, inputs]: [usize; 2],
        values: Distribution,
        init: &Init,
    ) -> Self {
        let zeros = Distribution::Zeros;
        Self {
            weight: init.param(&format!("{name}.weight"), [outputs, inputs], values),
            bias: init.param(&format!("{name}.bias"), [outputs], zeros),
        }
    }

    /// # Shapes
    /// `[.., in] -> [.., out]`.
    pub fn on_rows<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.val(), Some(self.bias.val()))
    }

    /// Like [`on_rows`](Self::on_rows) at each position of a map, which keeps its layout.
    ///
    /// # Shapes
    /// `[b, in, h, w] -> [b, out, h, w]`.
    pub fn on_map(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias) = (like(self.weight.val(), &x), like(self.bias.val(), &x));
        let [outputs, inputs] = weight.dims();
        let kernel = weight.reshape([outputs, inputs, 1, 1]);
        conv2d(
            x,
            kernel,
            Some(bias),
            ConvOptions::new([1, 1], [0, 0], [1, 1], 1),
        )
    }
}
