//! The names that other libraries give the parameters of a Swin Transformer.

use peft_core::layout::Layout;

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
    Layout {
        name: "transformers",
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
            (
                "layers.{s}.blocks.{i}.norm1",
                "encoder.layers.{s}.blocks.{i}.layernorm_before",
            ),
            (
                "layers.{s}.blocks.{i}.attn.query",
                "encoder.layers.{s}.blocks.{i}.attention.q_proj",
            ),
            (
                "layers.{s}.blocks.{i}.attn.key",
                "encoder.layers.{s}.blocks.{i}.attention.k_proj",
            ),
            (
                "layers.{s}.blocks.{i}.attn.value",
                "encoder.layers.{s}.blocks.{i}.attention.v_proj",
            ),
            (
                "layers.{s}.blocks.{i}.attn.relative_position_bias_table",
                "encoder.layers.{s}.blocks.{i}.attention.relative_position_bias.relative_position_bias_table",
            ),
            (
                "layers.{s}.blocks.{i}.attn.proj",
                "encoder.layers.{s}.blocks.{i}.attention.o_proj",
            ),
            (
                "layers.{s}.blocks.{i}.norm2",
                "encoder.layers.{s}.blocks.{i}.layernorm_after",
            ),
            (
                "layers.{s}.blocks.{i}.mlp.fc1",
                "encoder.layers.{s}.blocks.{i}.mlp.fc1",
            ),
            (
                "layers.{s}.blocks.{i}.mlp.fc2",
                "encoder.layers.{s}.blocks.{i}.mlp.fc2",
            ),
            ("norm", "layernorm"),
        ],
        ignored: &[],
        convert: None,
    },
    Layout {
        name: "transformers-4",
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
            (
                "layers.{s}.blocks.{i}.norm1",
                "encoder.layers.{s}.blocks.{i}.layernorm_before",
            ),
            (
                "layers.{s}.blocks.{i}.attn.query",
                "encoder.layers.{s}.blocks.{i}.attention.self.query",
            ),
            (
                "layers.{s}.blocks.{i}.attn.key",
                "encoder.layers.{s}.blocks.{i}.attention.self.key",
            ),
            (
                "layers.{s}.blocks.{i}.attn.value",
                "encoder.layers.{s}.blocks.{i}.attention.self.value",
            ),
            (
                "layers.{s}.blocks.{i}.attn.relative_position_bias_table",
                "encoder.layers.{s}.blocks.{i}.attention.self.relative_position_bias_table",
            ),
            (
                "layers.{s}.blocks.{i}.attn.proj",
                "encoder.layers.{s}.blocks.{i}.attention.output.dense",
            ),
            (
                "layers.{s}.blocks.{i}.norm2",
                "encoder.layers.{s}.blocks.{i}.layernorm_after",
            ),
            (
                "layers.{s}.blocks.{i}.mlp.fc1",
                "encoder.layers.{s}.blocks.{i}.intermediate.dense",
            ),
            (
                "layers.{s}.blocks.{i}.mlp.fc2",
                "encoder.layers.{s}.blocks.{i}.output.dense",
            ),
            ("norm", "layernorm"),
        ],
        // A buffer that follows from the sizes.
        ignored: &["encoder.layers.{s}.blocks.{i}.attention.self.relative_position_index"],
        convert: None,
    },
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
