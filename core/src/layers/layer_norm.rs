//! Layer normalisation (Ba, Kiros and Hinton 2016).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::backbone::Init;
use crate::hooks::{Hooks, like, run_site};
use crate::low_rank::Unweighted;
use crate::random::Distribution;
use crate::site::{Site, SiteKind};

/// `gamma (x - mean) / sqrt(var + eps) + beta` over the last axis.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `gamma [d]`.
    pub weight: Param<Tensor<1>>,
    /// `beta [d]`.
    pub bias: Param<Tensor<1>>,
    epsilon: f64,
    #[module(skip)]
    site: Site,
}

impl LayerNorm {
    /// The layer at `site`, gamma one and beta zero.
    ///
    /// # Panics
    /// If the site is not a norm.
    pub fn new(site: Site, epsilon: f64, init: &Init) -> Self {
        let SiteKind::Norm { channels } = site.kind else {
            panic!("{}: expected a norm, got {}", site.name, site.kind)
        };
        let name = |part: &str| format!("{}.{part}", site.name);
        Self {
            weight: init.param(&name("weight"), [channels], Distribution::Ones),
            bias: init.param(&name("bias"), [channels], Distribution::Zeros),
            epsilon,
            site,
        }
    }

    /// Adds another epsilon to variances from now on.
    pub fn set_epsilon(&mut self, epsilon: f64) {
        self.epsilon = epsilon;
    }

    /// The site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// # Shapes
    /// `[.., d] -> [.., d]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, hooks: &Hooks) -> Tensor<D> {
        let operation = |x: Tensor<D>| {
            let (weight, bias) = (like(self.weight.val(), &x), like(self.bias.val(), &x));
            burn::tensor::module::layer_norm(x, weight, Some(bias), self.epsilon)
        };
        let last = [D - 1, D - 1];
        run_site(hooks, &self.site, x, last, operation, &Unweighted)
    }
}
