//! How HF transformers spells a CLIP image encoder's weights.

use burn::tensor::TensorData;
use peft_core::layout::Layout;
use peft_core::params::floats;

/// HF transformers, with and without the prefix that older files have.
pub(crate) const LAYOUTS: [Layout; 1] = [Layout {
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
    ],
    // The other tower of whole CLIP files.
    ignored: &[
        "text_model.",
        "text_projection.",
        "logit_scale",
        "embeddings.position_ids",
    ],
    convert: Some(with_axes),
}];

/// Embeddings have no axis for the batch there.
fn with_axes(name: &str, data: TensorData) -> TensorData {
    match (name, &data.shape().to_vec()[..]) {
        ("cls_token", &[d]) => TensorData::new(floats(data), [1, 1, d]),
        ("pos_embed", &[n, d]) => TensorData::new(floats(data), [1, n, d]),
        _ => data,
    }
}
