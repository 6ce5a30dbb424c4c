//! LST, ladder side tuning: a narrow Transformer beside a frozen one, fed by its blocks.
//!
//! Reference: "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning", Sung, Cho and
//! Bansal, 2022, Sec. 3.
//!
//! The side network has width `d = D / r` and a block for each block of the trunk, or for every `k`-th of them
//! up to the last. From `h_0 = P_0 x_1`, the tokens before the first block, rung `i` computes
//! `h_i = block_i(mu_i P_i x_{i+1} + (1 - mu_i) h_{i-1})` with `x_{i+1}` what block `i` of the trunk gives,
//! `P_i` a linear layer from `D` to `d` and the gate `mu_i = sigmoid(alpha_i / 0.1)`. Another linear layer takes
//! `h` back to `D`, and the trunk's last norm and pooling make the features of that. Blocks are those of a ViT:
//! attention and an MLP of `4 d`, each behind a norm. With `pruned` they start as parts of the trunk's blocks.
//! Gates start at one half; the model does not start as the backbone. Parameters: `2 D d + D + d` for the first and the
//! last layer, and `D d + d + 1 + 12 d^2 + 13 d` for each rung.
//!
//! Departures: the paper prunes by Fisher information on training data, this by the magnitude of weights (Li et
//! al., 2017), and the same channels of the stream in all blocks, since they are added up. Maps have no ladder
//! in the paper and are refused.

mod ladder;
mod pruned;

use peft_core::activation::BoundaryShape;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::error::{Error, Result};
use peft_core::layers::Dense;
use peft_core::method::{AdaptationMethod, Attachment};
use peft_core::random::Distribution;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ladder::{Block, Ladder, Rung, Sizes};
use crate::pruned::Kept;

/// Train a narrow network beside the backbone.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Lst {
    /// The backbone's width over that of the side network, a divisor of the former. Default 8.
    pub reduction: usize,
    /// Blocks of the backbone for each block of the side network, at least 1; the last one always has one.
    /// Default 1.
    pub every: usize,
    /// Heads of the side network's attention, a divisor of its width. Default: one for each 64 channels of the
    /// backbone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Initial values of its blocks. Default `pruned`.
    pub init: Start,
}

/// The initial values of the side network's blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// The strongest channels of the backbone's blocks.
    #[default]
    Pruned,
    /// Truncated normal with deviation 0.02, biases zero.
    Random,
}

impl Default for Lst {
    fn default() -> Self {
        Self {
            reduction: 8,
            every: 1,
            heads: None,
            init: Start::Pruned,
        }
    }
}

impl Lst {
    fn sizes(&self, backbone: &dyn Backbone) -> Result<Sizes> {
        check::at_least_one("reduction", self.reduction)?;
        check::at_least_one("every", self.every)?;
        let spec = backbone.spec();
        let shape = spec.shape_at(1);
        let BoundaryShape::Tokens { width: wide, .. } = shape else {
            let reason =
                format!("its ladder needs tokens of one width; the first block reads a {shape}");
            return Err(spec.unfit("lst", reason));
        };
        let divides =
            |field: &str, of: usize, value: usize| match value > 0 && of.is_multiple_of(value) {
                true => Ok(of / value),
                false => Err(Error::config(
                    field,
                    format!("expected a divisor of the width {of}, got {value}"),
                )),
            };
        let narrow = divides("reduction", wide, self.reduction)?;
        let heads = self.heads.unwrap_or((wide / 64).max(1));
        divides("heads", narrow, heads)?;
        let feeds = |block: &usize| (spec.depth - block).is_multiple_of(self.every);
        Ok(Sizes {
            wide,
            narrow,
            heads,
            blocks: (1..=spec.depth).filter(feeds).collect(),
        })
    }
}

#[typetag::serde(name = "lst")]
impl AdaptationMethod for Lst {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let sizes = self.sizes(backbone)?;
        let (wide, narrow) = (sizes.wide, sizes.narrow);
        if self.init == Start::Pruned {
            pruned::check(backbone, &sizes)?;
        }
        // A backbone whose weights are loaded later has none to choose from.
        let prunes = self.init == Start::Pruned && !init.is_empty();
        let kept = prunes.then(|| Kept::of(backbone, &sizes));
        let dense =
            |name: &str, shape| Dense::new(name, shape, Distribution::kaiming(shape[1]), init);
        let names = backbone.spec().block_names();
        let rungs = sizes.blocks.iter().map(|&block| {
            let name = &names[block - 1];
            let rung = Rung {
                down: dense(&format!("{name}.down"), [narrow, wide]),
                gate: init.param(&format!("{name}.gate"), [1], Distribution::Zeros),
                block: Block::new(name, narrow, sizes.heads, init),
            };
            let rung = match &kept {
                Some(kept) => Rung {
                    block: kept.start(rung.block, name),
                    ..rung
                },
                None => rung,
            };
            (name.clone(), rung)
        });
        Ok(Attachment::adapter(Ladder {
            rungs: rungs.collect(),
            first: dense("first", [narrow, wide]),
            last: dense("last", [wide, narrow]),
            blocks: sizes.blocks,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sizes = self.sizes(backbone)?;
        let (wide, narrow) = (sizes.wide, sizes.narrow);
        if self.init == Start::Pruned {
            pruned::check(backbone, &sizes)?;
        }
        let rung = wide * narrow + narrow + 1 + 12 * narrow * narrow + 13 * narrow;
        Ok(2 * wide * narrow + wide + narrow + sizes.blocks.len() * rung)
    }

    fn starts_as_backbone(&self) -> bool {
        false
    }
}

peft_core::register!(
    Method, Lst,
    name: "lst",
    summary: "a narrow Transformer beside the frozen backbone, fed by its blocks; no gradient enters them",
    reference: "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning, Sung et al., 2022",
    example: "name: lst\nreduction: 8\nevery: 1\ninit: pruned\n",
);

#[cfg(test)]
mod tests;
