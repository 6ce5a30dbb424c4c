//! The names that other libraries give the parameters of a Vision Transformer.

mod dinov2;
mod dinov3;
mod eva;
mod google;
mod rows;
mod siglip;
mod torchvision;
mod transformers;

use peft_core::layout::Layout;

use crate::architecture::{GlobalPool, MlpActivation};
use dinov2::from_dinov2;
use eva::EVA;
use google::GOOGLE;
use torchvision::TORCHVISION;
use transformers::TRANSFORMERS;

/// HF transformers since version 5 and before, both again for DINOv2; the files that DINO, DINOv2 and
/// DeiT III publish; Google's archives; torchvision; the image towers in open_clip's files that are
/// timm's; MAE and MoCo v3; DINOv3 and SigLIP of transformers; the files of DINOv3 and EVA-02.
pub(crate) const LAYOUTS: [Layout; 25] = [
    TRANSFORMERS[0],
    TRANSFORMERS[1],
    TRANSFORMERS[2],
    TRANSFORMERS[3],
    DINO,
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
        functional: &[],
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
        functional: &[],
        convert: None,
    },
    TRANSFORMERS[4],
    TRANSFORMERS[5],
    Layout {
        name: "dino-gated",
        rules: &[
            ("reg_token", "register_tokens"),
            ("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.w12"),
            ("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3"),
            ("{*}", "{*}"),
        ],
        ..DINO
    },
    Layout {
        name: "mae",
        head: "head",
        prefixes: &[""],
        rules: &[("{*}", "{*}")],
        // The other half of the pretraining, and SigLIP's pool, under timm's and transformers' names, where
        // features are averaged.
        ignored: &[
            "mask_token",
            "decoder_",
            "attn_pool.",
            "head.probe",
            "head.attention.",
            "head.layernorm.",
            "head.mlp.fc1.",
            "head.mlp.fc2.",
        ],
        functional: &[],
        convert: None,
    },
    Layout {
        name: "moco-v3",
        head: "head",
        prefixes: &["module.base_encoder."],
        rules: &[("{*}", "{*}")],
        // The projector in the place of a head, the slowly following encoder, and the predictor.
        ignored: &["base_encoder.head.", "momentum_encoder.", "predictor."],
        functional: &[],
        convert: None,
    },
    dinov3::TRANSFORMERS[0],
    dinov3::TRANSFORMERS[1],
    dinov3::TRANSFORMERS[2],
    dinov3::TRANSFORMERS[3],
    dinov3::ORIGINAL[0],
    dinov3::ORIGINAL[1],
    siglip::TRANSFORMERS,
    EVA[0],
    EVA[1],
    EVA[2],
];

/// DINO's and DINOv2's own files.
const DINO: Layout = Layout {
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
    functional: &[],
    convert: Some(from_dinov2),
};

/// The options that a library sets otherwise than timm for the same weights.
#[derive(Clone, Copy, Default)]
pub(crate) struct Library {
    /// Epsilon of the norms.
    pub epsilon: Option<f64>,
    /// Activation of the MLPs.
    pub act_layer: Option<MlpActivation>,
    /// Pooling of DINOv3.
    pub global_pool: Option<GlobalPool>,
}

impl Library {
    /// The options of the library whose names a layout has.
    pub fn of(layout: &str) -> Self {
        let silent = Self::default();
        match layout {
            "transformers" | "transformers-4" => Self {
                epsilon: Some(1e-12),
                ..silent
            },
            "transformers-siglip" => Self {
                act_layer: Some(MlpActivation::GeluTanh),
                ..silent
            },
            layout if layout.contains("dinov3") => Self {
                global_pool: Some(GlobalPool::Token),
                ..silent
            },
            _ => silent,
        }
    }
}
