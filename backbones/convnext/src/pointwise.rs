//! The layers of an MLP, which checkpoints hold as linear layers or as convolutions of 1x1.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::hooks::Hooks;
use peft_core::layers::{Conv2d, Conv2dSizes, Linear};
use peft_core::site::{Site, SiteKind};
use peft_ops::Gelu;

use crate::place::Place;

/// A product over the channels at every position. Both kinds compute the same; they differ in the shapes of
/// their weights, and in what adapters of HF PEFT have beside them.
#[derive(Module, Debug)]
pub(crate) enum Pointwise {
    Linear(Linear),
    Conv(Conv2d),
}

impl Pointwise {
    pub fn new(place: &Place, part: &str, [inputs, outputs]: [usize; 2]) -> Self {
        if !place.sizes.conv_mlp {
            let site = place.site(part, SiteKind::Linear { inputs, outputs });
            return Self::Linear(Linear::new(site, true, place.init));
        }
        let sizes = Conv2dSizes {
            inputs,
            outputs,
            kernel: 1,
            stride: 1,
            padding: 0,
        };
        // These layers have a bias whether or not other convolutions do.
        let site = place.site(part, sizes.kind());
        Self::Conv(Conv2d::new(site, true, place.init))
    }

    pub fn site(&self) -> &Site {
        match self {
            Self::Linear(layer) => layer.site(),
            Self::Conv(layer) => layer.site(),
        }
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<Tensor<1>> {
        let bias = match self {
            Self::Linear(layer) => layer.bias.as_ref(),
            Self::Conv(layer) => layer.bias.as_ref(),
        };
        bias.map(|bias| bias.val())
    }

    /// The layer whose outputs are multiplied by `scale [out]`.
    pub fn scaled(&self, scale: &Tensor<1>) -> Self {
        match self {
            Self::Linear(layer) => Self::Linear(layer.scaled(scale)),
            Self::Conv(layer) => Self::Conv(layer.scaled(scale)),
        }
    }

    /// # Shapes
    /// `[b, h, w, in] -> [b, h, w, out]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        match self {
            Self::Linear(layer) => layer.forward(x, hooks),
            Self::Conv(layer) => layer.forward_grid(x, hooks),
        }
    }

    /// Returns `residual + forward(x)`, or `forward(x)` without a residual.
    ///
    /// # Shapes
    /// `[b, h, w, out]`, `[b, h, w, in] -> [b, h, w, out]`.
    pub fn onto(&self, residual: Option<Tensor<4>>, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        match (self, residual) {
            (_, None) => self.forward(x, hooks),
            (Self::Linear(layer), Some(residual)) => layer.forward_onto(residual, x, hooks),
            (Self::Conv(layer), Some(residual)) => layer.forward_grid_onto(residual, x, hooks),
        }
    }

    /// Returns `residual + forward(gelu(x))`, or `forward(gelu(x))` without a residual.
    ///
    /// # Shapes
    /// See [`onto`](Self::onto).
    pub fn of_gelu(&self, residual: Option<Tensor<4>>, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        match self {
            Self::Linear(layer) => layer.forward_gelu(residual, x, Gelu::Exact, hooks),
            Self::Conv(layer) => layer.forward_grid_gelu(residual, x, Gelu::Exact, hooks),
        }
    }
}
