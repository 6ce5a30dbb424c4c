//! The parts that all benchmarks use: backbones with random weights, and random images.

use burn::tensor::{Device, Tensor};
use peft_backbone_resnet as _;
use peft_backbone_vit as _;
use peft_core::backbone::BoxedBackbone;
use peft_core::method::features;
use peft_core::random::Distribution;
use peft_core::{AdaptationMethod, BackboneConfig, Init, LinearHead, Model, Plug};

/// Classes of the head.
pub const CLASSES: usize = 10;

/// Names and configurations.
pub const BACKBONES: [(&str, &str); 2] = [
    (
        "vit-micro",
        include_str!("../configs/backbones/vit-micro.yaml"),
    ),
    (
        "resnet-micro",
        include_str!("../configs/backbones/resnet-micro.yaml"),
    ),
];

/// A backbone with random weights.
pub fn backbone(yaml: &str, device: &Device) -> BoxedBackbone {
    let built = config(yaml).build(&Init::seeded(device, 0));
    Plug::new(built.unwrap_or_else(|e| panic!("{e}")))
}

/// A backbone with random weights, what `methods` make of it, and a new head.
pub fn model(yaml: &str, methods: &[Box<dyn AdaptationMethod>], device: &Device) -> Model {
    let (backbone, init) = (backbone(yaml, device), Init::seeded(device, 0));
    let features = features(methods, &*backbone).unwrap_or_else(|e| panic!("{e}"));
    let head = LinearHead::new(features, CLASSES, &init);
    Model::assemble(backbone, methods, head, &init).unwrap_or_else(|e| panic!("{e}"))
}

/// As many random images as the backbone takes.
///
/// # Shapes
/// `[batch, 3, h, w]`.
pub fn images(backbone: &str, batch: usize, device: &Device) -> Tensor<4> {
    let input = config(backbone).input().unwrap_or_else(|e| panic!("{e}"));
    let normal = Distribution::Normal(0.0, 1.0);
    Init::seeded(device, 1).tensor("images", input.batch(batch), normal)
}

/// Waits for the device, so that the clock does not stop too early.
pub fn sync(device: &Device) {
    device.sync().unwrap_or_else(|e| panic!("{e:?}"));
}

fn config(yaml: &str) -> Box<dyn BackboneConfig> {
    serde_yaml::from_str(yaml).unwrap_or_else(|e| panic!("{e}"))
}
