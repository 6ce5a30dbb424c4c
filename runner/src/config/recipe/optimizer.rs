//! The optimiser of a recipe.

use burn::optim::ModuleOptimizer;
use peft_ops::{AdamOptions, SgdOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::recipe::range::{share, within};

/// The optimiser. What its weight decay applies to is `decays`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Optimizer {
    /// Adam (Kingma and Ba 2015), weight decay added to the gradient.
    Adam {
        /// The largest learning rate, more than 0.
        lr: f64,
        /// The factor with which the weights are added to the gradient, at least 0.
        #[serde(default)]
        weight_decay: f64,
        /// The decay of the first and of the second moment, each in `[0, 1)`.
        #[serde(default = "betas")]
        betas: [f32; 2],
        /// The number that is added to the denominator, more than 0.
        #[serde(default = "eps")]
        eps: f32,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019).
    AdamW {
        /// The largest learning rate, more than 0.
        lr: f64,
        /// The share of the weights, times the learning rate, that each step subtracts, at least 0.
        #[serde(default)]
        weight_decay: f64,
        /// The decay of the first and of the second moment, each in `[0, 1)`.
        #[serde(default = "betas")]
        betas: [f32; 2],
        /// The number that is added to the denominator, more than 0.
        #[serde(default = "eps")]
        eps: f32,
    },
    /// Stochastic gradient descent with momentum.
    Sgd {
        /// The largest learning rate, more than 0.
        lr: f64,
        /// The factor with which the weights are added to the gradient, at least 0.
        #[serde(default)]
        weight_decay: f64,
        /// The share of the last step that is added to the next one, in `[0, 1)`.
        #[serde(default = "momentum")]
        momentum: f64,
        /// Whether the momentum is Nesterov's.
        #[serde(default)]
        nesterov: bool,
    },
}

fn betas() -> [f32; 2] {
    [0.9, 0.999]
}
fn eps() -> f32 {
    1e-8
}
fn momentum() -> f64 {
    0.9
}

impl Optimizer {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    /// The dotted path of a field outside its range, and the range.
    pub(super) fn check(&self) -> Result<(), String> {
        let (Self::Adam {
            lr, weight_decay, ..
        }
        | Self::AdamW {
            lr, weight_decay, ..
        }
        | Self::Sgd {
            lr, weight_decay, ..
        }) = self;
        let ok = *lr > 0.0 && lr.is_finite();
        within("optimizer.lr", ok, "a finite number more than 0", *lr)?;
        let ok = *weight_decay >= 0.0 && weight_decay.is_finite();
        within("optimizer.weight_decay", ok, "at least 0", *weight_decay)?;
        match self {
            Self::Adam { betas, eps, .. } | Self::AdamW { betas, eps, .. } => {
                for beta in betas {
                    share("optimizer.betas", f64::from(*beta))?;
                }
                within("optimizer.eps", *eps > 0.0, "more than 0", f64::from(*eps))
            }
            Self::Sgd { momentum, .. } => share("optimizer.momentum", *momentum),
        }
    }

    /// The largest learning rate.
    pub fn lr(&self) -> f64 {
        let (Self::Adam { lr, .. } | Self::AdamW { lr, .. } | Self::Sgd { lr, .. }) = self;
        *lr
    }

    /// The factor of weight decay.
    pub fn weight_decay(&self) -> f64 {
        let (Self::Adam { weight_decay, .. }
        | Self::AdamW { weight_decay, .. }
        | Self::Sgd { weight_decay, .. }) = self;
        *weight_decay
    }

    /// Returns the optimiser without its weight decay.
    pub fn without_decay(&self) -> Self {
        let mut plain = self.clone();
        let (Self::Adam { weight_decay, .. }
        | Self::AdamW { weight_decay, .. }
        | Self::Sgd { weight_decay, .. }) = &mut plain;
        *weight_decay = 0.0;
        plain
    }

    /// Burn's optimiser, without clipping: the training loop clips the norm of all gradients together.
    pub fn init(&self) -> ModuleOptimizer {
        match *self {
            Self::Adam {
                weight_decay,
                betas,
                eps,
                ..
            } => peft_ops::adam(adam_options(betas, eps, weight_decay)),
            Self::AdamW {
                weight_decay,
                betas,
                eps,
                ..
            } => peft_ops::adam_w(adam_options(betas, eps, weight_decay)),
            Self::Sgd {
                weight_decay,
                momentum,
                nesterov,
                ..
            } => {
                let options = SgdOptions {
                    momentum,
                    nesterov,
                    weight_decay: weight_decay as f32,
                };
                peft_ops::sgd(options)
            }
        }
    }
}

fn adam_options(betas: [f32; 2], epsilon: f32, weight_decay: f64) -> AdamOptions {
    AdamOptions {
        betas,
        epsilon,
        weight_decay: weight_decay as f32,
    }
}

/// The parameters to which weight decay applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decays {
    /// Everything that trains.
    #[default]
    Everything,
    /// What has at least two axes and is no bias, as in timm's `param_groups_weight_decay`; position embeddings,
    /// class and register tokens and what holds relative positions in Swin are spared too.
    Matrices,
}

impl Decays {
    /// Whether it has its default, which is not written.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
