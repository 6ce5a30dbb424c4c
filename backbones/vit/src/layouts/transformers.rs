//! The names of HF transformers, which changed with version 5.

use peft_core::layout::Layout;

use super::dinov2::from_dinov2;

/// A layout: its name, the library's prefixes, and the names inside a block: attention's three
/// projections and its output, the MLP's two layers, the norms, and what only some networks have.
macro_rules! layout {
    ($name:literal, $prefixes:expr, $block:literal, $query:literal, $key:literal, $value:literal,
     $output:literal, $fc1:literal, $fc2:literal, $norm1:literal, $norm2:literal,
     [$(($ours:literal, $theirs:literal)),*], $ignored:expr, $convert:expr) => {
        Layout {
            name: $name,
            head: "classifier",
            prefixes: $prefixes,
            rules: &[
                ("cls_token", "embeddings.cls_token"),
                ("pos_embed", "embeddings.position_embeddings"),
                ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
                ("blocks.{i}.norm1", concat!($block, $norm1)),
                ("blocks.{i}.attn.query", concat!($block, $query)),
                ("blocks.{i}.attn.key", concat!($block, $key)),
                ("blocks.{i}.attn.value", concat!($block, $value)),
                ("blocks.{i}.attn.proj", concat!($block, $output)),
                ("blocks.{i}.norm2", concat!($block, $norm2)),
                ("blocks.{i}.mlp.fc1", concat!($block, $fc1)),
                ("blocks.{i}.mlp.fc2", concat!($block, $fc2)),
                ("norm", "layernorm"),
                $(($ours, $theirs)),*
            ],
            ignored: $ignored,
            functional: &[],
            convert: $convert,
        }
    };
}

/// The names of DINOv2 that a ViT does not have, with and without registers.
macro_rules! dinov2 {
    ($name:literal, $query:literal, $key:literal, $value:literal, $output:literal, $fc1:literal, $fc2:literal) => {
        layout!(
            $name,
            &["dinov2.", "dinov2_with_registers.", ""],
            "encoder.layer.{i}.",
            $query,
            $key,
            $value,
            $output,
            $fc1,
            $fc2,
            "norm1",
            "norm2",
            [
                ("reg_token", "embeddings.register_tokens"),
                (
                    "blocks.{i}.ls1.gamma",
                    "encoder.layer.{i}.layer_scale1.lambda1"
                ),
                (
                    "blocks.{i}.ls2.gamma",
                    "encoder.layer.{i}.layer_scale2.lambda1"
                )
            ],
            &["embeddings.mask_token"],
            Some(from_dinov2)
        )
    };
}

/// ViT, DeiT and the encoder of ViTMAE, then DINOv2 without and with a gate in the MLPs: version 5, and before.
#[rustfmt::skip]
pub(super) const TRANSFORMERS: [Layout; 6] = [
    layout!(
        "transformers", &["vit.", "deit.", ""], "layers.{i}.",
        "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
        "mlp.fc1", "mlp.fc2", "layernorm_before", "layernorm_after",
        [], &["pooler.", "embeddings.mask_token", "decoder."], None
    ),
    layout!(
        "transformers-4", &["vit.", "deit.", ""], "encoder.layer.{i}.",
        "attention.attention.query", "attention.attention.key", "attention.attention.value",
        "attention.output.dense", "intermediate.dense", "output.dense", "layernorm_before",
        "layernorm_after",
        [], &["pooler.", "embeddings.mask_token", "decoder."], None
    ),
    dinov2!(
        "transformers-dinov2", "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
        "mlp.fc1", "mlp.fc2"
    ),
    dinov2!(
        "transformers-4-dinov2", "attention.attention.query", "attention.attention.key",
        "attention.attention.value", "attention.output.dense", "mlp.fc1", "mlp.fc2"
    ),
    dinov2!(
        "transformers-dinov2-gated", "attention.q_proj", "attention.k_proj", "attention.v_proj",
        "attention.o_proj", "mlp.weights_in", "mlp.weights_out"
    ),
    dinov2!(
        "transformers-4-dinov2-gated", "attention.attention.query", "attention.attention.key",
        "attention.attention.value", "attention.output.dense", "mlp.weights_in", "mlp.weights_out"
    ),
];
