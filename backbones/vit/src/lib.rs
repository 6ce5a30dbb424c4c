//! Vision Transformers under timm's names.
//!
//! Reference: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
//! Dosovitskiy et al., 2021; names, defaults and variants as in timm's `vision_transformer.py`.
//! Blocks are `blocks.0` .. `blocks.{L-1}`; boundary `l` is the input of `blocks.{l-1}`, tokens
//! `[prefix + N, D]`: class token, register tokens, patches.
//!
//! A network is composed of small parts: queries, keys and values in one layer or three, with or without
//! biases; rotary positions; MLPs with a gate; norms inside attention and MLP; pooling by a class token, an
//! average or attention. The options cover DeiT ("Training data-efficient image transformers", Touvron et al., 2021, without
//! distillation), DeiT III (Touvron et al., 2022), DINO (Caron et al., 2021), DINOv2 (Oquab et al.,
//! 2023) and its registers ("Vision Transformers Need Registers", Darcet et al., 2024), DINOv3 (Simeoni et al.,
//! 2025), SigLIP (Zhai et al., 2023) and SigLIP 2 at a fixed resolution (Tschannen et al., 2025), EVA (Fang et
//! al., 2023) and EVA-02 (Fang et al., 2023), MAE (He et al., 2022) and MoCo v3 (Chen et al., 2021).

mod architecture;
mod attention;
mod block;
mod config;
mod foreign;
mod layouts;
mod mlp;
mod model;
mod place;
mod pool;
mod positions;
mod recognise;
mod rope;
mod variants;

use peft_core::registry::Family;

use foreign::foreign;
use layouts::LAYOUTS;
use recognise::{SHOWN_BY, recognise};

pub use architecture::{Architecture, GlobalPool, MlpActivation, MlpKind, Qkv, QkvBias, Stated};
pub use config::Vit;
pub use model::VisionTransformer;
pub use recognise::Recognised;
pub use rope::{Rope, RopeType};

peft_core::register!(
    Backbone, Vit,
    name: "vit",
    summary: "Vision Transformer: ViT, DeiT, DINO to DINOv3, SigLIP, EVA-02 from Ti to G, or sizes of your own",
    reference: "An Image is Worth 16x16 Words, Dosovitskiy et al., 2021",
    example: "name: vit\nvariant: vit_base_patch16_224\n",
    tiny: &[
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3}",
        "{name: vit, img_size: [32, 48], patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          qkv_bias: false, global_pool: avg}",
        "{name: vit, img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2, \
          reg_tokens: 2, no_embed_class: true, init_values: 0.3, global_pool: avg}",
        // DINOv3, EVA-02 base, EVA-02 tiny and SigLIP.
        "{name: vit, img_size: [32, 48], patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          reg_tokens: 2, rope_type: dinov3, swiglu_mlp: true, swiglu_align_to: 8, init_values: 0.3}",
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          mlp_ratio: 2.7, qkv_fused: false, scale_attn_inner: true, swiglu_mlp: true, scale_mlp: true, \
          rope_type: cat, ref_feat_shape: [2, 2], global_pool: avg}",
        "{name: vit, img_size: [48, 32], patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          mlp_ratio: 2, swiglu_mlp: true, qk_norm: true, rope_type: cat}",
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          class_token: false, global_pool: map, act_layer: gelu_tanh}",
    ],
    family: Family {
        variants: variants::variants,
        layouts: &LAYOUTS,
        recognise,
        shown_by: SHOWN_BY,
        foreign,
    },
);

#[cfg(test)]
mod tests;
