//! Batch normalisation (Ioffe and Szegedy 2015) with buffers of our own.
//!
//! Burn keeps the biased running variance, PyTorch the unbiased one, and every checkpoint holds
//! that of PyTorch. A forward pass changes nothing: it returns new running statistics through the
//! step.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_ops::{FixedNorm, add_relu, batch_norm, batch_norm_train, relu};

use crate::channels::like;
use crate::hooks::{Act, Hooks};
use crate::init::Init;
use crate::low_rank::Unweighted;
use crate::named::Buffer;
use crate::random::Distribution;
use crate::run_site::{affine, run_site};
use crate::site::{Site, SiteKind};

/// `gamma (x - mean) / sqrt(var + eps) + beta` over the channels of a map.
///
/// It uses the running statistics, except while training if its own parameters train and the method
/// asks for batch statistics. Then it normalises with the batch's, and updates the running ones with
/// momentum 0.1 and the unbiased variance.
#[derive(Module, Debug)]
pub struct BatchNorm2d {
    /// `gamma [c]`.
    pub weight: Param<Tensor<1>>,
    /// `beta [c]`.
    pub bias: Param<Tensor<1>>,
    /// Running mean `[c]`.
    pub running_mean: Buffer<1>,
    /// Running unbiased variance `[c]`.
    pub running_var: Buffer<1>,
    #[module(skip)]
    site: Site,
}

/// PyTorch's default, added to the variance.
const EPSILON: f64 = 1e-5;
/// PyTorch's default: the weight of the batch in the running statistics.
const MOMENTUM: f64 = 0.1;

impl BatchNorm2d {
    /// A new layer at `site`, initially the identity.
    ///
    /// # Panics
    /// If the site is not a norm.
    pub fn new(site: Site, init: &Init) -> Self {
        let SiteKind::Norm { channels } = site.kind else {
            panic!("{}: expected a norm, got {}", site.name, site.kind)
        };
        let name = |part: &str| format!("{}.{part}", site.name);
        let shape = [channels];
        Self {
            weight: init.param(&name("weight"), shape, Distribution::Ones),
            bias: init.param(&name("bias"), shape, Distribution::Zeros),
            running_mean: Buffer::new(Tensor::zeros(shape, init.device())),
            running_var: Buffer::new(Tensor::ones(shape, init.device())),
            site,
        }
    }

    /// The site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// # Shapes
    /// `[b, c, h, w] -> [b, c, h, w]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        self.forward_then(x, hooks, Then::default())
    }

    /// Applies the layer and the operations after it (`then`), as one operation if only factors and
    /// offsets act on the layer.
    ///
    /// # Shapes
    /// `[b, c, h, w] -> [b, c, h, w]`.
    pub fn forward_then(&self, x: Tensor<4>, hooks: &Hooks, then: Then) -> Tensor<4> {
        self.with_acts(hooks.at_site(&self.site), x, hooks, then)
    }

    /// [`forward_then`](Self::forward_then) with the acts at the site already looked up.
    pub(crate) fn with_acts(
        &self,
        acts: Vec<Act>,
        x: Tensor<4>,
        hooks: &Hooks,
        then: Then,
    ) -> Tensor<4> {
        if let Some(affine) = affine(&acts, self.affine(&x)) {
            return self.normalise(x, affine, hooks, then);
        }
        let operation = |x: Tensor<4>| {
            let affine = self.affine(&x);
            self.normalise(x, affine, hooks, Then::default())
        };
        let y = run_site(acts, &self.site, x, [1, 1], operation, &Unweighted);
        then.apply(y)
    }

    /// Whether gamma or beta trains.
    pub(crate) fn trains(&self) -> bool {
        self.weight.is_require_grad() || self.bias.is_require_grad()
    }

    /// Whether it normalises with the statistics of the batch.
    pub(crate) fn follows_batch(&self, hooks: &Hooks) -> bool {
        hooks.batch_statistics() && self.trains()
    }

    /// Gamma and beta in the element type of `x`.
    pub(crate) fn affine(&self, x: &Tensor<4>) -> [Tensor<1>; 2] {
        [&self.weight, &self.bias].map(|param| like(param.val(), x))
    }

    /// The layer with its running statistics, in the element type of `x`.
    pub(crate) fn fixed(&self, x: &Tensor<4>, [gamma, beta]: [Tensor<1>; 2]) -> FixedNorm {
        FixedNorm {
            gamma,
            beta,
            mean: like(self.running_mean.val(), x),
            variance: like(self.running_var.val(), x),
            epsilon: EPSILON,
        }
    }

    fn normalise(
        &self,
        x: Tensor<4>,
        affine: [Tensor<1>; 2],
        hooks: &Hooks,
        then: Then,
    ) -> Tensor<4> {
        if !self.follows_batch(hooks) {
            let norm = self.fixed(&x, affine);
            return batch_norm(x, norm, then.residual, then.relu);
        }
        let [b, _, h, w] = x.dims();
        let count = (b * h * w) as f64;
        let batch = batch_norm_train(x, affine, EPSILON, then.residual, then.relu);
        // A batch with a single value per channel has no unbiased variance; the biased one, which
        // is 0, is used instead.
        let unbiased = batch.variance * (count / (count - 1.0).max(1.0));
        let name = |part: &str| format!("{}.{part}", self.site.name);
        let blend = |running: &Buffer<1>, batch: Tensor<1>| {
            // Statistics are constants: a gradient through them would keep the graph of every step.
            let running = running.val().without_autodiff();
            let batch = like(batch.without_autodiff(), &running);
            running * (1.0 - MOMENTUM) + batch * MOMENTUM
        };
        hooks.update(name("running_mean"), blend(&self.running_mean, batch.mean));
        hooks.update(name("running_var"), blend(&self.running_var, unbiased));
        batch.output
    }
}

/// The operations that follow a norm in a residual network.
#[derive(Clone, Debug, Default)]
pub struct Then {
    /// A map `[b, c, h, w]` to add.
    pub residual: Option<Tensor<4>>,
    /// Whether a ReLU comes last.
    pub relu: bool,
}

impl Then {
    /// Only a ReLU.
    pub fn relu() -> Self {
        Self {
            residual: None,
            relu: true,
        }
    }

    /// Applies the operations to `x`.
    ///
    /// # Shapes
    /// `[b, c, h, w] -> [b, c, h, w]`.
    pub fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match (self.residual, self.relu) {
            (None, false) => x,
            (None, true) => relu(x),
            (Some(residual), false) => x + residual,
            (Some(residual), true) => add_relu(x, residual),
        }
    }
}
