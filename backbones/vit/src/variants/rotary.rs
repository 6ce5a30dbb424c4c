//! DINOv3, EVA and EVA-02.

use peft_core::backbone::{CropMode, IMAGENET_MEAN, IMAGENET_STD};

use super::row::{BASE, LARGE, Row, SMALL, TINY, deit, swiglu, vit};
use crate::architecture::GlobalPool;
use crate::rope::RopeType;

/// Mean and standard deviation of CLIP's images, which EVA is trained on too.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// DINOv3: no position embedding but a rotary one, no bias at queries, keys and values, and the mean of the
/// normed patches.
const fn dinov3(size: [usize; 3]) -> Row {
    Row {
        qkv_bias: false,
        reg_tokens: 4,
        rope_type: Some(RopeType::Dinov3),
        init_values: Some(1e-5),
        global_pool: GlobalPool::Avg,
        crop_pct: 1.0,
        ..deit(256, 16, size)
    }
}

/// The same with biases at queries and values.
const fn qkvb(row: Row) -> Row {
    Row {
        qkv_bias: true,
        ..row
    }
}

/// DINOv3's largest.
const SEVENB: Row = Row {
    mlp_ratio: 2.0,
    ..swiglu(64, dinov3([4096, 40, 32]))
};

/// EVA-01: no bias at keys, the mean of the patches.
const fn eva(img_size: usize, crop_pct: f32, size: [usize; 3]) -> Row {
    Row {
        key_bias: Some(false),
        global_pool: GlobalPool::Avg,
        mean: CLIP_MEAN,
        std: CLIP_STD,
        crop_pct,
        ..vit(img_size, 14, size)
    }
}

/// EVA-01's large, a plain Vision Transformer.
const fn eva_large(img_size: usize, crop_pct: f32) -> Row {
    Row {
        key_bias: None,
        ..eva(img_size, crop_pct, LARGE)
    }
}

/// EVA-01's giant, whose hidden width is 6144.
const fn eva_giant(img_size: usize, crop_pct: f32) -> Row {
    Row {
        mlp_ratio: 6144.0 / 1408.0,
        ..eva(img_size, crop_pct, [1408, 40, 16])
    }
}

/// EVA-01's giant as CLIP's image encoder.
const EVA_GIANT_CLIP: Row = Row {
    global_pool: GlobalPool::Token,
    ..eva_giant(224, 0.9)
};

/// The same for the largest images, with ImageNet's mean and standard deviation.
const EVA_GIANT_560: Row = Row {
    mean: IMAGENET_MEAN,
    std: IMAGENET_STD,
    ..squash(eva_giant(560, 1.0))
};

/// EVA-02, tiny and small: rotary positions beside learned ones, gated MLPs with one first layer.
const fn eva02_small(img_size: usize, crop_pct: f32, size: [usize; 3]) -> Row {
    Row {
        mlp_ratio: 8.0 / 3.0,
        swiglu_mlp: true,
        rope_type: Some(RopeType::Cat),
        // 224 / 14: the grid of the pretraining, also of larger images.
        ref_feat_shape: Some([16, 16]),
        ..eva(img_size, crop_pct, size)
    }
}

/// EVA-02, base and large: a projection each for queries, keys and values, and a norm inside the MLPs.
const fn eva02(img_size: usize, crop_pct: f32, size: [usize; 3]) -> Row {
    Row {
        qkv_fused: false,
        scale_mlp: true,
        ..eva02_small(img_size, crop_pct, size)
    }
}

/// EVA-02 as CLIP's image encoder: a norm inside attention too, and the class token.
const fn eva02_clip(img_size: usize, patch_size: usize, crop_pct: f32, size: [usize; 3]) -> Row {
    Row {
        patch_size,
        scale_attn_inner: true,
        global_pool: GlobalPool::Token,
        ..eva02(img_size, crop_pct, size)
    }
}

/// Both sides of an image are resized.
const fn squash(row: Row) -> Row {
    Row {
        crop_mode: CropMode::Squash,
        ..row
    }
}

/// timm's variants.
pub(super) const VARIANTS: [(&str, Row); 29] = [
    ("vit_tiny_patch16_dinov3_qkvb", qkvb(dinov3(TINY))),
    ("vit_small_patch16_dinov3", dinov3(SMALL)),
    ("vit_small_patch16_dinov3_qkvb", qkvb(dinov3(SMALL))),
    ("vit_small_plus_patch16_dinov3", swiglu(8, dinov3(SMALL))),
    (
        "vit_small_plus_patch16_dinov3_qkvb",
        qkvb(swiglu(8, dinov3(SMALL))),
    ),
    ("vit_base_patch16_dinov3", dinov3(BASE)),
    ("vit_base_patch16_dinov3_qkvb", qkvb(dinov3(BASE))),
    ("vit_large_patch16_dinov3", dinov3(LARGE)),
    ("vit_large_patch16_dinov3_qkvb", qkvb(dinov3(LARGE))),
    (
        "vit_huge_plus_patch16_dinov3",
        swiglu(8, dinov3([1280, 32, 20])),
    ),
    (
        "vit_huge_plus_patch16_dinov3_qkvb",
        qkvb(swiglu(8, dinov3([1280, 32, 20]))),
    ),
    ("vit_7b_patch16_dinov3", SEVENB),
    ("eva_large_patch14_196", eva_large(196, 1.0)),
    ("eva_large_patch14_336", squash(eva_large(336, 1.0))),
    ("eva_giant_patch14_224", eva_giant(224, 0.9)),
    ("eva_giant_patch14_336", squash(eva_giant(336, 1.0))),
    ("eva_giant_patch14_560", EVA_GIANT_560),
    ("eva_giant_patch14_clip_224", EVA_GIANT_CLIP),
    ("eva02_tiny_patch14_224", eva02_small(224, 0.9, TINY)),
    ("eva02_tiny_patch14_336", eva02_small(336, 1.0, TINY)),
    ("eva02_small_patch14_224", eva02_small(224, 0.9, SMALL)),
    ("eva02_small_patch14_336", eva02_small(336, 1.0, SMALL)),
    ("eva02_base_patch14_224", eva02(224, 0.9, BASE)),
    ("eva02_base_patch14_448", squash(eva02(448, 1.0, BASE))),
    ("eva02_large_patch14_224", eva02(224, 0.9, LARGE)),
    ("eva02_large_patch14_448", squash(eva02(448, 1.0, LARGE))),
    (
        "eva02_base_patch16_clip_224",
        eva02_clip(224, 16, 0.9, BASE),
    ),
    (
        "eva02_large_patch14_clip_224",
        eva02_clip(224, 14, 0.9, LARGE),
    ),
    (
        "eva02_large_patch14_clip_336",
        eva02_clip(336, 14, 1.0, LARGE),
    ),
];
