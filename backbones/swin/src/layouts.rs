//! The names that other libraries give the parameters of a Swin Transformer.

use peft_core::layout::Layout;

/// A layout of HF transformers: its name, and the names inside a block in which the versions differ.
macro_rules! transformers {
    ($name:literal, $query:literal, $key:literal, $value:literal, $table:literal, $output:literal,
     $fc1:literal, $fc2:literal, $ignored:expr) => {
        Layout {
            name: $name,
            head: "classifier",
            prefixes: &["swin.", ""],
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
                block!("norm1", "layernorm_before"),
                block!("attn.query", $query),
                block!("attn.key", $key),
                block!("attn.value", $value),
                block!("attn.relative_position_bias_table", $table),
                block!("attn.proj", $output),
                block!("norm2", "layernorm_after"),
                block!("mlp.fc1", $fc1),
                block!("mlp.fc2", $fc2),
                ("norm", "layernorm"),
            ],
            ignored: $ignored,
            convert: None,
        }
    };
}

/// The rule of a module in a block.
macro_rules! block {
    ($ours:literal, $theirs:literal) => {
        (
            concat!("layers.{s}.blocks.{i}.", $ours),
            concat!("encoder.layers.{s}.blocks.{i}.", $theirs),
        )
    };
}

/// Microsoft's repository and timm before 0.9; HF transformers, the modules since version 5 and the
/// files of all versions. In these three a downsampling ends the stage before it, whereas in timm it
/// begins the next one. torchvision.
pub(crate) const LAYOUTS: [Layout; 4] = [
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
            ("layers.{s}.blocks.{i}.norm1", "layers.{s}.blocks.{i}.norm1"),
            (
                "layers.{s}.blocks.{i}.attn.qkv",
                "layers.{s}.blocks.{i}.attn.qkv",
            ),
            (
                "layers.{s}.blocks.{i}.attn.relative_position_bias_table",
                "layers.{s}.blocks.{i}.attn.relative_position_bias_table",
            ),
            (
                "layers.{s}.blocks.{i}.attn.proj",
                "layers.{s}.blocks.{i}.attn.proj",
            ),
            ("layers.{s}.blocks.{i}.norm2", "layers.{s}.blocks.{i}.norm2"),
            (
                "layers.{s}.blocks.{i}.mlp.fc1",
                "layers.{s}.blocks.{i}.mlp.fc1",
            ),
            (
                "layers.{s}.blocks.{i}.mlp.fc2",
                "layers.{s}.blocks.{i}.mlp.fc2",
            ),
            ("norm", "norm"),
        ],
        // Buffers that follow from the sizes.
        ignored: &[
            "layers.{s}.blocks.{i}.attn.relative_position_index",
            "layers.{s}.blocks.{i}.attn_mask",
        ],
        convert: None,
    },
    transformers!(
        "transformers",
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention.relative_position_bias.relative_position_bias_table",
        "attention.o_proj",
        "mlp.fc1",
        "mlp.fc2",
        &[]
    ),
    transformers!(
        "transformers-4",
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.self.relative_position_bias_table",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
        // A buffer that follows from the sizes.
        &["encoder.layers.{s}.blocks.{i}.attention.self.relative_position_index"]
    ),
    // Stages and downsamplings take turns in one sequence there: after the embedding at 0 come the blocks
    // of stage 0 at 1, the downsampling before stage 1 at 2, and so on.
    Layout {
        name: "torchvision",
        head: "head",
        prefixes: &[""],
        rules: &[
            ("patch_embed.proj", "features.0.0"),
            ("patch_embed.norm", "features.0.2"),
            ("layers.{s}.downsample.norm", "features.{2s}.norm"),
            ("layers.{s}.downsample.reduction", "features.{2s}.reduction"),
            ("layers.{s}.blocks.{i}.norm1", "features.{2s+1}.{i}.norm1"),
            (
                "layers.{s}.blocks.{i}.attn.qkv",
                "features.{2s+1}.{i}.attn.qkv",
            ),
            (
                "layers.{s}.blocks.{i}.attn.relative_position_bias_table",
                "features.{2s+1}.{i}.attn.relative_position_bias_table",
            ),
            (
                "layers.{s}.blocks.{i}.attn.proj",
                "features.{2s+1}.{i}.attn.proj",
            ),
            ("layers.{s}.blocks.{i}.norm2", "features.{2s+1}.{i}.norm2"),
            ("layers.{s}.blocks.{i}.mlp.fc1", "features.{2s+1}.{i}.mlp.0"),
            ("layers.{s}.blocks.{i}.mlp.fc2", "features.{2s+1}.{i}.mlp.3"),
            ("norm", "norm"),
        ],
        // The index follows from the sizes.
        ignored: &["features.{2s+1}.{i}.attn.relative_position_index"],
        convert: None,
    },
];
