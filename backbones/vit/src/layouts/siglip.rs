//! The names of HF transformers for the vision towers of SigLIP and of SigLIP 2 at a fixed resolution.

use burn::tensor::TensorData;
use peft_core::layout::{Layout, Others};
use peft_core::params::floats;

use super::rows::{part, span};

/// A whole model has its vision tower below `vision_model.`; a tower that was saved alone has no prefix.
pub(super) const TRANSFORMERS: Layout = Layout {
    name: "transformers-siglip",
    head: "classifier",
    prefixes: &["vision_model.", "", "vision_model.vision_model."],
    rules: &[
        ("pos_embed", "embeddings.position_embedding.weight"),
        ("patch_embed.proj", "embeddings.patch_embedding"),
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
        ("attn_pool.latent", "head.probe"),
        ("attn_pool.q.weight", "head.attention.in_proj_weight"),
        ("attn_pool.q.bias", "head.attention.in_proj_bias"),
        ("attn_pool.kv.weight", "head.attention.in_proj_weight"),
        ("attn_pool.kv.bias", "head.attention.in_proj_bias"),
        ("attn_pool.proj", "head.attention.out_proj"),
        ("attn_pool.norm", "head.layernorm"),
        ("attn_pool.mlp.fc1", "head.mlp.fc1"),
        ("attn_pool.mlp.fc2", "head.mlp.fc2"),
    ],
    // The text tower.
    ignored: &[
        "text_model.",
        "logit_scale",
        "logit_bias",
        "embeddings.position_ids",
    ],
    functional: &["attn_pool.proj"],
    convert: Some(cut),
};

/// Position embeddings have no axis for the batch, and the pool projects queries, keys and values in one layer.
fn cut(name: &str, data: TensorData, _: Others) -> TensorData {
    match (name, &data.shape().to_vec()[..]) {
        ("pos_embed", &[n, d]) => TensorData::new(floats(data), [1, n, d]),
        ("attn_pool.q.weight" | "attn_pool.q.bias", _) => part(data, 3, 0),
        ("attn_pool.kv.weight" | "attn_pool.kv.bias", _) => span(data, 3, 1, 2),
        _ => data,
    }
}
