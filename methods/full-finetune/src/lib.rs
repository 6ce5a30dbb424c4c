//! Full fine-tuning: every parameter of the backbone trains, and the head.
//!
//! The baseline of every comparison. Parameters: all of the backbone's. BatchNorm layers use and
//! update batch statistics, as in ordinary training, unless told otherwise.

use peft_core::backbone::{Backbone, Init};
use peft_core::error::Result;
use peft_core::method::{AdaptationMethod, Attachment, Statistics, Tuned};
use peft_core::params;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Train everything.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FullFinetune {
    /// What BatchNorm layers normalise with while training. Default `batch`.
    pub statistics: Statistics,
}

impl Default for FullFinetune {
    fn default() -> Self {
        Self {
            statistics: Statistics::Batch,
        }
    }
}

#[typetag::serde(name = "full-finetune")]
impl AdaptationMethod for FullFinetune {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> Result<Attachment> {
        let parameters = params::infos_erased(backbone).into_iter();
        Ok(Attachment::tuned(Tuned {
            names: parameters.filter(|i| !i.buffer).map(|i| i.name).collect(),
            statistics: self.statistics,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let parameters = params::infos_erased(backbone).into_iter();
        Ok(parameters.filter(|i| !i.buffer).map(|i| i.count()).sum())
    }
}

peft_core::register!(
    Method, FullFinetune,
    name: "full-finetune",
    summary: "train every parameter",
    reference: "the ordinary baseline",
    example: "name: full-finetune\nstatistics: batch\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_vit::Vit;
    use peft_core::testing::Golden;

    use super::*;

    #[test]
    fn training_agrees_with_timm() {
        let vit = Vit {
            img_size: Some(32),
            patch_size: Some(8),
            embed_dim: Some(48),
            depth: Some(4),
            num_heads: Some(3),
            ..Vit::default()
        };
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/peft/full");
        let rename = |name: &str| name.trim_start_matches("backbone.").to_owned();
        Golden::open(folder).check_training(&vit, Box::new(FullFinetune::default()), rename);
    }
}
