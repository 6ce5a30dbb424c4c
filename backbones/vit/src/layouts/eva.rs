//! The names in the files of EVA-02's authors.

use peft_core::layout::Layout;

/// What else their files hold: the tables of the rotary embedding, in each block and once more, and the token
/// and the head of the pretraining.
const IGNORED: &[&str] = &["rope.", "blocks.{i}.attn.rope.", "mask_token", "lm_head."];

/// A layout: its name and its rules.
macro_rules! layout {
    ($name:literal, $rules:expr) => {
        Layout {
            name: $name,
            head: "head",
            prefixes: &["", "visual.", "visual.trunk."],
            rules: $rules,
            ignored: IGNORED,
            functional: &[],
            convert: None,
        }
    };
}

/// Base and large, with a projection each for queries, keys and values; tiny and small, with one; base and
/// large after masked pretraining, where `norm` is what becomes `fc_norm`.
pub(super) const EVA: [Layout; 3] = [
    layout!(
        "eva",
        &[
            ("blocks.{i}.attn.q_proj.bias", "blocks.{i}.attn.q_bias"),
            ("blocks.{i}.attn.v_proj.bias", "blocks.{i}.attn.v_bias"),
            ("blocks.{i}.attn.norm", "blocks.{i}.attn.inner_attn_ln"),
            ("blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.w1"),
            ("blocks.{i}.mlp.fc1_x", "blocks.{i}.mlp.w2"),
            ("blocks.{i}.mlp.norm", "blocks.{i}.mlp.ffn_ln"),
            ("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3"),
            ("{*}", "{*}"),
        ]
    ),
    layout!(
        "eva-packed",
        &[
            ("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.w12"),
            ("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3"),
            ("{*}", "{*}"),
        ]
    ),
    layout!(
        "eva-pretrained",
        &[
            ("blocks.{i}.attn.q_proj.bias", "blocks.{i}.attn.q_bias"),
            ("blocks.{i}.attn.v_proj.bias", "blocks.{i}.attn.v_bias"),
            ("blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.w1"),
            ("blocks.{i}.mlp.fc1_x", "blocks.{i}.mlp.w2"),
            ("blocks.{i}.mlp.norm", "blocks.{i}.mlp.ffn_ln"),
            ("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3"),
            ("fc_norm", "norm"),
            ("{*}", "{*}"),
        ]
    ),
];
