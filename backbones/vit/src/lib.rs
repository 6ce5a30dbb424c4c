//! Vision Transformers under timm's names.
//!
//! Reference: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
//! Dosovitskiy et al., 2021; names, defaults and variants as in timm's `vision_transformer.py`.
//! Blocks are `blocks.0` .. `blocks.{L-1}`; boundary `l` is the input of `blocks.{l-1}`, tokens
//! `[prefix + N, D]`: class token, register tokens, patches.
//!
//! DeiT ("Training data-efficient image transformers", Touvron et al., 2021, without distillation),
//! DeiT III (Touvron et al., 2022), DINO (Caron et al., 2021), DINOv2 (Oquab et al., 2023) and its
//! registers ("Vision Transformers Need Registers", Darcet et al., 2024) are options of it.

mod config;
mod layouts;
mod model;
mod recognise;

pub use config::Vit;
pub use model::{Architecture, GlobalPool, MlpActivation, VisionTransformer};
pub use recognise::Recognised;

#[cfg(test)]
mod tests;
