//! Vision Transformers under timm's names.
//!
//! Reference: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
//! Dosovitskiy et al., 2021; names, defaults and variants as in timm's `vision_transformer.py`.
//! Blocks are `blocks.0` .. `blocks.{L-1}`; boundary `l` is the input of `blocks.{l-1}`, tokens
//! `[prefix + N, D]`: class token, register tokens, patches.
//!
//! The options cover DeiT ("Training data-efficient image transformers", Touvron et al., 2021, without
//! distillation), DeiT III (Touvron et al., 2022), DINO (Caron et al., 2021), DINOv2 (Oquab et al.,
//! 2023) and its registers ("Vision Transformers Need Registers", Darcet et al., 2024).

mod architecture;
mod attention;
mod block;
mod config;
mod foreign;
mod layouts;
mod mlp;
mod model;
mod positions;
mod recognise;

use peft_core::registry::Family;

use foreign::foreign;
use layouts::LAYOUTS;
use recognise::{SHOWN_BY, recognise};

pub use architecture::{Architecture, GlobalPool, MlpActivation};
pub use config::Vit;
pub use model::VisionTransformer;
pub use recognise::Recognised;

peft_core::register!(
    Backbone, Vit,
    name: "vit",
    summary: "Vision Transformer: ViT, DeiT, DINO and DINOv2 from Ti to G, or sizes of your own",
    reference: "An Image is Worth 16x16 Words, Dosovitskiy et al., 2021",
    example: "name: vit\nvariant: vit_base_patch16_224\n",
    tiny: &[
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3}",
        "{name: vit, img_size: [32, 48], patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          qkv_bias: false, global_pool: avg}",
        "{name: vit, img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2, \
          reg_tokens: 2, no_embed_class: true, init_values: 0.3, global_pool: avg}",
    ],
    family: Family {
        variants: config::variants,
        layouts: &LAYOUTS,
        recognise,
        shown_by: SHOWN_BY,
        foreign,
    },
);

#[cfg(test)]
mod tests;
