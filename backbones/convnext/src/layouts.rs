//! The names that other libraries give the parameters of a ConvNeXt.

use peft_core::layout::Layout;

/// A layout in which blocks, downsamplings and stem are called as the arguments say; `{s}` is the stage, `{i}` the
/// block in it.
macro_rules! layout {
    (
        $name:literal, head: $head:literal, prefixes: $prefixes:expr, stem: [$conv:literal, $norm:literal],
        downsample: $downsample:literal, block: $block:literal,
        parts: [$dw:literal, $ln:literal, $fc1:literal, $fc2:literal, $gamma:literal],
        grn: [$grn_weight:literal, $grn_bias:literal], last: $last:literal,
        more: [$($more:expr),*], ignored: $ignored:expr $(,)?
    ) => {
        Layout {
            name: $name,
            head: $head,
            prefixes: $prefixes,
            rules: &[
                // The first stage's counterpart of a downsampling is the stem.
                ("stem.0", $conv),
                ("stem.1", $norm),
                ("stages.{s}.downsample.0", concat!($downsample, ".0")),
                ("stages.{s}.downsample.1", concat!($downsample, ".1")),
                ("stages.{s}.blocks.{i}.conv_dw", concat!($block, $dw)),
                ("stages.{s}.blocks.{i}.norm", concat!($block, $ln)),
                ("stages.{s}.blocks.{i}.mlp.fc1", concat!($block, $fc1)),
                ("stages.{s}.blocks.{i}.mlp.fc2", concat!($block, $fc2)),
                ("stages.{s}.blocks.{i}.mlp.grn.weight", concat!($block, $grn_weight)),
                ("stages.{s}.blocks.{i}.mlp.grn.bias", concat!($block, $grn_bias)),
                ("stages.{s}.blocks.{i}.gamma", concat!($block, $gamma)),
                ("head.norm", $last),
                $($more),*
            ],
            ignored: $ignored,
            functional: &[],
            convert: None,
        }
    };
}

/// HF transformers' ConvNeXt, with the prefix of a version.
macro_rules! transformers {
    ($prefix:literal) => {
        layout!(
            "transformers",
            head: "classifier",
            prefixes: &[$prefix, ""],
            stem: ["embeddings.patch_embeddings", "embeddings.layernorm"],
            downsample: "encoder.stages.{s}.downsampling_layer",
            block: "encoder.stages.{s}.layers.{i}.",
            parts: ["dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"],
            grn: ["grn.weight", "grn.bias"],
            last: "layernorm",
            more: [],
            ignored: &[],
        )
    };
}

/// The original repositories of both versions, and DINOv3's.
const FACEBOOK: Layout = layout!(
    "facebook",
    head: "head",
    prefixes: &[""],
    stem: ["downsample_layers.0.0", "downsample_layers.0.1"],
    downsample: "downsample_layers.{s}",
    block: "stages.{s}.{i}.",
    parts: ["dwconv", "norm", "pwconv1", "pwconv2", "gamma"],
    grn: ["grn.gamma", "grn.beta"],
    last: "norm",
    more: [],
    // The rest of a masked autoencoder; the last norm under a second name in DINOv3's files.
    ignored: &["mask_token", "decoder.", "proj.", "pred.", "norms."],
);

/// The image tower of open_clip, which is timm's network. A projection behind it is a head.
const OPEN_CLIP: Layout = layout!(
    "open_clip",
    head: "head.mlp.fc2",
    prefixes: &["visual."],
    stem: ["trunk.stem.0", "trunk.stem.1"],
    downsample: "trunk.stages.{s}.downsample",
    block: "trunk.stages.{s}.blocks.{i}.",
    parts: ["conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"],
    grn: ["mlp.grn.weight", "mlp.grn.bias"],
    last: "trunk.head.norm",
    more: [
        ("norm_pre", "trunk.norm_pre"),
        ("head.pre_logits.fc", "head.mlp.fc1"),
        ("head.weight", "visual.head.proj.weight")
    ],
    // The text tower, as open_clip saves it inside its model or as one of its own.
    ignored: &[
        "transformer.",
        "token_embedding.",
        "positional_embedding",
        "ln_final.",
        "text_projection",
        "logit_scale",
        "logit_bias",
        "attn_mask",
        "text.",
    ],
);

const TORCHVISION: Layout = layout!(
    "torchvision",
    head: "classifier.2",
    prefixes: &[""],
    stem: ["features.0.0", "features.0.1"],
    // Stages and downsamplings take turns in one sequence: after the stem at 0 come the blocks of stage 0 at 1, the
    // downsampling before stage 1 at 2, and so on.
    downsample: "features.{2s}",
    block: "features.{2s+1}.{i}.",
    parts: ["block.0", "block.2", "block.3", "block.5", "layer_scale"],
    // It does not have version 2.
    grn: ["grn.weight", "grn.bias"],
    last: "classifier.0",
    more: [],
    ignored: &[],
);

/// HF transformers' DINOv3 with a ConvNeXt. Its modules have the prefix, except the last norm, which is beside what
/// the prefix names; its files have it nowhere.
const DINOV3: Layout = layout!(
    "transformers-dinov3",
    head: "classifier",
    prefixes: &["model.", ""],
    stem: ["stages.0.downsample_layers.0", "stages.0.downsample_layers.1"],
    downsample: "stages.{s}.downsample_layers",
    block: "stages.{s}.layers.{i}.",
    parts: ["depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2", "gamma"],
    grn: ["grn.weight", "grn.bias"],
    last: "layer_norm",
    more: [],
    ignored: &["layer_norm."],
);

/// The layouts of version 1.
pub(crate) const V1: [Layout; 5] = [
    TORCHVISION,
    transformers!("convnext."),
    DINOV3,
    FACEBOOK,
    OPEN_CLIP,
];

/// The layouts of version 2.
pub(crate) const V2: [Layout; 3] = [transformers!("convnextv2."), FACEBOOK, OPEN_CLIP];

/// The layouts of both.
pub(crate) const ALL: [Layout; 6] = [
    TORCHVISION,
    transformers!("convnext."),
    transformers!("convnextv2."),
    DINOV3,
    FACEBOOK,
    OPEN_CLIP,
];
