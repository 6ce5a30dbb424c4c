//! Residual networks under timm's names, which are torchvision's where it has the network.
//!
//! Reference: "Deep Residual Learning for Image Recognition", He, Zhang, Ren and Sun, 2016, with
//! the stride in the 3x3 convolution of a bottleneck (torchvision's v1.5). Grouped convolutions are
//! those of "Aggregated Residual Transformations for Deep Neural Networks", Xie, Girshick, Dollar,
//! Tu and He, 2017; deep stems and averaging shortcuts those of "Bag of Tricks for Image
//! Classification with Convolutional Neural Networks", He et al., 2019. Blocks are counted across
//! stages: `layer1.0`, `layer1.1`, and so on to `layer4.2`. Boundary `l` is the input of block `l`, a
//! map `[c, h, w]`.

mod architecture;
mod block;
mod config;
mod convolutions;
mod layouts;
mod model;
mod recognise;
mod sequence;
mod stem;

use peft_core::registry::Family;

use layouts::LAYOUTS;
use recognise::{SHOWN_BY, recognise};

pub use architecture::{BlockKind, StemType};
pub use config::ResNet;
pub use model::ResidualNetwork;

peft_core::register!(
    Backbone, ResNet,
    name: "resnet",
    summary: "Residual network: 18 to 200, with timm's stems and shortcuts, ResNeXt, wide, or sizes of your own",
    reference: "Deep Residual Learning for Image Recognition, He, Zhang, Ren and Sun, 2016",
    example: "name: resnet\nvariant: resnet50\n",
    tiny: &[
        "{name: resnet, img_size: 64, block: bottleneck, layers: [1, 2, 1, 1], \
          channels: [8, 16, 32, 64]}",
        "{name: resnet, img_size: [32, 48], block: basic, layers: [1, 1, 1, 1], \
          channels: [8, 8, 16, 16]}",
        "{name: resnet, img_size: 36, block: bottleneck, layers: [1, 1, 1, 1], \
          channels: [8, 8, 16, 16], cardinality: 2, base_width: 32, stem_type: deep, stem_width: 8, \
          avg_down: true}",
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
