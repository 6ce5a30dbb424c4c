//! The two-dimensional convolution.

use std::borrow::Cow;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use peft_ops::{FixedNorm, batch_norm, conv2d, conv2d_norm, conv2d_residual};

use crate::channels::like;
use crate::hooks::{Act, Hooks};
use crate::init::Init;
use crate::low_rank::{Factors, SidePath, Weighted};
use crate::random::Distribution;
use crate::run_site::{affine, run_site, split_weight};
use crate::site::{Site, SiteKind};

use super::batch_norm::{BatchNorm2d, Then};
use super::linear::linear;

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
    /// The kind of a site with these sizes, without groups.
    pub fn kind(self) -> SiteKind {
        self.grouped(1)
    }

    /// The kind of a site with these sizes whose channels are divided into `groups`.
    pub fn grouped(self, groups: usize) -> SiteKind {
        SiteKind::Conv {
            inputs: self.inputs,
            outputs: self.outputs,
            kernel: [self.kernel; 2],
            stride: [self.stride; 2],
            padding: [self.padding; 2],
            groups,
        }
    }

    /// Number of rows (or columns) of the output for an input with `size` of them.
    pub fn output(self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

impl Conv2d {
    /// A new layer at `site`; weights are drawn with He et al.'s deviation `sqrt(2 / fan_out)`.
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
        // The fan-out, as in torchvision and timm: it keeps the size of gradients through the
        // ReLUs.
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
        let (layer, acts) = self.changed(hooks);
        layer.with_acts(acts, x)
    }

    /// The layer with the weight that functions at its site make of its own, and the other acts.
    pub(super) fn changed<'a>(&self, hooks: &Hooks<'a>) -> (Cow<'_, Self>, Vec<Act<'a>>) {
        let own = || self.weight.val().flatten(1, 3);
        let (weight, acts) = split_weight(hooks.at_site(&self.site), own);
        let layer = match weight {
            None => Cow::Borrowed(self),
            Some(weight) => Cow::Owned(Self {
                weight: Param::initialized(self.weight.id, weight.reshape(self.weight.dims())),
                ..self.clone()
            }),
        };
        (layer, acts)
    }

    fn with_acts(&self, acts: Vec<Act>, x: Tensor<4>) -> Tensor<4> {
        let operation = |x: Tensor<4>| {
            let weight = like(self.weight.val(), &x);
            let bias = self.bias.as_ref().map(|bias| like(bias.val(), &x));
            self.convolve(x, weight, bias, self.groups())
        };
        run_site(acts, &self.site, x, [1, 1], operation, self)
    }

    /// Applies the layer, the `norm` after it and the operations after that (`then`), in as few
    /// passes as the acts between them allow: in one if nothing acts and the norm is frozen.
    ///
    /// # Shapes
    /// `[b, in, h, w] -> [b, out, h', w']`.
    pub fn normed(&self, norm: &BatchNorm2d, x: Tensor<4>, hooks: &Hooks, then: Then) -> Tensor<4> {
        let (layer, acts) = self.changed(hooks);
        let behind = hooks.at_site(norm.site());
        // One operation needs a norm that is constant, and no bias in between.
        let frozen = !norm.trains() && behind.is_empty() && self.bias.is_none();
        match &acts[..] {
            [] if frozen => {
                let weight = like(layer.weight.val(), &x);
                let fixed = norm.fixed(&x, norm.affine(&x));
                return conv2d_norm(x, weight, self.options(), fixed, then.residual, then.relu);
            }
            [Act::LowRank(path)] if frozen && path.is_plain() => {
                return layer.normed_beside(path, norm, x, then);
            }
            [_, ..] if !norm.follows_batch(hooks) => {
                let own = norm.affine(&x);
                let [ones, zeros] = [own[0].ones_like(), own[0].zeros_like()];
                let between = affine(&acts, [ones, zeros]);
                if let (Some(between), Some(behind)) = (between, affine(&behind, own)) {
                    return layer.scaled_into(norm, x, between, behind, then);
                }
            }
            _ => {}
        }
        norm.with_acts(behind, layer.with_acts(acts, x), hooks, then)
    }

    /// Applies the layer with a side path before a frozen norm `n`: `n(W x + B A x) + r` equals
    /// `n(W x) + r` plus `B A x` times the factors of the norm, which saves a pass over the sum.
    fn normed_beside(
        &self,
        path: &SidePath,
        norm: &BatchNorm2d,
        x: Tensor<4>,
        then: Then,
    ) -> Tensor<4> {
        let fixed = norm.fixed(&x, norm.affine(&x));
        let Factors::Conv(a, b) = &path.path.factors else {
            panic!(
                "{}: the factors are not those of a convolution",
                self.site.name
            )
        };
        let (a, b) = (like(a.clone(), &x), like(b.clone(), &x) * path.factor());
        // `A` reads all channels even if the layer is grouped, as in HF PEFT.
        let hidden = self.convolve(x.clone(), a, None, 1);
        let weight = like(self.weight.val(), &x);
        let own = conv2d_norm(
            x,
            weight,
            self.options(),
            fixed.clone(),
            then.residual,
            false,
        );
        // The path gets the factors of the norm but not its offset, which `own` already has.
        let factors = FixedNorm {
            beta: fixed.beta.zeros_like(),
            mean: fixed.mean.zeros_like(),
            ..fixed
        };
        conv2d_norm(hidden, b, self.pointwise(), factors, Some(own), then.relu)
    }

    /// Moves factors `s` and offsets `t` between the layer and a norm with fixed statistics into the
    /// norm: `n(s y + t)` is the norm of `y` around 0 with `gamma s` and `beta + gamma (t - mean) /
    /// sqrt(..)`.
    fn scaled_into(
        &self,
        norm: &BatchNorm2d,
        x: Tensor<4>,
        [scale, shift]: [Tensor<1>; 2],
        [gamma, beta]: [Tensor<1>; 2],
        then: Then,
    ) -> Tensor<4> {
        let fixed = norm.fixed(&x, [gamma, beta]);
        let inverse = (fixed.variance.clone() + fixed.epsilon).sqrt().recip();
        let offset = fixed.gamma.clone() * inverse * (shift - fixed.mean.clone());
        let fixed = FixedNorm {
            gamma: fixed.gamma * scale,
            beta: fixed.beta + offset,
            mean: fixed.mean.zeros_like(),
            ..fixed
        };
        let weight = like(self.weight.val(), &x);
        let bias = self.bias.as_ref().map(|bias| like(bias.val(), &x));
        let y = self.convolve(x, weight, bias, self.groups());
        batch_norm(y, fixed, then.residual, then.relu)
    }

    pub(super) fn pointwise(&self) -> ConvOptions<2> {
        ConvOptions::new([1, 1], [0, 0], [1, 1], self.groups())
    }

    pub(super) fn groups(&self) -> usize {
        self.options().groups
    }

    pub(super) fn options(&self) -> ConvOptions<2> {
        match self.site.kind {
            SiteKind::Conv {
                stride,
                padding,
                groups,
                ..
            } => ConvOptions::new(stride, padding, [1, 1], groups),
            _ => unreachable!("checked when it was built"),
        }
    }

    /// A convolution with this layer's stride and padding.
    pub(super) fn convolve(
        &self,
        x: Tensor<4>,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        groups: usize,
    ) -> Tensor<4> {
        // Windows that do not overlap need no copy of their pixels beyond one rearrangement.
        match self.site.kind {
            SiteKind::Conv {
                kernel,
                stride,
                padding: [0, 0],
                ..
            } if groups == 1 && kernel == stride && kernel != [1, 1] => patches(x, weight, bias),
            _ => conv2d(
                x,
                weight,
                bias,
                ConvOptions {
                    groups,
                    ..self.options()
                },
            ),
        }
    }
}

impl Weighted<4, 4> for Conv2d {
    fn low_rank(&self, x: Tensor<4>, factors: &Factors) -> Option<Tensor<4>> {
        let Factors::Conv(a, b) = factors else {
            return None;
        };
        let (a, b) = (like(a.clone(), &x), like(b.clone(), &x));
        let hidden = self.convolve(x, a, None, 1);
        Some(conv2d(hidden, b, None, self.pointwise()))
    }
    fn bare(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = like(self.weight.val(), &x);
        self.convolve(x, weight, None, self.groups())
    }
    fn matrix(&self) -> Tensor<2> {
        self.weight.val().flatten(1, 3)
    }
    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }
    fn with_low_rank(&self, x: &Tensor<4>, path: &SidePath) -> Option<Tensor<4>> {
        let Factors::Conv(a, b) = path.plain_factors()? else {
            return None;
        };
        let bias = self.bias.as_ref().map(|bias| like(bias.val(), x));
        let y = self.convolve(x.clone(), like(self.weight.val(), x), bias, self.groups());
        let hidden = self.convolve(x.clone(), like(a.clone(), x), None, 1);
        let b = like(b.clone(), x) * path.factor();
        Some(conv2d_residual(hidden, b, y, self.pointwise()))
    }
    fn with_scale_shift(
        &self,
        x: &Tensor<4>,
        scale: &Option<Tensor<1>>,
        shift: &Option<Tensor<1>>,
    ) -> Option<Tensor<4>> {
        // `s (W x + b) + t` is a norm around 0 with variance 1, which takes one pass instead of
        // two.
        let y = self.bare(x.clone());
        let zeros = Tensor::zeros([y.dims()[1]], &x.device());
        let zeros = like(zeros, x);
        let vector = |v: &Option<Tensor<1>>, default: Tensor<1>| match v {
            Some(v) => like(v.clone(), x),
            None => default,
        };
        let gamma = vector(scale, zeros.ones_like());
        let mut beta = vector(shift, zeros.clone());
        if let Some(bias) = &self.bias {
            beta = beta + gamma.clone() * like(bias.val(), x);
        }
        let variance = zeros.ones_like();
        let norm = FixedNorm {
            gamma,
            beta,
            mean: zeros,
            variance,
            epsilon: 0.0,
        };
        Some(batch_norm(y, norm, None, false))
    }
}

/// A convolution whose windows do not overlap (a patch embedding) as one matrix product. Rows and columns
/// that are left over at the end are not seen.
///
/// # Shapes
/// `[b, c, h, w]`, `[o, c, p, q]`, `[o]` -> `[b, o, h / p, w / q]`.
fn patches(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let [b, _, h, w] = x.dims();
    let [o, c, p, q] = weight.dims();
    let (gh, gw) = (h / p, w / q);
    let x = x.narrow(2, 0, gh * p).narrow(3, 0, gw * q);
    let columns = peft_ops::patches(x, [p, q]); // [b, gh * gw, c * p * q]
    let y = linear(columns, weight.reshape([o, c * p * q]), bias); // [b, gh * gw, o]
    // This is only a view: token sequences and grids move the channels to the end again.
    y.reshape([b, gh, gw, o]).permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::params::{Tensors, floats};

    /// `|got - expected| <= 1e-5 max(1, max |expected|)`.
    fn assert_close(got: Tensor<4>, expected: &Tensors, name: &str) {
        let (got, expected) = (floats(got.into_data()), floats(expected[name].clone()));
        assert_eq!(got.len(), expected.len());
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (a, b) in got.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * scale, "{name}: {a}, expected {b}");
        }
    }

    /// HF PEFT's path beside a grouped convolution: `A` reads all channels, `B` is grouped.
    #[test]
    fn a_low_rank_path_beside_groups_agrees_with_hf_peft() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/peft/lora_grouped");
        let folder = std::path::Path::new(folder);
        let io = Checkpoint::open(&folder.join("io.safetensors")).unwrap();
        let io = io.tensors().unwrap();
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let init = Init::empty(&burn::tensor::Device::flex());
        let tensor = |name: &str| Tensor::<4>::from_data(io[name].clone(), init.device());
        let number = |name: &str| config["conv"][name].as_u64().unwrap() as usize;
        let weight = tensor("weight");
        let [outputs, _, kh, kw] = weight.dims();
        let kind = SiteKind::Conv {
            inputs: tensor("x").dims()[1],
            outputs,
            kernel: [kh, kw],
            stride: [number("stride"); 2],
            padding: [number("padding"); 2],
            groups: number("groups"),
        };
        let mut conv = Conv2d::new(Site::new("conv", 1, kind), true, &init);
        conv.weight = Param::from_tensor(weight);
        conv.bias = Some(Param::from_data(io["bias"].clone(), init.device()));
        let base = conv.forward(tensor("x"), &Hooks::none());
        assert_close(base.clone(), &io, "act.y_base");
        let factors = Factors::Conv(tensor("lora_A"), tensor("lora_B"));
        let path = conv.low_rank(tensor("x"), &factors);
        let lora = |name: &str| config["peft_config"][name].as_f64().unwrap();
        let scale = lora("lora_alpha") / lora("r");
        let y = base + path.unwrap() * scale;
        assert_close(y, &io, "act.y");
    }
}
