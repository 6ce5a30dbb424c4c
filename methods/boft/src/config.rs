//! The configuration of [`Boft`], and the layers that it selects.

use peft_core::backbone::Backbone;
use peft_core::check;
use peft_core::error::{Error, Result};
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::site::Targets;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// HF PEFT's names of the parameters of a site.
pub(crate) const PARTS: [&str; 2] = ["boft_R", "boft_s"];

/// Rotate the inputs of weights by a butterfly.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Boft {
    /// Size `b` of a block, at least 2. Default 4, unless `blocks` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// The number of blocks in a factor, in place of their size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<usize>,
    /// Factors `m`, at least 1; one is OFT with a scale. Default 1.
    pub factors: usize,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Boft {
    fn default() -> Self {
        Self {
            block_size: None,
            blocks: None,
            factors: 1,
            targets: None,
        }
    }
}

impl Boft {
    /// The sites, and the size of the blocks at each.
    ///
    /// # Errors
    /// [`Error::Config`] for a value out of range, [`Error::Unfit`](peft_core::Error::Unfit) for a layer whose columns the
    /// blocks do not divide.
    pub(crate) fn sites<'a>(
        &self,
        backbone: &'a dyn Backbone,
    ) -> Result<Vec<(LayerSite<'a>, usize)>> {
        check::at_least_one("factors", self.factors)?;
        if self.factors > usize::BITS as usize / 2 {
            let message = format!("expected at most 32, got {}", self.factors);
            return Err(Error::config("factors", message));
        }
        match (self.block_size, self.blocks) {
            (Some(_), Some(_)) => {
                let message = "expected no value beside `block_size`, which says as much";
                return Err(Error::config("blocks", message));
            }
            (Some(size @ 0..2), _) => {
                let message = format!("expected at least 2, got {size}");
                return Err(Error::config("block_size", message));
            }
            (_, Some(0)) => return Err(Error::config("blocks", "expected at least 1, got 0")),
            _ => {}
        }
        let spec = backbone.spec();
        let sites = layer_sites("boft", self.targets.as_ref(), spec)?.into_iter();
        let sized = |site: LayerSite<'a>| {
            let columns = site.columns;
            let size = match self.blocks {
                Some(count) => columns / count,
                None => self.block_size.unwrap_or(4),
            };
            // The last factor joins so many blocks, and halves of blocks are exchanged.
            let joined = 1 << (self.factors - 1);
            let whole = match self.blocks {
                Some(count) => columns.is_multiple_of(count) && count.is_multiple_of(joined),
                None => columns.is_multiple_of(size * joined),
            };
            if whole && (self.factors == 1 || size.is_multiple_of(2)) && size >= 2 {
                return Ok((site, size));
            }
            let (name, factors) = (site.name(), self.factors);
            let given = match self.blocks {
                Some(count) => format!("{count} blocks"),
                None => format!("blocks of {size}"),
            };
            let reason = format!(
                "{name} has {columns} columns, which {factors} factors of {given} do not divide"
            );
            Err(spec.unfit("boft", reason))
        };
        sites.map(sized).collect()
    }
}
