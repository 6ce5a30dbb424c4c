//! ViT, DeiT, DeiT III, DINO, DINOv2 and I-JEPA.

use super::row::{BASE, BETWIXT, HUGE, LARGE, MEDIUM, Row, SMALL, TINY, deit, swiglu, vit};
use crate::architecture::GlobalPool;

const fn deit3(img_size: usize, patch_size: usize, size: [usize; 3]) -> Row {
    Row {
        no_embed_class: true,
        init_values: Some(1e-6),
        ..deit(img_size, patch_size, size)
    }
}

const fn dinov2(reg_tokens: usize, size: [usize; 3]) -> Row {
    Row {
        reg_tokens,
        no_embed_class: reg_tokens > 0,
        init_values: Some(1e-5),
        ..deit(518, 14, size)
    }
}

/// Global average pooling of normed patches, without a class token.
const fn gap(row: Row) -> Row {
    Row {
        class_token: false,
        global_pool: GlobalPool::Avg,
        fc_norm: Some(false),
        ..row
    }
}

const fn medium_gap(img_size: usize, size: [usize; 3]) -> Row {
    Row {
        qkv_bias: false,
        init_values: Some(1e-6),
        ..gap(vit(img_size, 16, size))
    }
}

/// Global average pooling of patches with a norm afterwards, beside registers.
const fn reg_gap(img_size: usize, reg_tokens: usize, size: [usize; 3]) -> Row {
    Row {
        reg_tokens,
        no_embed_class: true,
        init_values: Some(1e-5),
        fc_norm: None,
        ..gap(vit(img_size, 16, size))
    }
}

/// DINOv2's giant, whose gated MLPs have one first layer.
const fn dinov2_giant(reg_tokens: usize) -> Row {
    Row {
        mlp_ratio: 8.0 / 3.0,
        ..swiglu(0, dinov2(reg_tokens, [1536, 40, 24]))
    }
}

/// timm's variants.
pub(super) const VARIANTS: [(&str, Row); 55] = [
    ("vit_tiny_patch16_224", vit(224, 16, TINY)),
    ("vit_tiny_patch16_384", vit(384, 16, TINY)),
    ("vit_small_patch32_224", vit(224, 32, SMALL)),
    ("vit_small_patch32_384", vit(384, 32, SMALL)),
    ("vit_small_patch16_224", vit(224, 16, SMALL)),
    ("vit_small_patch16_384", vit(384, 16, SMALL)),
    // DINO published the only weights of this variant, hence its normalisation.
    ("vit_small_patch8_224", deit(224, 8, SMALL)),
    ("vit_base_patch32_224", vit(224, 32, BASE)),
    ("vit_base_patch32_384", vit(384, 32, BASE)),
    ("vit_base_patch16_224", vit(224, 16, BASE)),
    ("vit_base_patch16_384", vit(384, 16, BASE)),
    ("vit_base_patch8_224", vit(224, 8, BASE)),
    ("vit_large_patch32_224", vit(224, 32, LARGE)),
    ("vit_large_patch32_384", vit(384, 32, LARGE)),
    ("vit_large_patch16_224", vit(224, 16, LARGE)),
    ("vit_large_patch16_384", vit(384, 16, LARGE)),
    ("vit_large_patch14_224", vit(224, 14, LARGE)),
    ("vit_huge_patch14_224", vit(224, 14, HUGE)),
    (
        "vit_giant_patch14_224",
        Row {
            mlp_ratio: 48.0 / 11.0,
            ..vit(224, 14, [1408, 40, 16])
        },
    ),
    (
        "vit_gigantic_patch14_224",
        Row {
            mlp_ratio: 64.0 / 13.0,
            ..vit(224, 14, [1664, 48, 16])
        },
    ),
    ("vit_medium_patch16_gap_240", medium_gap(240, MEDIUM)),
    ("vit_medium_patch16_gap_256", medium_gap(256, MEDIUM)),
    ("vit_medium_patch16_gap_384", medium_gap(384, MEDIUM)),
    ("vit_betwixt_patch16_gap_256", medium_gap(256, BETWIXT)),
    // The next three are I-JEPA's.
    (
        "vit_base_patch16_gap_224",
        gap(deit(224, 16, [768, 12, 16])),
    ),
    ("vit_huge_patch14_gap_224", gap(deit(224, 14, HUGE))),
    ("vit_huge_patch16_gap_448", gap(deit(448, 16, HUGE))),
    ("vit_medium_patch16_reg1_gap_256", reg_gap(256, 1, MEDIUM)),
    ("vit_medium_patch16_reg4_gap_256", reg_gap(256, 4, MEDIUM)),
    (
        "vit_mediumd_patch16_reg4_gap_256",
        reg_gap(256, 4, [512, 20, 8]),
    ),
    (
        "vit_mediumd_patch16_reg4_gap_384",
        reg_gap(384, 4, [512, 20, 8]),
    ),
    ("vit_betwixt_patch16_reg1_gap_256", reg_gap(256, 1, BETWIXT)),
    ("vit_betwixt_patch16_reg4_gap_256", reg_gap(256, 4, BETWIXT)),
    ("vit_betwixt_patch16_reg4_gap_384", reg_gap(384, 4, BETWIXT)),
    (
        "vit_base_patch16_reg4_gap_256",
        Row {
            init_values: None,
            ..reg_gap(256, 4, BASE)
        },
    ),
    ("deit_tiny_patch16_224", deit(224, 16, TINY)),
    ("deit_small_patch16_224", deit(224, 16, SMALL)),
    ("deit_base_patch16_224", deit(224, 16, BASE)),
    ("deit_base_patch16_384", deit(384, 16, BASE)),
    ("deit3_small_patch16_224", deit3(224, 16, SMALL)),
    ("deit3_small_patch16_384", deit3(384, 16, SMALL)),
    ("deit3_medium_patch16_224", deit3(224, 16, MEDIUM)),
    ("deit3_base_patch16_224", deit3(224, 16, BASE)),
    ("deit3_base_patch16_384", deit3(384, 16, BASE)),
    ("deit3_large_patch16_224", deit3(224, 16, LARGE)),
    ("deit3_large_patch16_384", deit3(384, 16, LARGE)),
    ("deit3_huge_patch14_224", deit3(224, 14, HUGE)),
    ("vit_small_patch14_dinov2", dinov2(0, SMALL)),
    ("vit_base_patch14_dinov2", dinov2(0, BASE)),
    ("vit_large_patch14_dinov2", dinov2(0, LARGE)),
    ("vit_small_patch14_reg4_dinov2", dinov2(4, SMALL)),
    ("vit_base_patch14_reg4_dinov2", dinov2(4, BASE)),
    ("vit_large_patch14_reg4_dinov2", dinov2(4, LARGE)),
    ("vit_giant_patch14_dinov2", dinov2_giant(0)),
    ("vit_giant_patch14_reg4_dinov2", dinov2_giant(4)),
];
