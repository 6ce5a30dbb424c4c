//! SigLIP and SigLIP 2 at a fixed resolution.

use super::row::{BASE, LARGE, Row, vit};
use crate::architecture::{GlobalPool, MlpActivation};

/// SigLIP: patches without a class token, pooled by attention.
const fn siglip(img_size: usize, patch_size: usize, size: [usize; 3]) -> Row {
    Row {
        class_token: false,
        global_pool: GlobalPool::Map,
        fc_norm: Some(false),
        ..vit(img_size, patch_size, size)
    }
}

/// The approximation of GELU by tanh.
const fn tanh(row: Row) -> Row {
    Row {
        act_layer: MlpActivation::GeluTanh,
        ..row
    }
}

/// SigLIP's shape-optimised size, whose hidden width is 4304.
const fn so400m(img_size: usize, patch_size: usize) -> Row {
    Row {
        mlp_ratio: 3.7362,
        // 384 is no multiple of 14: the last 6 pixels are not seen.
        trims: true,
        ..siglip(img_size, patch_size, [1152, 27, 16])
    }
}

const fn giantopt(img_size: usize) -> Row {
    tanh(siglip(img_size, 16, [1536, 40, 16]))
}

/// The average of the normed patches in place of the pool.
const fn siglip_gap(row: Row) -> Row {
    Row {
        global_pool: GlobalPool::Avg,
        ..row
    }
}

/// The whole resized image is kept.
const fn whole(row: Row) -> Row {
    Row {
        crop_pct: 1.0,
        ..row
    }
}

/// timm's variants: those with the pool, then those without it.
pub(super) const VARIANTS: [(&str, Row); 34] = [
    ("vit_base_patch32_siglip_256", tanh(siglip(256, 32, BASE))),
    ("vit_base_patch16_siglip_224", siglip(224, 16, BASE)),
    ("vit_base_patch16_siglip_256", siglip(256, 16, BASE)),
    ("vit_base_patch16_siglip_384", siglip(384, 16, BASE)),
    ("vit_base_patch16_siglip_512", siglip(512, 16, BASE)),
    ("vit_large_patch16_siglip_256", siglip(256, 16, LARGE)),
    ("vit_large_patch16_siglip_384", siglip(384, 16, LARGE)),
    ("vit_large_patch16_siglip_512", siglip(512, 16, LARGE)),
    ("vit_so400m_patch14_siglip_224", so400m(224, 14)),
    ("vit_so400m_patch14_siglip_378", so400m(378, 14)),
    ("vit_so400m_patch14_siglip_384", so400m(384, 14)),
    ("vit_so400m_patch16_siglip_256", tanh(so400m(256, 16))),
    ("vit_so400m_patch16_siglip_384", tanh(so400m(384, 16))),
    ("vit_so400m_patch16_siglip_512", tanh(so400m(512, 16))),
    ("vit_giantopt_patch16_siglip_256", giantopt(256)),
    ("vit_giantopt_patch16_siglip_384", giantopt(384)),
    (
        "vit_base_patch32_siglip_gap_256",
        siglip_gap(tanh(siglip(256, 32, BASE))),
    ),
    (
        "vit_base_patch16_siglip_gap_224",
        siglip_gap(siglip(224, 16, BASE)),
    ),
    (
        "vit_base_patch16_siglip_gap_256",
        siglip_gap(siglip(256, 16, BASE)),
    ),
    (
        "vit_base_patch16_siglip_gap_384",
        siglip_gap(siglip(384, 16, BASE)),
    ),
    (
        "vit_base_patch16_siglip_gap_512",
        siglip_gap(siglip(512, 16, BASE)),
    ),
    (
        "vit_large_patch16_siglip_gap_256",
        siglip_gap(siglip(256, 16, LARGE)),
    ),
    (
        "vit_large_patch16_siglip_gap_384",
        siglip_gap(siglip(384, 16, LARGE)),
    ),
    (
        "vit_large_patch16_siglip_gap_512",
        siglip_gap(siglip(512, 16, LARGE)),
    ),
    (
        "vit_so400m_patch14_siglip_gap_224",
        siglip_gap(so400m(224, 14)),
    ),
    (
        "vit_so400m_patch14_siglip_gap_378",
        siglip_gap(so400m(378, 14)),
    ),
    (
        "vit_so400m_patch14_siglip_gap_384",
        whole(siglip_gap(so400m(384, 14))),
    ),
    (
        "vit_so400m_patch14_siglip_gap_448",
        whole(siglip_gap(so400m(448, 14))),
    ),
    (
        "vit_so400m_patch14_siglip_gap_896",
        whole(siglip_gap(so400m(896, 14))),
    ),
    (
        "vit_so400m_patch16_siglip_gap_256",
        siglip_gap(tanh(so400m(256, 16))),
    ),
    (
        "vit_so400m_patch16_siglip_gap_384",
        siglip_gap(tanh(so400m(384, 16))),
    ),
    (
        "vit_so400m_patch16_siglip_gap_512",
        siglip_gap(tanh(so400m(512, 16))),
    ),
    (
        "vit_giantopt_patch16_siglip_gap_256",
        siglip_gap(giantopt(256)),
    ),
    (
        "vit_giantopt_patch16_siglip_gap_384",
        siglip_gap(giantopt(384)),
    ),
];
