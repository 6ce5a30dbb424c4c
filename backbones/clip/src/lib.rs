//! CLIP's image encoders under timm's names.
//!
//! Reference: "Learning Transferable Visual Models From Natural Language Supervision", Radford et
//! al., 2021. A Vision Transformer whose tokens are normed before the first block, whose patch
//! embedding has no bias, whose MLPs apply QuickGELU (OpenAI's weights; most later ones GELU), and
//! whose features may be projected into the space that images share with texts. Names are those of
//! timm's `vit_*_clip_*`: `norm_pre` stands in the stem, boundary 1 lies after it.
//!
//! The projection is called `projection`. timm has no name of its own for it: it keeps it in `head`,
//! the place of a classifier, with a bias of zeros that CLIP does not have. By these zeros it is told
//! from a classifier.

mod config;
mod layouts;
mod recognise;

pub use config::{Clip, Features};

#[cfg(test)]
mod tests;
