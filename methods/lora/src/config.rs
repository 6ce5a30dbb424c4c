//! The configuration of LoRA, and the sites that it selects.

use std::collections::BTreeMap;

use peft_core::backbone::Backbone;
use peft_core::check;
use peft_core::error::{Error, Result};
use peft_core::layer_sites::layer_sites;
use peft_core::site::{Picked, SiteKind, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Low-rank side paths at linear layers and convolutions.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Rank `r` of the product, at least 1. Default 8.
    pub rank: usize,
    /// Scale: the side path is multiplied by `alpha / rank`. Default: the rank of the site, which gives
    /// a factor of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Probability in `[0, 1)` of dropping an entry of the side path's input while training.
    pub dropout: f64,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`,
    /// `key` and `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// Ranks of some sites, by regular expression over the end of the name after a dot.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of some sites, likewise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Multiply by `alpha / sqrt(rank)` (rsLoRA). Default false.
    pub rslora: bool,
    /// Train the norm of each row separately (DoRA). Default false.
    pub dora: bool,
    /// Give `B` a bias of its own, scaled like the product; not with `dora`. Default false.
    // The field is not written if it is false, so that runs from before it existed keep their hash.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lora_bias: bool,
    /// How the factors start. `pissa` and `olora` need linear layers and no `dora`. Default `default`.
    #[serde(skip_serializing_if = "Start::is_default")]
    pub init: Start,
    /// Factor of the learning rate of `B`, more than 0 (LoRA+). Default 1, which gives both factors the
    /// same.
    #[serde(skip_serializing_if = "is_one")]
    pub b_rate: f64,
}

/// How the factors of LoRA start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// `A` kaiming-uniform, `B` zero.
    #[default]
    Default,
    /// `A` normal with deviation `1 / r`, `B` zero.
    Gaussian,
    /// Both from the largest singular values of the weight, whose share the frozen weight loses.
    Pissa,
    /// Both from the QR decomposition of the weight, likewise.
    Olora,
}

impl Start {
    fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// Returns whether the factors start as a part of the weight, which is then taken out of the frozen one.
    pub(crate) fn is_of_weight(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_one(rate: &f64) -> bool {
    *rate == 1.0
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
            lora_bias: false,
            init: Start::Default,
            b_rate: 1.0,
        }
    }
}

/// A site that is adapted, with its rank and scale.
pub(crate) struct Place<'a> {
    pub(crate) picked: Picked<'a>,
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) scale: f64,
}

impl Lora {
    fn check(&self) -> Result<()> {
        check::at_least_one("rank", self.rank)?;
        for (pattern, rank) in &self.rank_pattern {
            check::at_least_one(format!("rank_pattern.{pattern}"), *rank)?;
        }
        check::dropout("dropout", self.dropout)?;
        if self.dora && self.lora_bias {
            let message = "expected false beside dora, got true";
            return Err(Error::config("lora_bias", message));
        }
        if self.dora && self.init.is_of_weight() {
            let message = "expected default or gaussian beside dora, got another";
            return Err(Error::config("init", message));
        }
        let alphas = self.alpha.iter().chain(self.alpha_pattern.values());
        if self.init.is_of_weight() && alphas.into_iter().any(|alpha| *alpha == 0.0) {
            let message = "expected a scale other than 0 where the factors start from the weight";
            return Err(Error::config("alpha", message));
        }
        if !(self.b_rate > 0.0 && self.b_rate.is_finite()) {
            let message = format!("expected a finite number more than 0, got {}", self.b_rate);
            return Err(Error::config("b_rate", message));
        }
        for (pattern, alpha) in &self.alpha_pattern {
            check::finite(format!("alpha_pattern.{pattern}"), *alpha)?;
        }
        match self.alpha {
            Some(alpha) => check::finite("alpha", alpha),
            None => Ok(()),
        }
    }

    /// Checks that a site's weight has the values that the factors start with.
    fn check_start(&self, backbone: &dyn Backbone, picked: &Picked, rank: usize) -> Result<()> {
        if !self.init.is_of_weight() {
            return Ok(());
        }
        if matches!(picked.site.kind, SiteKind::Conv { .. }) {
            let reason = "factors that start from the weight need a linear layer";
            return Err(unfit(backbone, picked, reason));
        }
        let [columns, rows, _] = sizes(picked);
        if rank > columns.min(rows) {
            let name = picked.name();
            let message = format!(
                "expected at most {}, got {rank} at {name}",
                columns.min(rows)
            );
            return Err(Error::config("rank", message));
        }
        Ok(())
    }

    /// The sites, all of which can carry a low-rank path.
    pub(crate) fn picked<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<Picked<'a>>> {
        let sites = layer_sites("lora", self.targets.as_ref(), backbone.spec())?;
        Ok(sites.into_iter().map(|site| site.picked).collect())
    }

    pub(crate) fn places<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<Place<'a>>> {
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
                let divisor = if self.rslora {
                    (*rank as f64).sqrt()
                } else {
                    *rank as f64
                };
                // B is divided into the groups of the site, so each group must get the same share
                // of the rank.
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
                self.check_start(backbone, picked, *rank)?;
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
    let reason = format!("{} is a {}; {expected}", picked.name(), picked.site.kind);
    backbone.spec().unfit("lora", reason)
}

/// The value that a pattern assigns to each of `names`; matched as in HF PEFT: `(.*\.)?(pattern)$`.
fn matches<'a, 'n, T: PartialEq>(
    field: &str,
    patterns: &'a BTreeMap<String, T>,
    names: &[&'n str],
) -> Result<BTreeMap<&'n str, &'a T>> {
    let mut found = BTreeMap::new();
    for (pattern, value) in patterns {
        // The same pattern as in HF PEFT, so that a configuration means the same sites in both.
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
pub(crate) fn sizes(picked: &Picked) -> [usize; 3] {
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
