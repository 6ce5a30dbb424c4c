//! Vision Transformers under timm's names.
//!
//! Reference: "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
//! Dosovitskiy et al., 2021; names, defaults and variants as in timm's `vision_transformer.py`.
//! Blocks are `blocks.0` .. `blocks.{L-1}`; boundary `l` is the input of `blocks.{l-1}`, tokens
//! `[1 + N, D]` with the class token first.

mod config;
mod layouts;
mod model;
mod recognise;

pub use config::Vit;
pub use model::{Architecture, GlobalPool, MlpActivation, VisionTransformer};
pub use recognise::Recognised;

#[cfg(test)]
mod tests;
