//! The linear layer `y = x W^T + b`.

use std::borrow::Cow;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_ops::Gelu;

use crate::channels::like;
use crate::hooks::{Act, Hooks};
use crate::init::Init;
use crate::low_rank::{Factors, SidePath, Weighted};
use crate::random::Distribution;
use crate::run_site::{run_site, split_weight};
use crate::site::{Site, SiteKind};

/// A linear layer at a site.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    site: Site,
}

impl Linear {
    /// A new layer at `site`; weights are drawn as in timm, truncated normal with deviation 0.02.
    ///
    /// # Panics
    /// If the site is not linear, which is a defect of the backbone that declares both.
    pub fn new(site: Site, bias: bool, init: &Init) -> Self {
        let SiteKind::Linear { inputs, outputs } = site.kind else {
            panic!("{}: expected a linear site, got {}", site.name, site.kind)
        };
        let name = |part: &str| format!("{}.{part}", site.name);
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            weight: init.param(&name("weight"), [outputs, inputs], normal),
            bias: bias.then(|| init.param(&name("bias"), [outputs], Distribution::Zeros)),
            site,
        }
    }

    /// The site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// # Shapes
    /// `[.., in] -> [.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, hooks: &Hooks) -> Tensor<D> {
        let (layer, acts) = self.changed(hooks);
        layer.with_acts(acts, x)
    }

    /// Like [`forward`](Self::forward) with a bias that is kept beside the layer: where its slices have
    /// biases of their own.
    ///
    /// # Shapes
    /// `bias [out]`, `[.., in] -> [.., out]`.
    pub fn forward_with_bias<const D: usize>(
        &self,
        x: Tensor<D>,
        bias: Tensor<1>,
        hooks: &Hooks,
    ) -> Tensor<D> {
        let (layer, acts) = self.changed(hooks);
        let layer = Self {
            bias: Some(Param::initialized(self.weight.id, bias)),
            ..layer.into_owned()
        };
        layer.with_acts(acts, x)
    }

    /// The layer with the weight that functions at its site make of its own, and the other acts.
    fn changed<'a>(&self, hooks: &Hooks<'a>) -> (Cow<'_, Self>, Vec<Act<'a>>) {
        let (weight, acts) = split_weight(hooks.at_site(&self.site), || self.weight.val());
        let layer = match weight {
            None => Cow::Borrowed(self),
            Some(weight) => Cow::Owned(Self {
                weight: Param::initialized(self.weight.id, weight),
                ..self.clone()
            }),
        };
        (layer, acts)
    }

    fn with_acts<const D: usize>(&self, acts: Vec<Act>, x: Tensor<D>) -> Tensor<D> {
        let operation = |x| linear(x, self.weight.val(), self.bias.as_ref().map(Param::val));
        let last = [D - 1, D - 1];
        run_site(acts, &self.site, x, last, operation, self)
    }

    /// Returns `residual + forward(x)`, in one pass if nothing acts at the site but on the weight.
    ///
    /// # Shapes
    /// `[.., in]`, `[.., out] -> [.., out]`.
    pub fn forward_onto<const D: usize>(
        &self,
        residual: Tensor<D>,
        x: Tensor<D>,
        hooks: &Hooks,
    ) -> Tensor<D> {
        // An act needs the output on its own, before the sum.
        let (layer, acts) = self.changed(hooks);
        if !acts.is_empty() {
            return residual + layer.with_acts(acts, x);
        }
        let (weight, bias) = layer.like(&x);
        peft_ops::linear_residual(x, weight, bias, residual)
    }

    /// Returns `residual + forward(gelu(x))`, or `forward(gelu(x))` without a residual, in one pass
    /// if nothing acts at the site but on the weight.
    ///
    /// # Shapes
    /// See [`forward_onto`](Self::forward_onto).
    pub fn forward_gelu<const D: usize>(
        &self,
        residual: Option<Tensor<D>>,
        x: Tensor<D>,
        gelu: Gelu,
        hooks: &Hooks,
    ) -> Tensor<D> {
        let (layer, acts) = self.changed(hooks);
        if !acts.is_empty() {
            let y = layer.with_acts(acts, gelu.of(x));
            return match residual {
                Some(residual) => residual + y,
                None => y,
            };
        }
        let (weight, bias) = layer.like(&x);
        peft_ops::linear_gelu(x, gelu, weight, bias, residual)
    }

    /// Returns `residual + last(gelu(forward(x)))`, or without a residual: an MLP of two layers. If nothing acts at
    /// this one and GELU adds a bias where it reads its input, it adds this one's.
    ///
    /// # Shapes
    /// See [`forward_onto`](Self::forward_onto).
    pub fn forward_mlp<const D: usize>(
        &self,
        last: &Self,
        residual: Option<Tensor<D>>,
        x: Tensor<D>,
        gelu: Gelu,
        hooks: &Hooks,
    ) -> Tensor<D> {
        let (layer, acts) = self.changed(hooks);
        if !acts.is_empty() || layer.bias.is_none() || !peft_ops::gelu_adds_bias(&x) {
            return last.forward_gelu(residual, layer.with_acts(acts, x), gelu, hooks);
        }
        let (weight, bias) = layer.like(&x);
        let hidden = peft_ops::linear(x, weight, None);
        let hidden = match bias {
            Some(bias) => peft_ops::gelu_with_bias(hidden, bias, gelu),
            None => gelu.of(hidden),
        };
        match residual {
            Some(residual) => last.forward_onto(residual, hidden, hooks),
            None => last.forward(hidden, hooks),
        }
    }

    /// The layer whose outputs are multiplied by `scale [out]`.
    pub fn scaled(&self, scale: &Tensor<1>) -> Self {
        let weight = self.weight.val();
        let rows = like(scale.clone(), &weight).unsqueeze_dim(1); // [out, 1]
        let bias = self.bias.as_ref().map(|bias| {
            let value = bias.val();
            let scale = like(scale.clone(), &value);
            Param::initialized(bias.id, value * scale)
        });
        Self {
            weight: Param::initialized(self.weight.id, weight * rows),
            bias,
            ..self.clone()
        }
    }

    /// Weight and bias in the type of `x`.
    fn like<const D: usize>(&self, x: &Tensor<D>) -> (Tensor<2>, Option<Tensor<1>>) {
        let bias = self.bias.as_ref().map(|bias| like(bias.val(), x));
        (like(self.weight.val(), x), bias)
    }
}

impl<const D: usize> Weighted<D, D> for Linear {
    fn low_rank(&self, x: Tensor<D>, factors: &Factors) -> Option<Tensor<D>> {
        match factors {
            Factors::Linear(a, b) => Some(linear(linear(x, a.clone(), None), b.clone(), None)),
            Factors::Conv(..) => None,
        }
    }
    fn bare(&self, x: Tensor<D>) -> Tensor<D> {
        linear(x, self.weight.val(), None)
    }
    fn matrix(&self) -> Tensor<2> {
        self.weight.val()
    }
    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }
    fn with_low_rank(&self, x: &Tensor<D>, path: &SidePath) -> Option<Tensor<D>> {
        path.at_once(x.clone(), self.weight.val(), Weighted::<D, D>::bias(self))
    }
}

/// `x W^T + b` for `x [.., in]`, `weight [out, in]`, `bias [out]`, in the type of `x`.
pub(crate) fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let weight = like(weight, &x);
    let bias = bias.map(|bias| like(bias, &x));
    peft_ops::linear(x, weight, bias)
}
