//! The bottleneck of adapters: two layers with a nonlinearity between them, at every position.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use peft_ops::relu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::described::{DescribedLayer, Function};
use crate::init::Init;
use crate::random::Distribution;
use crate::step::Draws;

use super::dense::Dense;

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

    fn described(self) -> Function {
        match self {
            Self::Gelu => Function::Gelu,
            Self::Relu => Function::Relu,
            Self::Silu => Function::Silu,
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
        let dense = |part: &str, inputs, outputs, values| {
            Dense::new(&format!("{name}.{part}"), [outputs, inputs], values, init)
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

    /// The layers as data, where the bottleneck is called `name`.
    pub fn described(&self, name: &str) -> Vec<DescribedLayer> {
        let function = self.nonlinearity.described();
        vec![
            DescribedLayer::dense(&format!("{name}.down")),
            DescribedLayer::Nonlinearity { function },
            DescribedLayer::dense(&format!("{name}.up")),
        ]
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
