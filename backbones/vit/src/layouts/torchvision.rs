//! The names of torchvision.

use peft_core::layout::Layout;

/// A layout: its name and the names of the two layers of an MLP, in which the versions differ.
macro_rules! layout {
    ($name:literal, $fc1:literal, $fc2:literal) => {
        Layout {
            name: $name,
            head: "heads.head",
            prefixes: &[""],
            rules: &[
                ("cls_token", "class_token"),
                ("pos_embed", "encoder.pos_embedding"),
                ("patch_embed.proj", "conv_proj"),
                ("blocks.{i}.norm1", "encoder.layers.encoder_layer_{i}.ln_1"),
                (
                    "blocks.{i}.attn.qkv.weight",
                    "encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight",
                ),
                (
                    "blocks.{i}.attn.qkv.bias",
                    "encoder.layers.encoder_layer_{i}.self_attention.in_proj_bias",
                ),
                (
                    "blocks.{i}.attn.proj",
                    "encoder.layers.encoder_layer_{i}.self_attention.out_proj",
                ),
                ("blocks.{i}.norm2", "encoder.layers.encoder_layer_{i}.ln_2"),
                (
                    "blocks.{i}.mlp.fc1",
                    concat!("encoder.layers.encoder_layer_{i}.mlp.", $fc1),
                ),
                (
                    "blocks.{i}.mlp.fc2",
                    concat!("encoder.layers.encoder_layer_{i}.mlp.", $fc2),
                ),
                ("norm", "encoder.ln"),
            ],
            // The hidden layer of a head with a `representation_size`. Such a head is not read.
            ignored: &["heads.pre_logits."],
            functional: &["blocks.{i}.attn.proj"],
            convert: None,
        }
    };
}

/// Today's names, and those until torchvision 0.13, which the files that it publishes have to this day.
pub(super) const TORCHVISION: [Layout; 2] = [
    layout!("torchvision", "0", "3"),
    layout!("torchvision-0.13", "linear_1", "linear_2"),
];
