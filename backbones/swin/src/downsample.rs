//! The downsampling between two stages: half the map, twice the channels.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::site::Site;

use crate::place::Place;
use crate::windows::padded;

/// Merges four neighbours into one position with twice the channels:
/// `reduction(norm([x00, x10, x01, x11]))`.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    norm: LayerNorm,
    reduction: Linear,
}

impl Downsample {
    /// A downsampling to `width` channels, from half as many.
    pub fn new(place: &Place, width: usize) -> Self {
        Self {
            norm: place.norm("norm", 2 * width),
            reduction: place.linear("reduction", [2 * width, width], false),
        }
    }

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> [Site; 2] {
        [self.norm.site().clone(), self.reduction.site().clone()]
    }

    /// Pads a map of odd sides with a row and a column of zeros.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h / 2, w / 2, 2 c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let odd = x.dims()[1] % 2;
        let x = padded(x, odd);
        let [b, h, w, c] = x.dims();
        let x = x
            .reshape([b, h / 2, 2, w / 2, 2, c])
            .permute([0, 1, 3, 4, 2, 5]) // column before row, as the checkpoints have it
            .reshape([b, h / 2, w / 2, 4 * c]);
        self.reduction.forward(self.norm.forward(x, hooks), hooks)
    }
}
