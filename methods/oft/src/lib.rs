//! OFT: the inputs of a frozen weight are rotated by trained orthogonal blocks.
//!
//! References: "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", Qiu et al., 2023, Sec. 4;
//! "Orthogonal Finetuning Made Scalable", Qiu et al., 2025, whose Neumann series is the default. Sites,
//! names and block sizes as in HF PEFT.
//!
//! `W' = W diag(R_1, .., R_n)^T` with blocks of size `b`. Each block follows from a skew-symmetric `Q` with
//! `b (b - 1) / 2` parameters: `R = I + 2 Q + 2 Q^2 + .. + Q^k`, the start of a series whose limit is
//! orthogonal, or exactly `(I - Q) (I + Q)^-1`. `Q` starts at zero, so that an adapted model starts as
//! the backbone. A block size that does not divide the number of columns is replaced by the nearest that
//! does. Parameters: `n b (b - 1) / 2` per site, and `n = 1` with `shared`.
//!
//! Departures: a convolution gets the weight `[out, in / groups * kh * kw]` with rotated columns. HF PEFT
//! merges the same weight but trains another function, because it folds overlapping windows. There is no
//! constrained form (`coft`) and no dropout of blocks. `query`, `key` and `value` adapt those rows of a
//! fused projection.

#![allow(non_snake_case, reason = "HF PEFT's name of the blocks")]

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::{Error, Result};
use peft_core::hf_peft::{HfPeft, Imported, exactly, read_parts, write_parts};
use peft_core::hooks::SiteAct;
use peft_core::layer_sites::{LayerSite, layer_sites};
use peft_core::layout::Layout;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::params::Tensors;
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::rotation::{exact, series, skew};
use peft_core::site::{Site, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Rotate the inputs of weights in blocks.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Oft {
    /// Size `b` of a block, at least 2. Default 32.
    pub block_size: usize,
    /// Terms of the series, at least 2; null for exact rotations. Default 5.
    pub terms: Option<usize>,
    /// Whether one rotation serves all blocks of a site. Default false.
    pub shared: bool,
    /// Sites by suffix (a list) or regular expression over the whole name (a string); `query`, `key` and
    /// `value` are rows of a fused `qkv`. Default: `[qkv]` where there is one, else the
    /// layers of the MLPs (`mlp.fc1`, `mlp.fc2`), else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for Oft {
    fn default() -> Self {
        Self {
            block_size: 32,
            terms: Some(5),
            shared: false,
            targets: None,
        }
    }
}

impl Oft {
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<LayerSite<'a>>> {
        let at_least_two = |field: &str, value: usize| match value {
            0 | 1 => Err(Error::config(
                field,
                format!("expected at least 2, got {value}"),
            )),
            _ => Ok(()),
        };
        at_least_two("block_size", self.block_size)?;
        if let Some(terms) = self.terms {
            at_least_two("terms", terms)?;
        }
        layer_sites("oft", self.targets.as_ref(), backbone.spec())
    }

    /// The number of blocks that train at a site, and the values of each.
    fn blocks(&self, site: &LayerSite) -> [usize; 2] {
        let size = nearest_divisor(site.columns, self.block_size);
        let count = if self.shared { 1 } else { site.columns / size };
        [count, size * (size - 1) / 2]
    }
}

/// The divisor of `n` that is nearest to `wanted`, of two the smaller one.
fn nearest_divisor(n: usize, wanted: usize) -> usize {
    let divisors = (1..=n).filter(|divisor| n.is_multiple_of(*divisor));
    divisors
        .min_by_key(|divisor| divisor.abs_diff(wanted))
        .unwrap_or(1)
}

#[typetag::serde(name = "oft")]
impl AdaptationMethod for Oft {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let blocks = self.sites(backbone)?.into_iter().map(|site| {
            let name = format!("{}.oft_R.weight", site.name());
            let weight = init.param(&name, self.blocks(&site), Distribution::Zeros);
            let blocks = Blocks {
                oft_R: Skew { weight },
                size: nearest_divisor(site.columns, self.block_size),
                terms: self.terms,
            };
            (site.name().to_owned(), blocks)
        });
        Ok(Attachment::adapter(OftAdapter {
            blocks: blocks.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        let count = |site: &LayerSite| self.blocks(site).into_iter().product::<usize>();
        Ok(sites.iter().map(count).sum())
    }
}

/// The blocks of an [`Oft`].
#[derive(Module, Debug)]
pub struct OftAdapter {
    blocks: BySite<Blocks>,
}

impl Adapter for OftAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        SiteAct::weights(&self.blocks, site, Blocks::rotated)
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let columns = site.columns();
        let part = |(name, rows): (&str, Option<Range<usize>>)| {
            let blocks = self.blocks.get(name)?;
            let entries = Formula::parameter(format!("{name}.{}", PARTS[0]));
            // One block that all share is repeated.
            let shared = blocks.oft_R.weight.dims()[0] == 1;
            let repeat = if shared { columns / blocks.size } else { 1 };
            let rotations = Formula::Cayley {
                size: blocks.size,
                terms: blocks.terms,
                of: Box::new(Formula::cat(0, vec![entries; repeat])),
            };
            // The blocks act as `W R^T`.
            let of = Box::new(rotations.permuted([0, 2, 1]));
            let value = Formula::Weight.matmul(Formula::BlockDiagonal { of });
            Some(DescribedSite::Weight { value, rows })
        };
        site.parts().filter_map(part).collect()
    }
}

/// The blocks at one site, under HF PEFT's names.
#[derive(Module, Debug)]
struct Blocks {
    oft_R: Skew,
    size: usize,
    #[module(skip)]
    terms: Option<usize>,
}

/// The entries above the diagonal of each `Q`, `[n, b (b - 1) / 2]`.
#[derive(Module, Debug)]
struct Skew {
    weight: Param<Tensor<2>>,
}

impl Blocks {
    /// # Shapes
    /// `[out, n b] -> [out, n b]`.
    fn rotated(&self, weight: Tensor<2>) -> Tensor<2> {
        let [rows, columns] = weight.dims();
        let count = columns / self.size;
        let skew = skew(self.oft_R.weight.val(), self.size); // [n, b, b]
        let rotation = match self.terms {
            Some(terms) => series(skew, terms),
            None => exact(skew),
        };
        let rotation = rotation
            .swap_dims(1, 2)
            .expand([count, self.size, self.size]);
        let blocks = weight.reshape([rows, count, self.size]).swap_dims(0, 1); // [n, out, b]
        blocks
            .matmul(rotation)
            .swap_dims(0, 1)
            .reshape([rows, columns])
    }
}

const PARTS: [&str; 1] = ["oft_R.weight"];

fn write(oft: &Oft, backbone: &dyn Backbone, layout: &Layout, values: &Tensors) -> Result<HfPeft> {
    let sites = oft.sites(backbone)?;
    let folder = write_parts(&sites, backbone, layout, "oft", &PARTS, values)?;
    Ok(folder.with_fields(json!({
        "peft_type": "OFT",
        "r": 0,
        "oft_block_size": oft.block_size,
        "use_cayley_neumann": oft.terms.is_some(),
        "num_cayley_neumann_terms": oft.terms.unwrap_or(5),
        "block_share": oft.shared,
        "module_dropout": 0.0,
        "fan_in_fan_out": false,
        "coft": false,
        "eps": 6e-5,
        "bias": "none",
        "init_weights": true,
    })))
}

fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    let any = [
        "oft_block_size",
        "use_cayley_neumann",
        "num_cayley_neumann_terms",
        "block_share",
        // Of the constrained form, which is switched off.
        "eps",
        "bias",
        "init_weights",
        "layers_to_transform",
        "layers_pattern",
    ];
    given.refuse_all_but_any(&any, &["module_dropout", "r"])?;
    let is_on = |field: &str| given.field(field) == &Value::Bool(true);
    let terms = match is_on("use_cayley_neumann") {
        true => json!(given.number("num_cayley_neumann_terms")? as usize),
        false => Value::Null,
    };
    let parts = read_parts(given, backbone, layout, "oft", &PARTS)?;
    Ok(Imported {
        methods: vec![json!({
            "name": "oft",
            "block_size": given.number("oft_block_size")? as usize,
            "terms": terms,
            "shared": is_on("block_share"),
            "targets": exactly(&parts.names),
        })],
        tensors: parts.tensors,
        head_delta: None,
        remarks: parts.remarks,
    })
}

peft_core::register!(
    Method, Oft,
    name: "oft",
    summary: "orthogonal rotations of the inputs of frozen weights, in blocks",
    reference: "Controlling Text-to-Image Diffusion by Orthogonal Finetuning, Qiu et al., 2023",
    example: "name: oft\nblock_size: 32\nterms: 5\nshared: false\n",
    hf_peft: { peft_type: "OFT", read: read, write: write },
);

#[cfg(test)]
mod tests;
