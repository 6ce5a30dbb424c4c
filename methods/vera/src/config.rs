//! The configuration of VeRA, and the frozen pair.

use burn::tensor::TensorData;
use peft_core::backbone::Backbone;
use peft_core::check;
use peft_core::error::Result;
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::site::Targets;
use peft_core::torch_random::TorchGenerator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scale the rows and columns of a frozen random product that is added to weights.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vera {
    /// Rank `r` of the frozen pair, at least 1. Default 256.
    pub rank: usize,
    /// The initial value of `d`, any finite number. Default 0.1.
    pub d_initial: f64,
    /// The seed of the frozen pair, HF PEFT's `projection_prng_key`. Default 0.
    pub seed: u64,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Vera {
    fn default() -> Self {
        Self {
            rank: 256,
            d_initial: 0.1,
            seed: 0,
            targets: None,
        }
    }
}

impl Vera {
    pub(crate) fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        check::at_least_one("rank", self.rank)?;
        check::finite("d_initial", self.d_initial)?;
        layer_sites("vera", self.targets.as_ref(), backbone.spec())
    }

    /// `A [r, in]` and `B [out, r]` for the largest of these sites.
    pub(crate) fn pair(&self, sites: &[LayerSite]) -> [TensorData; 2] {
        let largest = |size: fn(&LayerSite) -> usize| sites.iter().map(size).max().unwrap_or(0);
        let (rows, columns) = (largest(|site| site.rows), largest(|site| site.columns));
        let mut generator = TorchGenerator::new(self.seed);
        [[self.rank, columns], [rows, self.rank]].map(|shape| {
            // Kaiming's bound, computed in f64 as PyTorch does.
            let bound = 3.0f64.sqrt() * (2.0f64.sqrt() / (shape[1] as f64).sqrt());
            let values = generator.uniform(shape[0] * shape[1], bound as f32);
            TensorData::new(values, shape)
        })
    }
}
