//! Recognises a residual network by the shapes in a checkpoint.

use peft_core::BackboneConfig;
use peft_core::checkpoint::Shapes;

use crate::architecture::{BlockKind, STEM, StemType, WIDTH};
use crate::config::ResNet;

/// The tensors that show the facts of a residual network.
pub(crate) const SHOWN_BY: &[(&str, &str)] = &[
    ("block", "layer1.0.conv3.weight"),
    ("layers", "layer{s+1}.{}.conv1.weight"),
    ("channels", "layer{s+1}.0.conv1.weight"),
    ("cardinality", "layer1.0.conv2.weight"),
    ("base_width", "layer1.0.conv2.weight"),
    ("stem_type", "conv1.weight"),
    ("avg_down", "layer2.0.downsample.1.weight"),
];

/// The configuration of the network with these shapes. They do not reveal the image's size, which
/// stays at its default.
pub(crate) fn recognise(shapes: &Shapes) -> Option<Box<dyn BackboneConfig>> {
    let outputs = |name: &str| Some(*shapes.get(name)?.first()?);
    let block = match shapes.has("layer1.0.conv3.weight") {
        true => BlockKind::Bottleneck,
        false => BlockKind::Basic,
    };
    let (mut layers, mut channels) = ([0; 4], [0; 4]);
    for (stage, (layers, channels)) in layers.iter_mut().zip(&mut channels).enumerate() {
        let stage = format!("layer{}", stage + 1);
        *layers = shapes.count(&format!("{stage}.{{}}.conv1.weight"));
        *channels = match block {
            BlockKind::Basic => outputs(&format!("{stage}.0.conv1.weight"))?,
            BlockKind::Bottleneck => outputs(&format!("{stage}.0.conv3.weight"))? / 4,
        };
    }
    // [outputs, inputs of a group, 3, 3]
    let inner = shapes.get("layer1.0.conv2.weight")?;
    let (width, of_group) = (*inner.first()?, *inner.get(1)?);
    let cardinality = width.checked_div(of_group)?;
    let base_width = (width * WIDTH).checked_div(cardinality * channels[0])?;
    // A stem of one convolution has no numbered layers.
    let (first, second) = (outputs("conv1.0.weight"), outputs("conv1.3.weight"));
    let stem_type = match (first, second) {
        (Some(first), Some(second)) if first == second => StemType::Deep,
        (Some(_), _) => StemType::DeepTiered,
        (None, _) => StemType::Plain,
    };
    // Behind an averaging layer the convolution is the second layer of the shortcut; otherwise that is
    // a norm, whose weight has one dimension.
    let averages = |stage: usize| {
        let convolution = shapes.get(&format!("layer{stage}.0.downsample.1.weight"));
        convolution.is_some_and(|shape| shape.len() == 4)
    };
    let unless = |default: usize, value: usize| (value != default).then_some(value);
    // Defaults are left out, which keeps the YAML short.
    Some(Box::new(ResNet {
        block: Some(block),
        layers: Some(layers),
        channels: (channels != [64, 128, 256, 512]).then_some(channels),
        cardinality: unless(1, cardinality),
        base_width: unless(WIDTH, base_width),
        stem_type: (stem_type != StemType::Plain).then_some(stem_type),
        stem_width: second.filter(|width| *width != STEM),
        avg_down: (1..=4).any(averages).then_some(true),
        ..ResNet::default()
    }))
}
