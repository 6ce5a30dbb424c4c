//! The downsampling between two stages: half the map, other channels.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::{Conv2d, LayerNorm};
use peft_core::site::Site;

use crate::place::Place;

/// A norm, then a convolution of 2x2 with as wide a stride. In checkpoints the two are numbered.
#[derive(Module, Debug)]
pub(crate) enum Layer {
    Norm(LayerNorm),
    Conv(Conv2d),
}

/// The layers in their order.
pub(crate) type Downsample = Vec<Layer>;

/// A downsampling between these numbers of channels.
pub(crate) fn downsample(place: &Place, widths: [usize; 2]) -> Downsample {
    vec![
        Layer::Norm(place.norm("0", widths[0])),
        Layer::Conv(place.merging("1", widths, 2)),
    ]
}

impl Layer {
    pub fn site(&self) -> &Site {
        match self {
            Self::Norm(norm) => norm.site(),
            Self::Conv(conv) => conv.site(),
        }
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]` for a norm, `[b, h / 2, w / 2, c']` for a convolution. A row or column that is
    /// left over is not seen.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        match self {
            Self::Norm(norm) => norm.forward(x, hooks),
            Self::Conv(conv) => conv.forward_grid(x, hooks),
        }
    }
}
