//! LoRA: a trained low-rank product beside frozen weights; and its weight-decomposed form, DoRA.
//!
//! References: "LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2022, Eq. 3; "DoRA:
//! Weight-Decomposed Low-Rank Adaptation", Liu et al., 2024, Eq. 5; "A Rank Stabilization Scaling
//! Factor for Fine-Tuning with LoRA", Kalajdzievski, 2023. Sites, names and patterns as in HF PEFT.
//!
//! `y = W x + (alpha / r) B A dropout(x)`, `A [r, in]` kaiming-uniform with `a = sqrt 5`, `B [out,
//! r]` zero, so that an adapted model starts as the backbone; rsLoRA scales by `alpha / sqrt r`.
//! DoRA trains the norm of every row of the sum apart: `y = m / ||W + s B A|| (W + s B A) x`, `m`
//! starting at `||W||`, the norm in the denominator a constant. On a convolution `A` takes the
//! site's kernel, stride and padding and reads all channels, `B` is 1x1 in the site's groups.
//! Parameters: `r (in + out)` per linear site, `r in kh kw + out r / groups` per convolution, with
//! the slice's rows for `query`, `key` and `value`; DoRA adds the rows.
//!
//! Departure: `query`, `key` and `value` adapt those rows of a fused projection, which HF PEFT can
//! only do on models whose projections are separate. A pattern that matches nothing is an error
//! here and silence there.

#![allow(non_snake_case, reason = "HF PEFT's names of the factors")]

mod hf_peft;

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::error::{Error, Result};
use peft_core::hooks::SiteAct;
use peft_core::low_rank::{Factors, LowRank};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::params;
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
    /// Scale: the side path is multiplied by `alpha / rank`. Default: the site's rank, a factor of
    /// 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Probability in `[0, 1)` of dropping an entry of the side path's input while training.
    pub dropout: f64,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`,
    /// `key` and `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else every
    /// convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// Ranks of some sites, by regular expression over the end of the name at a dot.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of some sites, likewise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Multiply by `alpha / sqrt(rank)` (rsLoRA). Default false.
    pub rslora: bool,
    /// Train the norm of each row apart (DoRA). Default false.
    pub dora: bool,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            dropout: 0.0,
            targets: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rslora: false,
            dora: false,
        }
    }
}

/// A site that is adapted, with what its patterns say.
struct Place<'a> {
    picked: Picked<'a>,
    rank: usize,
    alpha: f64,
    scale: f64,
}

impl Lora {
    fn check(&self) -> Result<()> {
        check::at_least_one("rank", self.rank)?;
        for (pattern, rank) in &self.rank_pattern {
            check::at_least_one(format!("rank_pattern.{pattern}"), *rank)?;
        }
        check::dropout("dropout", self.dropout)?;
        for (pattern, alpha) in &self.alpha_pattern {
            check::finite(format!("alpha_pattern.{pattern}"), *alpha)?;
        }
        match self.alpha {
            Some(alpha) => check::finite("alpha", alpha),
            None => Ok(()),
        }
    }

    /// The sites, all of which can carry a low-rank path.
    fn picked<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<Picked<'a>>> {
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
        let picked = targets.pick(&spec.sites, &spec.name)?;
        let is_layer = |picked: &&Picked| {
            let kind = picked.site.kind;
            matches!(kind, SiteKind::Linear { .. } | SiteKind::Conv { .. })
        };
        match picked.iter().find(|picked| !is_layer(picked)) {
            None => Ok(picked),
            Some(other) => Err(unfit(
                backbone,
                other,
                "expected a linear layer or a convolution",
            )),
        }
    }

    fn places<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<Place<'a>>> {
        self.check()?;
        let picked = self.picked(backbone)?;
        let names: Vec<&str> = picked.iter().map(Picked::name).collect();
        let ranks = matches("rank_pattern", &self.rank_pattern, &names)?;
        let alphas = matches("alpha_pattern", &self.alpha_pattern, &names)?;
        picked
            .iter()
            .map(|picked| {
                let rank = *ranks.get(picked.name()).unwrap_or(&&self.rank);
                let alpha = alphas.get(picked.name()).copied().copied().or(self.alpha);
                let divisor = match self.rslora {
                    true => (*rank as f64).sqrt(),
                    false => *rank as f64,
                };
                if let SiteKind::Conv { groups, .. } = picked.site.kind
                    && groups > 1
                {
                    if self.dora {
                        let reason = "DoRA needs a convolution without groups";
                        return Err(unfit(backbone, picked, reason));
                    }
                    if rank % groups != 0 {
                        let message = format!(
                            "expected a multiple of the {groups} groups of {}, got {rank}",
                            picked.name()
                        );
                        return Err(Error::config("rank", message));
                    }
                }
                let alpha = alpha.unwrap_or(*rank as f64);
                Ok(Place {
                    picked: picked.clone(),
                    rank: *rank,
                    alpha,
                    scale: alpha / divisor,
                })
            })
            .collect()
    }
}

fn unfit(backbone: &dyn Backbone, picked: &Picked, expected: &str) -> Error {
    Error::Unfit {
        method: "lora".to_owned(),
        backbone: backbone.spec().name.clone(),
        reason: format!("{} is a {}; {expected}", picked.name(), picked.site.kind),
    }
}

/// The value that a pattern gives to each of `names`, as HF PEFT matches them: `(.*\.)?(pattern)$`.
fn matches<'a, 'n, T: PartialEq>(
    field: &str,
    patterns: &'a BTreeMap<String, T>,
    names: &[&'n str],
) -> Result<BTreeMap<&'n str, &'a T>> {
    let mut found = BTreeMap::new();
    for (pattern, value) in patterns {
        let targets = Targets::Regex(format!("(.*\\.)?({pattern})"));
        let matched = targets.matching(names).map_err(|e| e.at(field))?;
        if matched.is_empty() {
            let message = "matches no site that is adapted";
            return Err(Error::config(format!("{field}.{pattern}"), message));
        }
        for name in matched {
            if found
                .insert(name, value)
                .is_some_and(|other| other != value)
            {
                let message = format!("another pattern gives {name} another value");
                return Err(Error::config(format!("{field}.{pattern}"), message));
            }
        }
    }
    Ok(found)
}

/// Fan-in, rows and groups of a picked site.
fn sizes(picked: &Picked) -> [usize; 3] {
    let [fan_in, outputs, groups] = match picked.site.kind {
        SiteKind::Linear { inputs, outputs } => [inputs, outputs, 1],
        SiteKind::Conv {
            inputs,
            outputs,
            kernel: [kh, kw],
            groups,
            ..
        } => [inputs * kh * kw, outputs, groups],
        _ => unreachable!("only layers are picked"),
    };
    let rows = picked.slice.map_or(outputs, |slice| slice.rows.len());
    [fan_in, rows, groups]
}

#[typetag::serde(name = "lora")]
impl AdaptationMethod for Lora {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let factors = self.places(backbone)?.into_iter().map(|place| {
            let magnitude = self.dora.then(|| row_norms(backbone, &place.picked, init));
            let factors = SiteFactors::new(&place, magnitude, init);
            (place.picked.name().to_owned(), factors)
        });
        Ok(Attachment::adapter(LoraAdapter {
            factors: factors.collect(),
            dropout: self.dropout,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let site = |place: &Place| {
            let [fan_in, rows, groups] = sizes(&place.picked);
            let magnitude = if self.dora { rows } else { 0 };
            place.rank * fan_in + rows * place.rank / groups + magnitude
        };
        Ok(self.places(backbone)?.iter().map(site).sum())
    }
}

/// The norm of each row of the frozen weight, where DoRA's magnitude starts.
fn row_norms(backbone: &dyn Backbone, picked: &Picked, init: &Init) -> Param<Tensor<1>> {
    let weight = params::value(backbone, &format!("{}.weight", picked.site.name));
    let weight = params::floats(weight.unwrap_or_else(|| TensorData::from([0.0f32; 0])));
    let [fan_in, rows, groups] = sizes(picked);
    let first = picked.slice.map_or(0, |slice| slice.rows.start);
    let norms: Vec<f32> = weight
        .chunks(fan_in / groups)
        .skip(first)
        .take(rows)
        .map(|row| row.iter().map(|w| w * w).sum::<f32>().sqrt())
        .collect();
    Param::from_tensor(Tensor::from_data(&norms[..], init.device()))
}

/// The factors of a [`Lora`].
#[derive(Module, Debug)]
pub struct LoraAdapter {
    factors: BySite<SiteFactors>,
    dropout: f64,
}

impl Adapter for LoraAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let whole = std::iter::once((&site.name, None));
        let slices = site.slices.iter().map(|s| (&s.name, Some(s.rows.clone())));
        whole
            .chain(slices)
            .filter_map(|(name, rows)| {
                let at = self.factors.get(name.as_str())?;
                let mut path = LowRank::new(at.factors(), at.scale);
                path.dropout = self.dropout;
                path.rows = rows;
                path.magnitude = at.lora_magnitude_vector.as_ref().map(Param::val);
                Some(SiteAct::LowRank(path))
            })
            .collect()
    }
}

/// `A`, `B` and DoRA's magnitude at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct SiteFactors {
    lora_A: Factor,
    lora_B: Factor,
    lora_magnitude_vector: Option<Param<Tensor<1>>>,
    scale: f64,
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
    fn new(place: &Place, magnitude: Option<Param<Tensor<1>>>, init: &Init) -> Self {
        let Place {
            picked,
            rank,
            scale,
            ..
        } = place;
        let name = |part: &str| format!("{}.{part}.weight", picked.name());
        let [fan_in, rows, groups] = sizes(picked);
        let (a, b) = (Distribution::kaiming(fan_in), Distribution::Zeros);
        let [lora_A, lora_B] = match picked.site.kind {
            SiteKind::Conv {
                inputs,
                kernel: [kh, kw],
                ..
            } => {
                let shapes = [[*rank, inputs, kh, kw], [rows, rank / groups, 1, 1]];
                [
                    Weight::Kernel(init.param(&name("lora_A"), shapes[0], a)),
                    Weight::Kernel(init.param(&name("lora_B"), shapes[1], b)),
                ]
            }
            _ => [
                Weight::Matrix(init.param(&name("lora_A"), [*rank, fan_in], a)),
                Weight::Matrix(init.param(&name("lora_B"), [rows, *rank], b)),
            ],
        }
        .map(|weight| Factor { weight });
        Self {
            lora_A,
            lora_B,
            lora_magnitude_vector: magnitude,
            scale: *scale,
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
    summary: "low-rank side paths beside frozen linear layers and convolutions; rsLoRA, DoRA",
    reference: "LoRA: Low-Rank Adaptation of Large Language Models, Hu et al., 2022",
    example: "name: lora\nrank: 10\nalpha: 10\ndropout: 0.0\n",
    hf_peft: { peft_type: "LORA", read: hf_peft::read, write: hf_peft::write },
);

#[cfg(test)]
mod tests;
