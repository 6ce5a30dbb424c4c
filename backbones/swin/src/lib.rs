//! Swin Transformers under timm's names.
//!
//! Reference: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", Liu et al.,
//! 2021; names, defaults and variants as in timm's `swin_transformer.py`. Blocks are counted across
//! stages: `layers.0.blocks.0`, `layers.0.blocks.1`, `layers.1.blocks.0`, and so on. Boundary `l` is
//! the input of block `l`, a grid `[h, w, c]`. Where a block begins a stage, the downsampling before it
//! (`layers.1.downsample`) counts with the previous block, so the boundary lies behind it.
//!
//! The second version ("Swin Transformer V2: Scaling Up Capacity and Resolution", Liu et al., 2022) norms
//! what the branches put out, attends by cosines, and makes position biases with a small network; its names
//! are those of timm's `swin_transformer_v2.py`.
//!
//! Windows are square. Where a map has no more rows or columns than a window, the window has as many and is
//! not shifted along them. A map that windows do not divide is padded after the cyclic shift, as in timm.
//! With weights in torchvision's names a window keeps its size, and with these and transformers' a map is
//! padded before it is shifted, as there.

mod architecture;
mod attention;
mod block;
mod config;
mod continuous_bias;
mod downsample;
mod layouts;
mod mlp;
mod model;
mod place;
mod position_bias;
mod recognise;
mod windows;

use peft_core::registry::Family;

use layouts::LAYOUTS;
use recognise::{SHOWN_BY, recognise};

pub use config::Swin;
pub use model::SwinTransformer;

peft_core::register!(
    Backbone, Swin,
    name: "swin",
    summary: "Swin Transformer: T, S, B, L of both versions at 192 to 384 pixels, or sizes of your own",
    reference: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, Liu et \
                al., 2021",
    example: "name: swin\nvariant: swin_tiny_patch4_window7_224\n",
    // Maps of 8 x 5, 4 x 3 and 2 x 2 under windows of 3: padded; padded and shifted, but not along its
    // three columns; one window. Maps of 16 and 8 under windows of 4: shifted.
    tiny: &[
        "{name: swin, img_size: [32, 20], patch_size: 4, embed_dim: 16, depths: [1, 2, 1], \
          num_heads: [2, 2, 4], window_size: 3}",
        "{name: swin, img_size: 32, patch_size: 2, embed_dim: 12, depths: [1, 3], \
          num_heads: [2, 3], window_size: 4, qkv_bias: false}",
        "{name: swin, version: 2, img_size: [24, 32], patch_size: 4, embed_dim: 12, depths: [2, 1], \
          num_heads: [2, 3], window_size: 4}",
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
