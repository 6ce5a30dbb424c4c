//! The names that other libraries give the parameters of a Swin Transformer.

use burn::tensor::TensorData;
use peft_core::layout::{Layout, Others};

/// The rule of a part of a block: its name here, and what follows `$theirs` there.
macro_rules! part {
    ($start:literal, $ours:literal, $theirs:literal) => {
        (
            concat!("layers.{s}.blocks.{i}.", $ours),
            concat!($start, $theirs),
        )
    };
}

/// A layout of HF transformers: its name, its prefix, and the names inside a block.
macro_rules! transformers {
    ($name:literal, $prefix:literal, $ignored:expr, $(($ours:literal, $theirs:literal)),* $(,)?) => {
        Layout {
            name: $name,
            head: "classifier",
            prefixes: &[$prefix, ""],
            rules: &[
                ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
                ("patch_embed.norm", "embeddings.norm"),
                (
                    "layers.{s}.downsample.norm",
                    "encoder.layers.{s-1}.downsample.norm",
                ),
                (
                    "layers.{s}.downsample.reduction",
                    "encoder.layers.{s-1}.downsample.reduction",
                ),
                part!("encoder.layers.{s}.blocks.{i}.", "norm1", "layernorm_before"),
                part!("encoder.layers.{s}.blocks.{i}.", "norm2", "layernorm_after"),
                $(part!("encoder.layers.{s}.blocks.{i}.", $ours, $theirs),)*
                ("norm", "layernorm"),
            ],
            ignored: $ignored,
            functional: &[],
            convert: None,
        }
    };
}

/// Microsoft's names, which differ from timm's in the downsamplings, and the parts of attention.
macro_rules! microsoft {
    ($($attention:literal),*) => {
        Layout {
            name: "microsoft",
            head: "head",
            prefixes: &[""],
            rules: &[
                ("patch_embed.proj", "patch_embed.proj"),
                ("patch_embed.norm", "patch_embed.norm"),
                ("layers.{s}.downsample.norm", "layers.{s-1}.downsample.norm"),
                (
                    "layers.{s}.downsample.reduction",
                    "layers.{s-1}.downsample.reduction",
                ),
                part!("layers.{s}.blocks.{i}.", "norm1", "norm1"),
                part!("layers.{s}.blocks.{i}.", "attn.qkv", "attn.qkv"),
                $(part!("layers.{s}.blocks.{i}.", $attention, $attention),)*
                part!("layers.{s}.blocks.{i}.", "attn.proj", "attn.proj"),
                part!("layers.{s}.blocks.{i}.", "norm2", "norm2"),
                part!("layers.{s}.blocks.{i}.", "mlp.fc1", "mlp.fc1"),
                part!("layers.{s}.blocks.{i}.", "mlp.fc2", "mlp.fc2"),
                ("norm", "norm"),
            ],
            // Buffers that follow from the sizes.
            ignored: &[
                "layers.{s}.blocks.{i}.attn.relative_position_index",
                "layers.{s}.blocks.{i}.attn.relative_coords_table",
                "layers.{s}.blocks.{i}.attn_mask",
            ],
            functional: &[],
            convert: None,
        }
    };
}

/// torchvision's names, and those of the parts of attention, which come before the projection as a whole.
/// Stages and downsamplings take turns in one sequence there: after the embedding at 0 come the blocks of
/// stage 0 at 1, the downsampling before stage 1 at 2, and so on.
macro_rules! torchvision {
    ($convert:expr, $(($ours:literal, $theirs:literal)),* $(,)?) => {
        Layout {
            name: "torchvision",
            head: "head",
            prefixes: &[""],
            rules: &[
                ("patch_embed.proj", "features.0.0"),
                ("patch_embed.norm", "features.0.2"),
                ("layers.{s}.downsample.norm", "features.{2s}.norm"),
                ("layers.{s}.downsample.reduction", "features.{2s}.reduction"),
                part!("features.{2s+1}.{i}.", "norm1", "norm1"),
                $(part!("features.{2s+1}.{i}.", $ours, $theirs),)*
                part!("features.{2s+1}.{i}.", "attn.qkv", "attn.qkv"),
                part!("features.{2s+1}.{i}.", "attn.proj", "attn.proj"),
                part!("features.{2s+1}.{i}.", "norm2", "norm2"),
                part!("features.{2s+1}.{i}.", "mlp.fc1", "mlp.0"),
                part!("features.{2s+1}.{i}.", "mlp.fc2", "mlp.3"),
                ("norm", "norm"),
            ],
            // These follow from the sizes.
            ignored: &[
                "features.{2s+1}.{i}.attn.relative_position_index",
                "features.{2s+1}.{i}.attn.relative_coords_table",
            ],
            functional: &["layers.{s}.blocks.{i}.attn.qkv", "layers.{s}.blocks.{i}.attn.proj"],
            convert: $convert,
        }
    };
}

/// The first version. Microsoft's repository and timm before 0.9; HF transformers, the modules since
/// version 5 and the files of all versions. In these three a downsampling ends the stage before it, whereas
/// in timm it begins the next one. torchvision.
pub(crate) const ONE: [Layout; 4] = [
    microsoft!("attn.relative_position_bias_table"),
    transformers!(
        "transformers",
        "swin.",
        &[],
        ("attn.query", "attention.q_proj"),
        ("attn.key", "attention.k_proj"),
        ("attn.value", "attention.v_proj"),
        (
            "attn.relative_position_bias_table",
            "attention.relative_position_bias.relative_position_bias_table"
        ),
        ("attn.proj", "attention.o_proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ),
    transformers!(
        "transformers-4",
        "swin.",
        // A buffer that follows from the sizes.
        &["encoder.layers.{s}.blocks.{i}.attention.self.relative_position_index"],
        ("attn.query", "attention.self.query"),
        ("attn.key", "attention.self.key"),
        ("attn.value", "attention.self.value"),
        (
            "attn.relative_position_bias_table",
            "attention.self.relative_position_bias_table"
        ),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ),
    torchvision!(
        None,
        (
            "attn.relative_position_bias_table",
            "attn.relative_position_bias_table"
        ),
    ),
];

/// The second version: Microsoft, HF transformers (one spelling in all versions) and torchvision, whose
/// `qkv.bias` holds three thirds of which the network ignores the middle one, the keys'.
pub(crate) const TWO: [Layout; 3] = [
    microsoft!(
        "attn.q_bias",
        "attn.v_bias",
        "attn.logit_scale",
        "attn.cpb_mlp.{n}"
    ),
    transformers!(
        "transformers",
        "swinv2.",
        // Buffers that follow from the sizes.
        &[
            "encoder.layers.{s}.blocks.{i}.attention.self.relative_position_index",
            "encoder.layers.{s}.blocks.{i}.attention.self.relative_coords_table",
        ],
        ("attn.q_bias", "attention.self.query.bias"),
        ("attn.v_bias", "attention.self.value.bias"),
        ("attn.logit_scale", "attention.self.logit_scale"),
        (
            "attn.cpb_mlp.{n}",
            "attention.self.continuous_position_bias_mlp.{n}"
        ),
        ("attn.query", "attention.self.query"),
        ("attn.key", "attention.self.key"),
        ("attn.value", "attention.self.value"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ),
    torchvision!(
        Some(third_of_bias),
        ("attn.q_bias", "attn.qkv.bias"),
        ("attn.v_bias", "attn.qkv.bias"),
        ("attn.logit_scale", "attn.logit_scale"),
        ("attn.cpb_mlp.{n}", "attn.cpb_mlp.{n}"),
        ("attn.relative_coords_table", "attn.relative_coords_table"),
    ),
];

/// All of them, for recognition.
pub(crate) const LAYOUTS: [Layout; 7] = {
    let [a, b, c, d] = ONE;
    let [e, f, g] = TWO;
    [a, b, c, d, e, f, g]
};

/// The part of torchvision's `qkv.bias` that is the bias of queries or of values.
fn third_of_bias(name: &str, data: TensorData, _: Others) -> TensorData {
    let third = match name.rsplit_once('.') {
        Some((_, "q_bias")) => 0,
        Some((_, "v_bias")) => 2,
        _ => return data,
    };
    let values = peft_core::params::floats(data);
    let width = values.len() / 3;
    TensorData::new(values[third * width..][..width].to_vec(), [width])
}
