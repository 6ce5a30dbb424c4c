//! The names that HF transformers gives the parameters of a residual network.

use peft_core::layout::Layout;

/// The rules of all stages: the first one is `layer1` in timm and `stages.0` in transformers.
macro_rules! stages {
    ($(($ours:literal, $theirs:literal)),*) => {
        &[
            ("conv1", "embedder.embedder.convolution"),
            ("bn1", "embedder.embedder.normalization"),
            $(
                (concat!($ours, ".{i}.conv1"), concat!($theirs, ".{i}.layer.0.convolution")),
                (concat!($ours, ".{i}.bn1"), concat!($theirs, ".{i}.layer.0.normalization")),
                (concat!($ours, ".{i}.conv2"), concat!($theirs, ".{i}.layer.1.convolution")),
                (concat!($ours, ".{i}.bn2"), concat!($theirs, ".{i}.layer.1.normalization")),
                (concat!($ours, ".{i}.conv3"), concat!($theirs, ".{i}.layer.2.convolution")),
                (concat!($ours, ".{i}.bn3"), concat!($theirs, ".{i}.layer.2.normalization")),
                (concat!($ours, ".{i}.downsample.0"), concat!($theirs, ".{i}.shortcut.convolution")),
                (concat!($ours, ".{i}.downsample.1"), concat!($theirs, ".{i}.shortcut.normalization")),
            )*
        ]
    };
}

/// HF transformers.
pub(crate) const LAYOUTS: [Layout; 1] = [Layout {
    name: "transformers",
    head: "classifier.1",
    prefixes: &["resnet.", ""],
    rules: stages!(
        ("layer1", "encoder.stages.0.layers"),
        ("layer2", "encoder.stages.1.layers"),
        ("layer3", "encoder.stages.2.layers"),
        ("layer4", "encoder.stages.3.layers")
    ),
    ignored: &[],
    functional: &[],
    convert: None,
}];
