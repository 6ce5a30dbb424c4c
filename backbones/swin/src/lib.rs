//! Swin Transformers under timm's names.
//!
//! Reference: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", Liu et al.,
//! 2021; names, defaults and variants as in timm's `swin_transformer.py`. Blocks are counted across
//! stages: `layers.0.blocks.0`, `layers.0.blocks.1`, `layers.1.blocks.0`, ..; boundary `l` is the
//! input of block `l`, a grid `[h, w, c]`, behind the downsampling if the block opens a stage. Such
//! a downsampling (`layers.1.downsample`) counts with the block before it.
//!
//! Images and windows are square. A map no larger than a window is one window; one that is no
//! multiple of it is padded behind the cyclic shift, as in timm (transformers pads before it, which
//! gives other values on such maps only).

mod config;
mod layouts;
mod model;
mod recognise;
mod windows;

pub use config::Swin;
pub use model::SwinTransformer;

#[cfg(test)]
mod tests;
