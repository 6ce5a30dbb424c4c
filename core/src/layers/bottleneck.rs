//! The bottleneck of adapters: two layers with a nonlinearity between them, at every position.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::ops::ConvOptions;
use peft_ops::{conv2d, relu};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::channels::like;
use crate::init::Init;
use crate::random::Distribution;
use crate::step::Draws;

use super::linear::linear;

/// `up(dropout(f(down(x))))` over the channels (Houlsby et al. 2019). It starts as zero because `up`
/// does; `down` must not, or only the bias of `up` would ever get a gradient.
#[derive(Module, Debug)]
pub struct Bottleneck {
    down: Dense,
    up: Dense,
    #[module(skip)]
    nonlinearity: Nonlinearity,
    dropout: f64,
    #[module(skip)]
    name: String,
}

#[derive(Module, Debug)]
struct Dense {
    /// `[out, in]`.
    weight: Param<Tensor<2>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

/// The function between `down` and `up`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Nonlinearity {
    /// `x cdf(x)`, exact.
    #[default]
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `x sigmoid(x)`.
    Silu,
}

impl Nonlinearity {
    fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Gelu => peft_ops::gelu(x),
            Self::Relu => relu(x),
            Self::Silu => silu(x),
        }
    }
}

impl Bottleneck {
    /// A new bottleneck `width -> hidden -> width` whose parameters are called `<name>.down.weight` and
    /// so on. `down` is drawn as PyTorch draws a linear layer, `up` is zero.
    pub fn new(
        name: &str,
        [width, hidden]: [usize; 2],
        nonlinearity: Nonlinearity,
        dropout: f64,
        init: &Init,
    ) -> Self {
        let dense = |part: &str, inputs, outputs, values| Dense {
            weight: init.param(&format!("{name}.{part}.weight"), [outputs, inputs], values),
            bias: init.param(
                &format!("{name}.{part}.bias"),
                [outputs],
                Distribution::Zeros,
            ),
        };
        Self {
            down: dense("down", width, hidden, Distribution::kaiming(width)),
            up: dense("up", hidden, width, Distribution::Zeros),
            nonlinearity,
            dropout,
            name: name.to_owned(),
        }
    }

    /// Trainable parameters: `2 D d + d + D`.
    pub fn count([width, hidden]: [usize; 2]) -> usize {
        2 * width * hidden + hidden + width
    }

    /// # Shapes
    /// Any activation with `width` channels; the result has the same shape.
    pub fn forward(&self, x: Activation, draws: &Draws) -> Activation {
        // A 1x1 convolution works on a map as it is, without moving its channels to the end and
        // back.
        if let Activation::Map(x) = x {
            return Activation::Map(self.between(x, draws, Dense::on_map));
        }
        x.per_position(|x| self.between(x, draws, Dense::on_rows))
    }

    fn between<const D: usize>(
        &self,
        x: Tensor<D>,
        draws: &Draws,
        layer: fn(&Dense, Tensor<D>) -> Tensor<D>,
    ) -> Tensor<D> {
        let hidden = self.nonlinearity.apply(layer(&self.down, x));
        let hidden = draws.dropout(hidden, self.dropout, &self.name);
        layer(&self.up, hidden)
    }
}

impl Dense {
    /// # Shapes
    /// `[.., in] -> [.., out]`.
    fn on_rows<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.val(), Some(self.bias.val()))
    }

    /// Like [`on_rows`](Self::on_rows) at each position of a map, which keeps its layout.
    ///
    /// # Shapes
    /// `[b, in, h, w] -> [b, out, h, w]`.
    fn on_map(&self, x: Tensor<4>) -> Tensor<4> {
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
