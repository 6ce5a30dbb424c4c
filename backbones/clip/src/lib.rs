//! CLIP's image encoders under timm's names.
//!
//! Reference: "Learning Transferable Visual Models From Natural Language Supervision", Radford et
//! al., 2021. It is a Vision Transformer whose tokens are normed before the first block, whose patch
//! embedding has no bias, whose MLPs apply QuickGELU (in OpenAI's weights; GELU in most later ones), and
//! whose features may be projected into the space that images share with texts. Names are those of
//! timm's `vit_*_clip_*`. `norm_pre` belongs to the stem, so boundary 1 lies behind it.
//!
//! The projection is called `projection`. timm has no name for it: it keeps the projection in `head`,
//! the place of a classifier, with a bias of zeros that CLIP does not have. These zeros distinguish it
//! from a classifier.

mod config;
mod layouts;
mod recognise;

use peft_core::registry::Family;

use layouts::LAYOUTS;
use recognise::{SHOWN_BY, recognise};

pub use config::{Clip, Features};

peft_core::register!(
    Backbone, Clip,
    name: "clip",
    summary: "CLIP's image encoder: ViT-B/32, B/16, L/14 and more, or sizes of your own",
    reference: "Learning Transferable Visual Models From Natural Language Supervision, Radford et \
                al., 2021",
    example: "name: clip\nvariant: vit_base_patch32_clip_quickgelu_224\nfeatures: before\n",
    tiny: &[
        "{name: clip, img_size: 32, patch_size: 8, embed_dim: 48, depth: 3, num_heads: 3}",
        "{name: clip, img_size: [32, 48], patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2, \
          projection_dim: 16, features: after, act_layer: gelu}",
    ],
    family: Family {
        variants: config::variants,
        layouts: &LAYOUTS,
        recognise,
        shown_by: SHOWN_BY,
        foreign: |_| None,
    },
);

#[cfg(test)]
mod tests;
