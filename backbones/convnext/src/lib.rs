//! ConvNeXt, versions 1 and 2, under timm's names.
//!
//! References: "A ConvNet for the 2020s", Liu et al., 2022; "ConvNeXt V2: Co-designing and Scaling ConvNets with
//! Masked Autoencoders", Woo et al., 2023, whose MLPs have a global response normalisation (GRN) and no LayerScale;
//! names, defaults and variants as in timm's `convnext.py`. Blocks are counted across stages:
//! `stages.0.blocks.0`, `stages.0.blocks.1`, `stages.0.blocks.2`, `stages.1.blocks.0`, and so on. Boundary `l` is
//! the input of block `l`, a grid `[h, w, c]`. Where a block begins a stage, the downsampling before it
//! (`stages.1.downsample`) counts with the previous block, so the boundary lies behind it.
//!
//! Channels are last everywhere: the norms and the two layers of an MLP, which work on each position alone, read
//! the map as it lies. An image may have any size from 32 pixels on; rows and columns that the stem or a
//! downsampling leaves over are not seen.

mod architecture;
mod block;
mod config;
mod downsample;
mod foreign;
mod grn;
mod head;
mod layouts;
mod model;
mod place;
mod pointwise;
mod recognise;
mod variants;

use peft_core::registry::Family;

use foreign::foreign;
use layouts::ALL;
use recognise::{SHOWN_BY, recognise};

pub use architecture::FeaturesAt;
pub use config::ConvNext;
pub use model::ConvNextNetwork;

peft_core::register!(
    Backbone, ConvNext,
    name: "convnext",
    summary: "ConvNeXt: atto to xxlarge, version 2 from atto to huge, or sizes of your own",
    reference: "A ConvNet for the 2020s, Liu et al., 2022",
    example: "name: convnext\nvariant: convnext_tiny\n",
    // Maps of 10, 5, 2 and 1: one of an odd side. The second has all that the first lacks.
    tiny: &[
        "{name: convnext, img_size: 40, depths: [1, 2, 1, 1], dims: [8, 16, 16, 24]}",
        "{name: convnext, img_size: [32, 48], depths: [1, 1, 1, 1], dims: [8, 12, 16, 20], \
          kernel_sizes: 5, conv_mlp: true, use_grn: true}",
    ],
    family: Family {
        variants: variants::names,
        layouts: &ALL,
        recognise,
        shown_by: SHOWN_BY,
        foreign,
    },
);

#[cfg(test)]
mod tests;
