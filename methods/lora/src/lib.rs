//! LoRA: a trained low-rank product beside frozen weights.
//!
//! Reference: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2022, Eq. 3; sites
//! and names as in HF PEFT.
//!
//! `y = W x + (alpha / r) B A dropout(x)`, `A [r, in]` kaiming-uniform with `a = sqrt 5`, `B [out,
//! r]` zero, so that an adapted model starts as the backbone. On a convolution `A` takes the
//! site's kernel, stride and padding and `B` is 1x1. Parameters: `r (in + out)` per linear site,
//! `r (in kh kw + out)` per convolution, with the slice's rows for `query`, `key` and `value`.
//!
//! Departure: `query`, `key` and `value` adapt those rows of a fused projection, which HF PEFT can
//! only do on models whose projections are separate.

#![allow(non_snake_case, reason = "HF PEFT's names of the factors")]

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::error::{Error, Result};
use peft_core::hooks::{Factors, LowRank, SiteAct};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Picked, Site, SiteKind, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Low-rank side paths at linear layers and convolutions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank `r` of the product, at least 1. Default 8.
    pub rank: usize,
    /// Scale: the side path is multiplied by `alpha / rank`. Default: `rank`, a factor of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Probability in `[0, 1)` of dropping an entry of the side path's input while training.
    pub dropout: f64,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`,
    /// `key` and `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else every
    /// convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            dropout: 0.0,
            targets: None,
        }
    }
}

impl Lora {
    fn scale(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64) / self.rank as f64
    }

    fn check(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::config("rank", "expected at least 1, got 0"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let message = format!("expected at least 0 and less than 1, got {}", self.dropout);
            return Err(Error::config("dropout", message));
        }
        if self.alpha.is_some_and(|alpha| !alpha.is_finite()) {
            return Err(Error::config("alpha", "expected a finite number"));
        }
        Ok(())
    }

    /// The sites, all of which can carry a low-rank path.
    fn picked<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<Picked<'a>>> {
        self.check()?;
        let spec = backbone.spec();
        let Some(targets) = &self.targets else {
            let qkv = Targets::Suffixes(vec!["qkv".to_owned()]);
            let convolutions = || {
                let is_conv = |site: &&Site| matches!(site.kind, SiteKind::Conv { .. });
                let sites = spec.sites.iter().filter(is_conv);
                sites.map(|site| Picked { site, slice: None }).collect()
            };
            return Ok(qkv
                .pick(&spec.sites, &spec.name)
                .unwrap_or_else(|_| convolutions()));
        };
        // Norms and branches share names with what they contain: only layers with weights count.
        let layers = |site: &&Picked| {
            matches!(
                site.site.kind,
                SiteKind::Linear { .. } | SiteKind::Conv { .. }
            )
        };
        let picked = targets.pick(&spec.sites, &spec.name)?;
        let count = picked.len();
        let layers: Vec<_> = picked.iter().filter(layers).cloned().collect();
        if layers.len() < count {
            let other = picked.iter().find(|site| !layers.contains(site));
            return Err(Error::Unfit {
                method: "lora".to_owned(),
                backbone: spec.name.clone(),
                reason: format!(
                    "{} is a {}; expected a linear layer or a convolution",
                    other.map_or("a target", |site| site.name()),
                    other.map_or("norm".to_owned(), |site| site.site.kind.to_string())
                ),
            });
        }
        Ok(layers)
    }
}

/// Shapes of `A` and `B` at a picked site: `r` times fan-in, and rows.
fn sizes(picked: &Picked) -> (usize, usize) {
    let (fan_in, outputs) = match picked.site.kind {
        SiteKind::Linear { inputs, outputs } => (inputs, outputs),
        SiteKind::Conv {
            inputs,
            outputs,
            kernel: [kh, kw],
            groups,
            ..
        } => (inputs / groups * kh * kw, outputs),
        _ => (0, 0),
    };
    (
        fan_in,
        picked.slice.map_or(outputs, |slice| slice.rows.len()),
    )
}

#[typetag::serde(name = "lora")]
impl AdaptationMethod for Lora {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let picked = self.picked(backbone)?;
        if let Some(grouped) = picked
            .iter()
            .find(|p| matches!(p.site.kind, SiteKind::Conv { groups, .. } if groups > 1))
        {
            return Err(Error::Unfit {
                method: "lora".to_owned(),
                backbone: backbone.spec().name.clone(),
                reason: format!("{} is a {}", grouped.name(), grouped.site.kind),
            });
        }
        let factors = picked.iter().map(|picked| {
            let factors = SiteFactors::new(picked, self.rank, init);
            (picked.name().to_owned(), factors)
        });
        Ok(Attachment::adapter(LoraAdapter {
            factors: factors.collect(),
            scale: self.scale(),
            dropout: self.dropout,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let picked = self.picked(backbone)?;
        let site = |picked| {
            let (fan_in, rows) = sizes(picked);
            self.rank * (fan_in + rows)
        };
        Ok(picked.iter().map(site).sum())
    }
}

/// The factors of a [`Lora`].
#[derive(Module, Debug)]
pub struct LoraAdapter {
    factors: BySite<SiteFactors>,
    scale: f64,
    dropout: f64,
}

impl Adapter for LoraAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let whole = std::iter::once((&site.name, None));
        let slices = site.slices.iter().map(|s| (&s.name, Some(s.rows.clone())));
        whole
            .chain(slices)
            .filter_map(|(name, out_range)| {
                let factors = self.factors.get(name.as_str())?.factors();
                Some(SiteAct::LowRank(LowRank {
                    factors,
                    scale: self.scale,
                    dropout: self.dropout,
                    out_range,
                }))
            })
            .collect()
    }
}

/// `A` and `B` at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct SiteFactors {
    lora_A: Factor,
    lora_B: Factor,
}

/// A matrix, or a convolution's kernel.
#[derive(Module, Debug)]
struct Factor {
    weight: Weight,
}

#[derive(Module, Debug)]
enum Weight {
    Matrix(Param<Tensor<2>>),
    Kernel(Param<Tensor<4>>),
}

impl SiteFactors {
    fn new(picked: &Picked, rank: usize, init: &Init) -> Self {
        let name = |part: &str| format!("{}.{part}.weight", picked.name());
        let (fan_in, rows) = sizes(picked);
        let (a, b) = (Distribution::kaiming(fan_in), Distribution::Zeros);
        let factor = |weight| Factor { weight };
        let [lora_a, lora_b] = match picked.site.kind {
            SiteKind::Conv {
                inputs,
                kernel: [kh, kw],
                groups,
                ..
            } => [
                Weight::Kernel(init.param(&name("lora_A"), [rank, inputs / groups, kh, kw], a)),
                Weight::Kernel(init.param(&name("lora_B"), [rows, rank, 1, 1], b)),
            ],
            _ => [
                Weight::Matrix(init.param(&name("lora_A"), [rank, fan_in], a)),
                Weight::Matrix(init.param(&name("lora_B"), [rows, rank], b)),
            ],
        };
        Self {
            lora_A: factor(lora_a),
            lora_B: factor(lora_b),
        }
    }

    fn factors(&self) -> Factors {
        match (&self.lora_A.weight, &self.lora_B.weight) {
            (Weight::Matrix(a), Weight::Matrix(b)) => Factors::Linear(a.val(), b.val()),
            (Weight::Kernel(a), Weight::Kernel(b)) => Factors::Conv(a.val(), b.val()),
            _ => unreachable!("both are made together"),
        }
    }
}

peft_core::register!(
    Method, Lora,
    name: "lora",
    summary: "low-rank side paths beside frozen linear layers and convolutions",
    reference: "LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2022",
    example: "name: lora\nrank: 10\nalpha: 10\ndropout: 0.0\n",
);

#[cfg(test)]
mod tests;
