//! Residual networks under torchvision's names, which are also timm's.
//!
//! Reference: "Deep Residual Learning for Image Recognition", He, Zhang, Ren and Sun, 2016, with
//! the stride in the 3x3 convolution of a bottleneck (torchvision's v1.5). Blocks are counted
//! across stages: `layer1.0`, `layer1.1`, .. `layer4.2`; boundary `l` is the input of block `l`, a
//! map `[c, h, w]`.

mod config;
mod layouts;
mod model;

pub use config::{BlockKind, ResNet};
pub use model::ResidualNetwork;

#[cfg(test)]
mod tests;
