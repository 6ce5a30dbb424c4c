//! LoKr: the change of a weight is a Kronecker product of two small factors.
//!
//! References: "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
//! Yeh et al., 2024, Sec. 3; "KronA: Parameter Efficient Tuning with Kronecker Adapter", Edalati et al.,
//! 2022. Sites, names, sizes and initial values as in HF PEFT.
//!
//! `W' = W + (alpha / r) W1 (x) W2` with `W1 [l, m]` and `W2 [k, n]`, where `out = l k` and `in = m n` are
//! split near their roots, or at `decompose_factor`. `W2` is a product of rank `r` where `r` is below half
//! of its longer side, and so is `W1` with `decompose_both`. `W1`, or its first factor, starts at zero, and
//! the others kaiming-uniform with `a = sqrt 5`: an adapted model starts as the backbone. `W2` holds the
//! taps of a convolution's kernel. Parameters: `l m + r (k + n)` per site, or `k n` and `r (l + m)`.
//!
//! Departures: `query`, `key` and `value` adapt those rows of a fused projection. There is no dropout of
//! rows or of whole sites and no factorised kernel (`use_effective_conv2d`).

mod hf_peft;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::error::Result;
use peft_core::hooks::SiteAct;
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::{BySite, Named};
use peft_core::random::Distribution;
use peft_core::site::{Site, Targets};
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
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else every convolution.
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
const FIRST: [&str; 3] = ["lokr_w1", "lokr_w1_a", "lokr_w1_b"];
const SECOND: [&str; 3] = ["lokr_w2", "lokr_w2_a", "lokr_w2_b"];

/// The initial values of a factor.
#[derive(Clone, Copy)]
enum Start {
    Zero,
    Drawn,
}

impl Lokr {
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        check::at_least_one("rank", self.rank)?;
        check::finite("alpha", self.alpha())?;
        if let Some(factor) = self.decompose_factor {
            check::at_least_one("decompose_factor", factor)?;
        }
        layer_sites("lokr", self.targets.as_ref(), backbone.spec())
    }

    fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// The names, shapes and initial values of the parameters at a site.
    fn parts(&self, site: &LayerSite) -> Vec<(&'static str, [usize; 2], Start)> {
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
fn split(size: usize, factor: Option<usize>) -> [usize; 2] {
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

#[typetag::serde(name = "lokr")]
impl AdaptationMethod for Lokr {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let factors = self.sites(backbone)?.into_iter().map(|site| {
            let param = |(part, shape, starts): (&str, [usize; 2], Start)| {
                let values = match starts {
                    Start::Zero => Distribution::Zeros,
                    Start::Drawn => Distribution::kaiming(shape[1]),
                };
                let name = format!("{}.{part}", site.name());
                (part.to_owned(), init.param(&name, shape, values))
            };
            let factors = Factors {
                parts: self.parts(&site).into_iter().map(param).collect(),
                scale: self.alpha() / self.rank as f64,
            };
            (site.name().to_owned(), factors)
        });
        Ok(Attachment::adapter(LokrAdapter {
            factors: factors.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        let parts = sites.iter().flat_map(|site| self.parts(site));
        Ok(parts.map(|(_, [rows, columns], _)| rows * columns).sum())
    }
}

/// The factors of a [`Lokr`].
#[derive(Module, Debug)]
pub struct LokrAdapter {
    factors: BySite<Factors>,
}

impl Adapter for LokrAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.factors, site, Factors::changed)
    }
}

/// The factors at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct Factors {
    parts: Named<String, Param<Tensor<2>>>,
    scale: f64,
}

impl Factors {
    /// # Shapes
    /// `[l k, m n] -> [l k, m n]`.
    fn changed(&self, weight: Tensor<2>) -> Tensor<2> {
        let (w1, w2) = (self.factor(FIRST), self.factor(SECOND));
        let ([l, m], [k, n]) = (w1.dims(), w2.dims());
        let product = w1.reshape([l, 1, m, 1]) * w2.reshape([1, k, 1, n]); // [l, k, m, n]
        weight + product.reshape([l * k, m * n]) * self.scale
    }

    /// A factor that is held whole, or the product of its own two.
    fn factor(&self, [whole, a, b]: [&str; 3]) -> Tensor<2> {
        let part = |name: &str| self.parts.get(name).map(Param::val);
        match (part(whole), part(a), part(b)) {
            (Some(whole), ..) => whole,
            (None, Some(a), Some(b)) => a.matmul(b),
            _ => unreachable!("a factor is held whole or as two"),
        }
    }
}

peft_core::register!(
    Method, Lokr,
    name: "lokr",
    summary: "a Kronecker product of two small factors, added to frozen weights",
    reference: "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation, Yeh et al., 2024",
    example: "name: lokr\nrank: 8\ndecompose_both: false\n",
    hf_peft: { peft_type: "LOKR", read: hf_peft::read, write: hf_peft::write },
);

#[cfg(test)]
mod tests;
