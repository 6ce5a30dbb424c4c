//! DINOv3's names: those of its own files and of HF transformers.

use burn::tensor::TensorData;
use peft_core::layout::{Layout, Others};

use super::rows::part;

/// What else its own files hold: the token that replaces hidden patches, the mask of the projection's bias,
/// the periods of the rotary embedding in 16 bits, which are computed here, a norm of the training (7B), and
/// its heads.
const OWN_IGNORED: &[&str] = &[
    "mask_token",
    "blocks.{i}.attn.qkv.bias_mask",
    "rope_embed.periods",
    "local_cls_norm.",
    "projectors.",
    "dino_head.",
    "ibot_head.",
];

/// A layout of the original release: its name, and the names of a gated MLP's layers.
macro_rules! original {
    ($name:literal, [$($mlp:expr),*]) => {
        Layout {
            name: $name,
            head: "head",
            prefixes: &["", "backbone.", "module.backbone."],
            rules: &[
                ("reg_token", "storage_tokens"),
                ("blocks.{i}.gamma_1", "blocks.{i}.ls1.gamma"),
                ("blocks.{i}.gamma_2", "blocks.{i}.ls2.gamma"),
                ("blocks.{i}.attn.q_bias", "blocks.{i}.attn.qkv.bias"),
                ("blocks.{i}.attn.v_bias", "blocks.{i}.attn.qkv.bias"),
                $($mlp,)*
                ("{*}", "{*}"),
            ],
            ignored: OWN_IGNORED,
            functional: &[],
            convert: Some(masked),
        }
    };
}

/// The original release, without and with a gate in the MLPs.
pub(super) const ORIGINAL: [Layout; 2] = [
    original!("dinov3", []),
    original!(
        "dinov3-gated",
        [
            ("blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.w1"),
            ("blocks.{i}.mlp.fc1_x", "blocks.{i}.mlp.w2"),
            ("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3")
        ]
    ),
];

/// The bias of the projection counts where its mask is 1: for queries and values. The keys' part is left out
/// whatever it holds.
fn masked(name: &str, data: TensorData, _: Others) -> TensorData {
    match name.rsplit('.').next() {
        Some("q_bias") => part(data, 3, 0),
        Some("v_bias") => part(data, 3, 2),
        _ => data,
    }
}

/// A layout of transformers: its name, the names of a block, and of its MLP's layers.
macro_rules! transformers {
    ($name:literal, $block:literal, [$($mlp:expr),*]) => {
        Layout {
            name: $name,
            head: "classifier",
            prefixes: &["", "dinov3_vit.", "backbone."],
            rules: &[
                ("cls_token", "embeddings.cls_token"),
                ("reg_token", "embeddings.register_tokens"),
                ("patch_embed.proj", "embeddings.patch_embeddings"),
                ("blocks.{i}.norm1", concat!($block, "norm1")),
                ("blocks.{i}.attn.query", concat!($block, "attention.q_proj")),
                ("blocks.{i}.attn.key", concat!($block, "attention.k_proj")),
                ("blocks.{i}.attn.value", concat!($block, "attention.v_proj")),
                ("blocks.{i}.attn.q_bias", concat!($block, "attention.q_proj.bias")),
                ("blocks.{i}.attn.v_bias", concat!($block, "attention.v_proj.bias")),
                ("blocks.{i}.attn.proj", concat!($block, "attention.o_proj")),
                ("blocks.{i}.gamma_1", concat!($block, "layer_scale1.lambda1")),
                ("blocks.{i}.gamma_2", concat!($block, "layer_scale2.lambda1")),
                ("blocks.{i}.norm2", concat!($block, "norm2")),
                $($mlp,)*
                ("norm", "norm"),
            ],
            ignored: &["embeddings.mask_token"],
            functional: &[],
            convert: None,
        }
    };
}

/// Modules are `model.layer.i` since version 5, and `layer.i` before; files have the older names in both. Each
/// without and with a gate in the MLPs.
#[rustfmt::skip]
pub(super) const TRANSFORMERS: [Layout; 4] = [
    transformers!("transformers-dinov3", "model.layer.{i}.", [
        ("blocks.{i}.mlp.fc1", "model.layer.{i}.mlp.up_proj"),
        ("blocks.{i}.mlp.fc2", "model.layer.{i}.mlp.down_proj")
    ]),
    transformers!("transformers-4-dinov3", "layer.{i}.", [
        ("blocks.{i}.mlp.fc1", "layer.{i}.mlp.up_proj"),
        ("blocks.{i}.mlp.fc2", "layer.{i}.mlp.down_proj")
    ]),
    transformers!("transformers-dinov3-gated", "model.layer.{i}.", [
        ("blocks.{i}.mlp.fc1_g", "model.layer.{i}.mlp.gate_proj"),
        ("blocks.{i}.mlp.fc1_x", "model.layer.{i}.mlp.up_proj"),
        ("blocks.{i}.mlp.fc2", "model.layer.{i}.mlp.down_proj")
    ]),
    transformers!("transformers-4-dinov3-gated", "layer.{i}.", [
        ("blocks.{i}.mlp.fc1_g", "layer.{i}.mlp.gate_proj"),
        ("blocks.{i}.mlp.fc1_x", "layer.{i}.mlp.up_proj"),
        ("blocks.{i}.mlp.fc2", "layer.{i}.mlp.down_proj")
    ]),
];
