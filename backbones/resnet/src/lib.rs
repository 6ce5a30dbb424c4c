//! Residual networks under timm's names, which are torchvision's where it has the network.
//!
//! Reference: "Deep Residual Learning for Image Recognition", He, Zhang, Ren and Sun, 2016, with
//! the stride in the 3x3 convolution of a bottleneck (torchvision's v1.5). Grouped convolutions are
//! those of "Aggregated Residual Transformations for Deep Neural Networks", Xie, Girshick, Dollar,
//! Tu and He, 2017; deep stems and averaging shortcuts those of "Bag of Tricks for Image
//! Classification with Convolutional Neural Networks", He et al., 2019. Blocks are counted across
//! stages: `layer1.0`, `layer1.1`, .. `layer4.2`; boundary `l` is the input of block `l`, a map
//! `[c, h, w]`.

mod config;
mod layouts;
mod model;
mod recognise;
mod sequence;

pub use config::{BlockKind, ResNet, StemType};
pub use model::ResidualNetwork;

#[cfg(test)]
mod tests;
