//! The convolutions before the blocks: one, or three with norms between them.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::backbone::Init;
use peft_core::hooks::Hooks;
use peft_core::layers::{BatchNorm2d, Conv2d, Conv2dSizes, Then};
use peft_core::site::Site;

use crate::architecture::{Architecture, STEM, StemType};
use crate::convolutions::{norm, spatial};
use crate::sequence::{self, Layer, Relu, Sequence};

/// The convolutions before `bn1`: one, or a sequence that ends with one.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has one")]
pub(crate) enum Stem {
    Plain(Conv2d),
    Deep(Sequence),
}

impl Stem {
    /// The stem, and the channels of its output.
    pub fn new(sizes: &Architecture, init: &Init) -> (Self, usize) {
        let conv = |name: &str, sizes: Conv2dSizes| {
            Conv2d::new(Site::new(name, 0, sizes.kind()), false, init)
        };
        if sizes.stem_type == StemType::Plain {
            let sizes = Conv2dSizes {
                inputs: 3,
                outputs: STEM,
                kernel: 7,
                stride: 2,
                padding: 3,
            };
            return (Self::Plain(conv("conv1", sizes)), STEM);
        }
        let [first, second, third] = sizes.stem_widths();
        let layers = vec![
            Layer::Conv(conv("conv1.0", spatial(3, first, 2))),
            Layer::Norm(norm("conv1.1", 0, first, init)),
            Layer::Relu(Relu),
            Layer::Conv(conv("conv1.3", spatial(first, second, 1))),
            Layer::Norm(norm("conv1.4", 0, second, init)),
            Layer::Relu(Relu),
            Layer::Conv(conv("conv1.6", spatial(second, third, 1))),
        ];
        (Self::Deep(layers), third)
    }

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        let (plain, deep) = match self {
            Self::Plain(conv) => (Some(conv.site()), &[][..]),
            Self::Deep(layers) => (None, &layers[..]),
        };
        plain.into_iter().chain(deep.iter().filter_map(Layer::site))
    }

    /// The convolutions, then `norm` and a ReLU.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, c, h / 2, w / 2]`.
    pub fn forward(&self, norm: &BatchNorm2d, image: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        // The last convolution runs together with the norm behind it.
        let (before, last) = match self {
            Self::Plain(conv) => (&[][..], Some(conv)),
            Self::Deep(layers) => match layers.split_last() {
                Some((Layer::Conv(last), before)) => (before, Some(last)),
                _ => (&layers[..], None),
            },
        };
        let x = sequence::forward(before, image, hooks);
        match last {
            Some(conv) => conv.normed(norm, x, hooks, Then::relu()),
            None => norm.forward_then(x, hooks, Then::relu()),
        }
    }
}
