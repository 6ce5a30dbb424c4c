//! Bias tuning (BitFit): only the biases of the backbone train.
//!
//! Reference: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
//! Language-models", Ben Zaken, Goldberg and Ravfogel, 2022.
//!
//! `y = W x + b` with only `b` trained, in place, in linear layers, convolutions and norms.
//! Parameters: all biases, `(11 L + 2) D` on a ViT, or those of the chosen parts. BatchNorm layers keep
//! their running statistics, unless configured otherwise.

use std::collections::BTreeSet;

use peft_core::backbone::{Backbone, BackboneSpec, Init};
use peft_core::error::Result;
use peft_core::method::{AdaptationMethod, Attachment, Statistics, Tuned};
use peft_core::params::{self, ParamInfo};
use peft_core::site::{Branch, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Train the biases.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Bias {
    /// Parts of the blocks whose biases train. Default: every bias, in whichever part it is.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub parts: BTreeSet<Part>,
    /// The statistics with which BatchNorm layers normalise, while training, if their bias trains.
    /// Default `running`.
    pub statistics: Statistics,
}

/// A group of layers that have biases.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Linear layers and convolutions of attention.
    Attention,
    /// Linear layers and convolutions of the MLPs.
    Mlp,
    /// Norms, wherever they are.
    Norm,
}

impl Part {
    const ALL: [Self; 3] = [Self::Attention, Self::Mlp, Self::Norm];

    fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The part in which a parameter lies.
    fn of(spec: &BackboneSpec, parameter: &str) -> Option<Self> {
        let (site, _) = parameter.rsplit_once('.')?;
        let site = spec.site(site)?;
        // Biases of queries and values may lie beside their layer, in the branch itself.
        let branch = match site.kind {
            SiteKind::Norm { .. } => return Some(Self::Norm),
            SiteKind::Branch { branch, .. } => Some(branch),
            _ => spec.branch_of(site),
        };
        match branch {
            Some(Branch::Attention) => Some(Self::Attention),
            Some(Branch::Mlp) => Some(Self::Mlp),
            _ => None,
        }
    }
}

impl Bias {
    fn biases(&self, backbone: &dyn Backbone) -> Result<Vec<ParamInfo>> {
        let spec = backbone.spec();
        let unfit = |reason: String| spec.unfit("bias", reason);
        let mut biases = params::infos_erased(backbone);
        biases.retain(|info| !info.buffer && params::is_bias(&info.name));
        if biases.is_empty() {
            return Err(unfit("none of its layers has a bias".to_owned()));
        }
        if self.parts.is_empty() {
            return Ok(biases);
        }
        let has = |part: &Part| {
            biases
                .iter()
                .any(|info| Part::of(spec, &info.name) == Some(*part))
        };
        // A part without a bias would train nothing, and a comparison would not show it.
        if let Some(part) = self.parts.iter().find(|part| !has(part)) {
            let others: Vec<_> = Part::ALL
                .iter()
                .filter(|p| has(p))
                .map(|p| p.word())
                .collect();
            return Err(unfit(format!(
                "parts: nothing in part {} has a bias; parts with a bias: {}",
                part.word(),
                if others.is_empty() {
                    "none".to_owned()
                } else {
                    others.join(", ")
                }
            )));
        }
        biases.retain(|info| {
            Part::of(spec, &info.name).is_some_and(|part| self.parts.contains(&part))
        });
        Ok(biases)
    }
}

#[typetag::serde(name = "bias")]
impl AdaptationMethod for Bias {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> Result<Attachment> {
        let biases = self.biases(backbone)?.into_iter();
        Ok(Attachment::tuned(Tuned {
            names: biases.map(|info| info.name).collect(),
            statistics: self.statistics,
            ..Tuned::default()
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        Ok(self.biases(backbone)?.iter().map(ParamInfo::count).sum())
    }
}

peft_core::register!(
    Method, Bias,
    name: "bias",
    summary: "train the biases (BitFit)",
    reference: "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked \
                Language-models, Ben Zaken et al., 2022",
    example: "name: bias\nstatistics: running\n# parts: [attention, mlp, norm]\n",
);

#[cfg(test)]
mod tests;
