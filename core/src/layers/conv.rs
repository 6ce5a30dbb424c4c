//! The two-dimensional convolution.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use crate::backbone::Init;
use crate::hooks::{Hooks, conv_side_path, like, run_site};
use crate::layers::linear;
use crate::random::Distribution;
use crate::site::{Site, SiteKind};

/// A convolution at a site.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    site: Site,
}

/// Sizes of a square convolution, for the constructor of its site.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dSizes {
    /// Input channels.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
}

impl Conv2dSizes {
    /// As the kind of a site, without groups.
    pub fn kind(self) -> SiteKind {
        SiteKind::Conv {
            inputs: self.inputs,
            outputs: self.outputs,
            kernel: [self.kernel; 2],
            stride: [self.stride; 2],
            padding: [self.padding; 2],
            groups: 1,
        }
    }

    /// Rows (or columns) of the output for `size` of them in the input.
    pub fn output(self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

impl Conv2d {
    /// The layer at `site`; weights drawn with He et al.'s deviation `sqrt(2 / fan_out)`.
    ///
    /// # Panics
    /// If the site is not a convolution.
    pub fn new(site: Site, bias: bool, init: &Init) -> Self {
        let SiteKind::Conv {
            inputs,
            outputs,
            kernel: [kh, kw],
            groups,
            ..
        } = site.kind
        else {
            panic!("{}: expected a convolution, got {}", site.name, site.kind)
        };
        let name = |part: &str| format!("{}.{part}", site.name);
        let deviation = (2.0 / (outputs * kh * kw) as f32).sqrt();
        let shape = [outputs, inputs / groups, kh, kw];
        Self {
            weight: init.param(&name("weight"), shape, Distribution::Normal(0.0, deviation)),
            bias: bias.then(|| init.param(&name("bias"), [outputs], Distribution::Zeros)),
            site,
        }
    }

    /// The site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// # Shapes
    /// `[b, in, h, w] -> [b, out, h', w']`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let operation = |x: Tensor<4>| {
            let weight = like(self.weight.val(), &x);
            let bias = self.bias.as_ref().map(|bias| like(bias.val(), &x));
            self.convolve(x, weight, bias)
        };
        let side_path = |x, factors| conv_side_path(x, factors, self);
        run_site(hooks, &self.site, x, [1, 1], operation, side_path)
    }

    /// `B * (A * x)` with this layer's stride, padding and groups for `A`.
    pub(crate) fn low_rank(&self, x: Tensor<4>, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        let (a, b) = (like(a, &x), like(b, &x));
        let hidden = self.convolve(x, a, None);
        let pointwise = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        conv2d(hidden, b, None, pointwise)
    }

    fn convolve(&self, x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
        match self.site.kind {
            SiteKind::Conv {
                kernel,
                stride,
                padding: [0, 0],
                groups: 1,
                ..
            } if kernel == stride && kernel != [1, 1] => patches(x, weight, bias),
            SiteKind::Conv {
                stride,
                padding,
                groups,
                ..
            } => conv2d(
                x,
                weight,
                bias,
                ConvOptions::new(stride, padding, [1, 1], groups),
            ),
            _ => unreachable!("checked when it was built"),
        }
    }
}

/// A convolution whose windows do not overlap (a patch embedding) as one matrix product.
///
/// # Shapes
/// `[b, c, gh * p, gw * q]`, `[o, c, p, q]`, `[o]` -> `[b, o, gh, gw]`.
fn patches(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let [o, _, p, q] = weight.dims();
    let (gh, gw) = (h / p, w / q);
    let columns = x
        .reshape([b, c, gh, p, gw, q])
        .permute([0, 2, 4, 1, 3, 5]) // [b, gh, gw, c, p, q]
        .reshape([b, gh * gw, c * p * q]);
    let y = linear(columns, weight.reshape([o, c * p * q]), bias); // [b, gh * gw, o]
    y.swap_dims(1, 2).reshape([b, o, gh, gw])
}
