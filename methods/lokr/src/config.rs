//! The configuration of LoKr, and the sizes of the factors.

use peft_core::backbone::Backbone;
use peft_core::check;
use peft_core::error::Result;
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::site::Targets;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Add a Kronecker product to weights.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lokr {
    /// Rank `r` of the factors that are products, at least 1. Default 8.
    pub rank: usize,
    /// Scale: the change is multiplied by `alpha / rank`. Default: the rank, which gives a factor of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Whether the first factor can be a product of rank `r`, too. Default false.
    pub decompose_both: bool,
    /// The size of the first factor's sides, at least 1, where it divides those of the weight. Default:
    /// the divisor nearest to the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decompose_factor: Option<usize>,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Lokr {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            decompose_both: false,
            decompose_factor: None,
            targets: None,
        }
    }
}

/// HF PEFT's names of a factor: where it is held whole, and where it is a product.
pub(crate) const FIRST: [&str; 3] = ["lokr_w1", "lokr_w1_a", "lokr_w1_b"];
pub(crate) const SECOND: [&str; 3] = ["lokr_w2", "lokr_w2_a", "lokr_w2_b"];

/// The initial values of a factor.
#[derive(Clone, Copy)]
pub(crate) enum Start {
    Zero,
    Drawn,
}

impl Lokr {
    pub(crate) fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        check::at_least_one("rank", self.rank)?;
        check::finite("alpha", self.alpha())?;
        if let Some(factor) = self.decompose_factor {
            check::at_least_one("decompose_factor", factor)?;
        }
        layer_sites("lokr", self.targets.as_ref(), backbone.spec())
    }

    pub(crate) fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// The names, shapes and initial values of the parameters at a site.
    pub(crate) fn parts(&self, site: &LayerSite) -> Vec<(&'static str, [usize; 2], Start)> {
        let [l, k] = split(site.rows, self.decompose_factor);
        let [m, n] = split(site.columns / site.taps, self.decompose_factor);
        let rank = self.rank;
        let saves = |sides: [usize; 2]| 2 * rank < sides[0].max(sides[1]);
        let factor = |names: [&'static str; 3], sides: [usize; 2], product, start| {
            let [rows, columns] = sides;
            let [whole, a, b] = names;
            if product {
                vec![(a, [rows, rank], start), (b, [rank, columns], Start::Drawn)]
            } else {
                vec![(whole, [rows, columns], start)]
            }
        };
        let product = self.decompose_both && saves([l, m]);
        let mut parts = factor(FIRST, [l, m], product, Start::Zero);
        parts.extend(factor(
            SECOND,
            [k, n * site.taps],
            saves([k, n]),
            Start::Drawn,
        ));
        parts
    }
}

/// Splits a size into two factors: at `factor` if it divides the size, else as near to the root as the
/// divisors up to `factor` allow.
pub(crate) fn split(size: usize, factor: Option<usize>) -> [usize; 2] {
    if let Some(factor) = factor.filter(|factor| size.is_multiple_of(*factor)) {
        return [factor, size / factor];
    }
    let limit = factor.unwrap_or(size).min(size.isqrt());
    let divisor = (1..=limit)
        .rev()
        .find(|divisor| size.is_multiple_of(*divisor));
    let divisor = divisor.unwrap_or(1);
    [divisor, size / divisor]
}
