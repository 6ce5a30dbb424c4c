//! Layers in a row, numbered as in torch's `Sequential`: layers without weights count too.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use peft_core::hooks::Hooks;
use peft_core::layers::{BatchNorm2d, Conv2d, Then};
use peft_core::site::Site;
use peft_ops::relu;

/// Layers in the order in which they are applied.
pub(crate) type Sequence = Vec<Layer>;

/// One layer of a [`Sequence`].
#[derive(Module, Debug)]
pub(crate) enum Layer {
    Conv(Conv2d),
    Norm(BatchNorm2d),
    Relu(Relu),
    Average(Average),
}

/// `max(x, 0)`.
#[derive(Module, Debug)]
pub(crate) struct Relu;

/// The mean of each window of `side x side`; at the end of an odd map, of the part inside the map.
#[derive(Module, Debug)]
pub(crate) struct Average {
    pub side: usize,
}

impl Layer {
    /// Returns its site, if it has weights.
    pub(crate) fn site(&self) -> Option<&Site> {
        match self {
            Self::Conv(conv) => Some(conv.site()),
            Self::Norm(norm) => Some(norm.site()),
            Self::Relu(_) | Self::Average(_) => None,
        }
    }

    fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv.forward(x, hooks),
            Self::Norm(norm) => norm.forward(x, hooks),
            Self::Relu(_) => relu(x),
            Self::Average(average) => average.forward(x),
        }
    }
}

impl Average {
    /// # Shapes
    /// `[b, c, h, w] -> [b, c, ceil(h / side), ceil(w / side)]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.side == 1 {
            return x;
        }
        // As in timm: a window that reaches beyond the map averages only what lies inside.
        let options = AvgPoolOptions::new([self.side; 2]);
        avg_pool2d(
            x,
            options.with_ceil_mode(true).with_count_include_pad(false),
        )
    }
}

/// Applies layers one after the other; a convolution, its norm and its ReLU in one pass if nothing acts
/// between them.
///
/// # Shapes
/// `[b, c, h, w] -> [b, c', h', w']`.
pub(crate) fn forward(layers: &[Layer], x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
    let (mut x, mut layers) = (x, layers);
    loop {
        (x, layers) = match layers {
            [] => return x,
            [
                Layer::Conv(conv),
                Layer::Norm(norm),
                Layer::Relu(_),
                rest @ ..,
            ] => (conv.normed(norm, x, hooks, Then::relu()), rest),
            [Layer::Conv(conv), Layer::Norm(norm), rest @ ..] => {
                (conv.normed(norm, x, hooks, Then::default()), rest)
            }
            [layer, rest @ ..] => (layer.forward(x, hooks), rest),
        };
    }
}
