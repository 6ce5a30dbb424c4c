//! What stands between two stages: half the map, twice the width.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::site::Site;

use crate::windows::padded;

/// Four neighbours to one position of twice the width: `reduction(norm([x00, x10, x01, x11]))`.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    pub norm: LayerNorm,
    pub reduction: Linear,
}

impl Downsample {
    pub fn sites(&self) -> [Site; 2] {
        [self.norm.site().clone(), self.reduction.site().clone()]
    }

    /// An odd side gets a row or a column of zeros.
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
