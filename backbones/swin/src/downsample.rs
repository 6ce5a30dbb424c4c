//! The downsampling between two stages: half the map, twice the channels.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::{LayerNorm, Linear};
use peft_core::site::Site;

use crate::architecture::Version;
use crate::place::Place;
use crate::windows::padded;

/// Merges four neighbours into one position with twice the channels: `reduction(norm([x00, x10, x01,
/// x11]))`, in version 2 `norm(reduction(..))`.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    norm: LayerNorm,
    reduction: Linear,
    #[module(skip)]
    version: Version,
}

impl Downsample {
    /// A downsampling to `width` channels, from half as many.
    pub fn new(place: &Place, width: usize, version: Version) -> Self {
        let normed = match version {
            Version::One => 2 * width,
            Version::Two => width,
        };
        Self {
            norm: place.norm("norm", normed),
            reduction: place.linear("reduction", [2 * width, width], false),
            version,
        }
    }

    /// The bias that is added last, if there is one.
    pub fn last_norm(&self) -> Option<&LayerNorm> {
        (self.version == Version::Two).then_some(&self.norm)
    }

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> [Site; 2] {
        let sites = match self.version {
            Version::One => [self.norm.site(), self.reduction.site()],
            Version::Two => [self.reduction.site(), self.norm.site()],
        };
        sites.map(Site::clone)
    }

    /// Pads a map of odd sides with a row and a column of zeros.
    ///
    /// # Shapes
    /// `[b, h, w, c] -> [b, h / 2, w / 2, 2 c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let [_, h, w, _] = x.dims();
        let x = padded(x, [h % 2, w % 2]);
        let [b, h, w, c] = x.dims();
        let x = x
            .reshape([b, h / 2, 2, w / 2, 2, c])
            .permute([0, 1, 3, 4, 2, 5]) // column before row, as the checkpoints have it
            .reshape([b, h / 2, w / 2, 4 * c]);
        match self.version {
            Version::One => self.reduction.forward(self.norm.forward(x, hooks), hooks),
            Version::Two => self.norm.forward(self.reduction.forward(x, hooks), hooks),
        }
    }
}
