//! Full fine-tuning: every parameter of the backbone and the head train, or those that are chosen.
//!
//! A baseline of every comparison. Parameters: all of the backbone's, or the chosen ones. BatchNorm
//! layers use and update batch statistics, as in ordinary training, unless configured otherwise.
//!
//! With `select` single entries train: the share of them with the largest gradients of the loss over some batches,
//! in absolute value, with the head at its initial values. They are chosen once, before the first step; the others keep their
//! values, and weight decay does not reach them. Published forms choose within a part of the network instead: for each
//! neuron, "Gradient-based Parameter Selection for Efficient Fine-Tuning", Zhang et al., 2024. The optimiser's state
//! stays that of whole tensors.
//!
//! With `layer_decay` the learning rate of block `i` of `L` is multiplied by `decay^(L + 1 - i)`.
//! The stem, class token and position embedding count as block 0; the last norm and the head learn
//! at the full rate: "BEiT: BERT Pre-Training of Image Transformers", Bao et al., 2022, and "Masked
//! Autoencoders Are Scalable Vision Learners", He et al., 2022, App. A.

use std::collections::{BTreeMap, BTreeSet};

use peft_core::backbone::{Backbone, Init};
use peft_core::error::{Error, Result, listed};
use peft_core::method::{AdaptationMethod, Attachment, Selection, Statistics, Tuned};
use peft_core::params::{self, ParamInfo};
use peft_core::site::Targets;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Train everything.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FullFinetune {
    /// The statistics with which BatchNorm layers normalise while training. Default `batch`.
    pub statistics: Statistics,
    /// Factor in `(0, 1]` between the learning rate of a block and that of the block above it. Default:
    /// none, which gives all the same learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_decay: Option<f64>,
    /// Parameters that train, by suffix (a list) or regular expression over the whole name (a string),
    /// for example `norm.weight`; the others stay frozen. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Targets>,
    /// The choice of the entries of these parameters that train. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Selection>,
}

impl Default for FullFinetune {
    fn default() -> Self {
        Self {
            statistics: Statistics::Batch,
            layer_decay: None,
            parameters: None,
            select: None,
        }
    }
}

impl FullFinetune {
    /// Factors of the learning rate by parameter, where they are not 1.
    fn rates(&self, backbone: &dyn Backbone, names: &BTreeSet<String>) -> BTreeMap<String, f64> {
        let spec = backbone.spec();
        let decay = self.layer_decay.unwrap_or(1.0);
        let rate = |name: &String| {
            let below = spec.last_boundary() - spec.block_of(name);
            (name.clone(), decay.powi(below as i32))
        };
        names
            .iter()
            .map(rate)
            .filter(|(_, rate)| *rate != 1.0)
            .collect()
    }

    /// The parameters that train.
    fn chosen(&self, backbone: &dyn Backbone) -> Result<Vec<ParamInfo>> {
        self.check()?;
        let mut all = params::infos_erased(backbone);
        all.retain(|info| !info.buffer);
        let Some(targets) = &self.parameters else {
            return Ok(all);
        };
        let names: Vec<&str> = all.iter().map(|info| info.name.as_str()).collect();
        // A misspelt entry of a list is an error even if another entry matches.
        let each: Vec<Targets> = match targets {
            Targets::Regex(_) => vec![targets.clone()],
            Targets::Suffixes(suffixes) => {
                let one = |suffix: &String| Targets::Suffixes(vec![suffix.clone()]);
                suffixes.iter().map(one).collect()
            }
        };
        let mut chosen = BTreeSet::new();
        for target in &each {
            let matched = target.matching(&names).map_err(|e| e.at("parameters"))?;
            if matched.is_empty() {
                let target = match target {
                    Targets::Regex(pattern) => pattern.clone(),
                    Targets::Suffixes(names) => names.join(", "),
                };
                let message = format!(
                    "{target:?} matches no parameter of {}; the parameters are: {}",
                    backbone.spec().name,
                    listed(&names, 60)
                );
                return Err(Error::config("parameters", message));
            }
            chosen.extend(matched.into_iter().map(str::to_owned));
        }
        if chosen.is_empty() {
            return Err(Error::config("parameters", "expected at least one name"));
        }
        all.retain(|info| chosen.contains(&info.name));
        Ok(all)
    }

    fn check(&self) -> Result<()> {
        match self.layer_decay {
            Some(decay) if !(decay > 0.0 && decay <= 1.0) => {
                let message = format!("expected more than 0 and at most 1, got {decay}");
                Err(Error::config("layer_decay", message))
            }
            _ => self.select.map_or(Ok(()), |select| select.check("select")),
        }
    }
}

#[typetag::serde(name = "full-finetune")]
impl AdaptationMethod for FullFinetune {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> Result<Attachment> {
        let names = self.chosen(backbone)?.into_iter();
        let names = names.map(|info| info.name).collect();
        Ok(Attachment::tuned(Tuned {
            rates: self.rates(backbone, &names),
            names,
            statistics: self.statistics,
            selection: self.select,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let all = self.chosen(backbone)?.iter().map(ParamInfo::count).sum();
        Ok(self.select.map_or(all, |select| select.entries(all)))
    }
}

peft_core::register!(
    Method, FullFinetune,
    name: "full-finetune",
    summary: "train every parameter, or chosen ones",
    reference: "the ordinary baseline",
    example: "name: full-finetune\nstatistics: batch\n# layer_decay: 0.75\n# parameters: [norm.weight, norm.bias]\n\
              # select: {fraction: 0.01, batches: 4}\n",
);

#[cfg(test)]
mod tests;
