//! The names that other libraries give the parameters of a Vision Transformer.

mod dinov2;
mod google;
mod torchvision;
mod transformers;

use peft_core::layout::Layout;

use dinov2::from_dinov2;
use google::GOOGLE;
use torchvision::TORCHVISION;
use transformers::TRANSFORMERS;

/// HF transformers since version 5 and before, both again for DINOv2; the files that DINO, DINOv2 and
/// DeiT III publish; Google's archives; torchvision; the image towers in open_clip's files that are
/// timm's.
pub(crate) const LAYOUTS: [Layout; 10] = [
    TRANSFORMERS[0],
    TRANSFORMERS[1],
    TRANSFORMERS[2],
    TRANSFORMERS[3],
    Layout {
        name: "dino",
        head: "head",
        prefixes: &["", "backbone.", "module.backbone."],
        rules: &[("reg_token", "register_tokens"), ("{*}", "{*}")],
        // The token that replaces hidden patches, and the heads of the self-supervised training.
        ignored: &[
            "mask_token",
            "head.mlp.",
            "head.last_layer.",
            "module.head.",
        ],
        convert: Some(from_dinov2),
    },
    Layout {
        name: "deit",
        head: "head",
        prefixes: &[""],
        rules: &[
            ("blocks.{i}.ls1.gamma", "blocks.{i}.gamma_1"),
            ("blocks.{i}.ls2.gamma", "blocks.{i}.gamma_2"),
            ("{*}", "{*}"),
        ],
        ignored: &[],
        convert: None,
    },
    GOOGLE,
    TORCHVISION[0],
    TORCHVISION[1],
    Layout {
        name: "open_clip",
        head: "head",
        prefixes: &["visual.trunk."],
        rules: &[("{*}", "{*}")],
        // The text tower, and what open_clip puts behind the image tower.
        ignored: &[
            "visual.head.",
            "text.",
            "transformer.",
            "token_embedding.",
            "positional_embedding",
            "ln_final.",
            "text_projection",
            "logit_scale",
            "logit_bias",
        ],
        convert: None,
    },
];
