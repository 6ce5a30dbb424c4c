//! Layer normalisation (Ba, Kiros and Hinton 2016).

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::channels::like;
use crate::hooks::Hooks;
use crate::init::Init;
use crate::low_rank::{Factors, Weighted};
use crate::random::Distribution;
use crate::run_site::run_site;
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
    /// A new layer at `site` with gamma one and beta zero.
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

    /// Changes the epsilon that is added to variances.
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
        let operation = |x| self.with(x, self.weight.val(), self.bias.val());
        run_site(
            hooks.at_site(&self.site),
            &self.site,
            x,
            [D - 1, D - 1],
            operation,
            self,
        )
    }

    fn with<const D: usize>(&self, x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>) -> Tensor<D> {
        let (gamma, beta) = (like(gamma, &x), like(beta, &x));
        peft_ops::layer_norm(x, gamma, beta, self.epsilon)
    }
}

impl<const D: usize> Weighted<D, D> for LayerNorm {
    fn low_rank(&self, _: Tensor<D>, _: &Factors) -> Option<Tensor<D>> {
        None
    }
    fn bare(&self, x: Tensor<D>) -> Tensor<D> {
        x
    }
    fn matrix(&self) -> Tensor<2> {
        // Only low-rank paths read the matrix, and `low_rank` above refuses them.
        unreachable!("a norm takes no low-rank path")
    }
    fn bias(&self) -> Option<Tensor<1>> {
        None
    }
    /// `s (gamma n + beta) + t` is again a norm, with `s gamma` and `s beta + t`.
    fn with_scale_shift(
        &self,
        x: &Tensor<D>,
        scale: &Option<Tensor<1>>,
        shift: &Option<Tensor<1>>,
    ) -> Option<Tensor<D>> {
        let [mut gamma, mut beta] = [&self.weight, &self.bias].map(|param| like(param.val(), x));
        if let Some(scale) = scale {
            let scale = like(scale.clone(), x);
            (gamma, beta) = (gamma * scale.clone(), beta * scale);
        }
        if let Some(shift) = shift {
            beta = beta + like(shift.clone(), x);
        }
        Some(self.with(x.clone(), gamma, beta))
    }
}
