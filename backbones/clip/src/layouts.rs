//! The names that libraries give the parameters of a CLIP image encoder.

use burn::tensor::TensorData;
use peft_core::layout::{Layout, Others, transposed};
use peft_core::params::floats;

/// timm, which keeps the projection in the place of a classifier; OpenAI, whose names open_clip uses
/// too; HF transformers, with and without the prefix of older files.
pub(crate) const LAYOUTS: [Layout; 3] = [
    Layout {
        name: "timm",
        head: "head",
        prefixes: &[""],
        // The first rule that matches counts; the second leaves all other names as they are.
        rules: &[("projection.weight", "head.weight"), ("{*}", "{*}")],
        ignored: &[],
        functional: &[],
        convert: None,
    },
    Layout {
        name: "openai",
        head: "classifier",
        prefixes: &[""],
        rules: &[
            ("cls_token", "visual.class_embedding"),
            ("pos_embed", "visual.positional_embedding"),
            ("patch_embed.proj", "visual.conv1"),
            ("norm_pre", "visual.ln_pre"),
            ("blocks.{i}.norm1", "visual.transformer.resblocks.{i}.ln_1"),
            (
                "blocks.{i}.attn.qkv.weight",
                "visual.transformer.resblocks.{i}.attn.in_proj_weight",
            ),
            (
                "blocks.{i}.attn.qkv.bias",
                "visual.transformer.resblocks.{i}.attn.in_proj_bias",
            ),
            (
                "blocks.{i}.attn.proj",
                "visual.transformer.resblocks.{i}.attn.out_proj",
            ),
            ("blocks.{i}.norm2", "visual.transformer.resblocks.{i}.ln_2"),
            (
                "blocks.{i}.mlp.fc1",
                "visual.transformer.resblocks.{i}.mlp.c_fc",
            ),
            (
                "blocks.{i}.mlp.fc2",
                "visual.transformer.resblocks.{i}.mlp.c_proj",
            ),
            ("norm", "visual.ln_post"),
            ("projection.weight", "visual.proj"),
        ],
        // The text tower, and the projection if the features are those before it.
        ignored: &[
            "transformer.",
            "token_embedding.",
            "positional_embedding",
            "ln_final.",
            "text_projection",
            "logit_scale",
            "input_resolution",
            "context_length",
            "vocab_size",
            "visual.proj",
        ],
        functional: &["blocks.{i}.attn.proj"],
        convert: Some(from_openai),
    },
    Layout {
        name: "transformers",
        head: "classifier",
        prefixes: &["vision_model.", "", "clip.vision_model."],
        rules: &[
            ("cls_token", "embeddings.class_embedding"),
            ("pos_embed", "embeddings.position_embedding.weight"),
            ("patch_embed.proj", "embeddings.patch_embedding"),
            ("norm_pre", "pre_layrnorm"),
            ("blocks.{i}.norm1", "encoder.layers.{i}.layer_norm1"),
            (
                "blocks.{i}.attn.query",
                "encoder.layers.{i}.self_attn.q_proj",
            ),
            ("blocks.{i}.attn.key", "encoder.layers.{i}.self_attn.k_proj"),
            (
                "blocks.{i}.attn.value",
                "encoder.layers.{i}.self_attn.v_proj",
            ),
            (
                "blocks.{i}.attn.proj",
                "encoder.layers.{i}.self_attn.out_proj",
            ),
            ("blocks.{i}.norm2", "encoder.layers.{i}.layer_norm2"),
            ("blocks.{i}.mlp.fc1", "encoder.layers.{i}.mlp.fc1"),
            ("blocks.{i}.mlp.fc2", "encoder.layers.{i}.mlp.fc2"),
            ("norm", "post_layernorm"),
            ("projection", "visual_projection"),
        ],
        // The text tower, and the projection if the features are those before it.
        ignored: &[
            "text_model.",
            "text_projection.",
            "logit_scale",
            "embeddings.position_ids",
            "visual_projection.",
        ],
        functional: &[],
        convert: Some(with_axes),
    },
];

/// OpenAI and transformers keep embeddings without an axis for the batch.
fn with_axes(name: &str, data: TensorData, _: Others) -> TensorData {
    match (name, &data.shape().to_vec()[..]) {
        ("cls_token", &[d]) => TensorData::new(floats(data), [1, 1, d]),
        ("pos_embed", &[n, d]) => TensorData::new(floats(data), [1, n, d]),
        _ => data,
    }
}

/// OpenAI keeps the projection transposed, besides embeddings without an axis for the batch.
fn from_openai(name: &str, data: TensorData, others: Others) -> TensorData {
    match (name, &data.shape().to_vec()[..]) {
        ("projection.weight", &[width, projected]) => transposed(data, width, projected),
        _ => with_axes(name, data, others),
    }
}
