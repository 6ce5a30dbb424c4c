//! Partial fine-tuning: the last blocks of the backbone and what follows them train, in place.
//!
//! References: "How Transferable Are Features in Deep Neural Networks?", Yosinski et al., 2014; "Visual
//! Prompt Tuning", Jia et al., 2022, Sec. 4.1, whose Partial-1 is the default.
//!
//! Parameters: all of the last `k` blocks and of the norm after them; `k (12 D^2 + 13 D) + 2 D` on a ViT whose
//! MLP is four times as wide. BatchNorm layers that train use and update batch statistics unless configured
//! otherwise.

use std::collections::BTreeSet;

use peft_core::backbone::{Backbone, Init};
use peft_core::error::{Error, Result};
use peft_core::method::{AdaptationMethod, Attachment, Statistics, Tuned};
use peft_core::params::{self, ParamInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Train the last blocks.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Partial {
    /// Number `k` of blocks that train, from 1 to all. Default 1.
    pub blocks: usize,
    /// The statistics with which BatchNorm layers normalise while training. Default `batch`.
    pub statistics: Statistics,
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            blocks: 1,
            statistics: Statistics::Batch,
        }
    }
}

impl Partial {
    /// The parameters that train.
    fn chosen(&self, backbone: &dyn Backbone) -> Result<Vec<ParamInfo>> {
        let spec = backbone.spec();
        if !(1..=spec.depth).contains(&self.blocks) {
            let message = format!(
                "expected 1 to {}, the blocks of {}, got {}",
                spec.depth, spec.name, self.blocks
            );
            return Err(Error::config("blocks", message));
        }
        let first = spec.depth + 1 - self.blocks;
        let mut all = params::infos_erased(backbone);
        all.retain(|info| !info.buffer && spec.block_of(&info.name) >= first);
        Ok(all)
    }
}

#[typetag::serde(name = "partial")]
impl AdaptationMethod for Partial {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> Result<Attachment> {
        let names: BTreeSet<String> = (self.chosen(backbone)?.into_iter())
            .map(|info| info.name)
            .collect();
        Ok(Attachment::tuned(Tuned {
            names,
            statistics: self.statistics,
            ..Tuned::default()
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        Ok(self.chosen(backbone)?.iter().map(ParamInfo::count).sum())
    }
}

peft_core::register!(
    Method, Partial,
    name: "partial",
    summary: "train the last blocks and the norm after them",
    reference: "How Transferable Are Features in Deep Neural Networks?, Yosinski et al., 2014",
    example: "name: partial\nblocks: 1\nstatistics: batch\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, Verdict, built, conforms, vit};

    use super::*;

    #[test]
    fn the_last_block_agrees_with_the_reference() {
        let rename = |name: &str| name.trim_start_matches("backbone.").to_owned();
        let method = Box::new(Partial::default());
        Golden::fixture("peft/partial").check_training(&*vit(), method, rename);
    }

    #[test]
    fn it_conforms_and_needs_no_merging() {
        let running = Partial {
            blocks: 2,
            statistics: Statistics::Running,
        };
        for verdict in conforms(&[Box::new(Partial::default()), Box::new(running)]) {
            assert!(
                matches!(verdict, Verdict::Conforms { merges: Ok(()) }),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_formula_counts_blocks_and_the_last_norm() {
        let backbone = built(&*vit());
        let count = |blocks: usize| {
            let method = Partial {
                blocks,
                ..Partial::default()
            };
            method.formula(&*backbone)
        };
        let block = 12 * 48 * 48 + 13 * 48;
        assert_eq!(count(1).unwrap(), block + 2 * 48);
        assert_eq!(count(3).unwrap(), 3 * block + 2 * 48);
        let error = count(5).unwrap_err().to_string();
        assert!(
            error.starts_with("blocks: expected 1 to 4, the blocks of "),
            "{error}"
        );
        assert!(error.ends_with(", got 5"), "{error}");
    }
}
