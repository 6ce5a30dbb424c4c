//! A row of the table, and the rows that several families of variants start from.

use peft_core::backbone::{CropMode, IMAGENET_MEAN, IMAGENET_STD};

use crate::architecture::{GlobalPool, MlpActivation};
use crate::rope::RopeType;

/// A row of the table, under the names of the configuration's fields.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub img_size: usize,
    /// Whether pixels behind the last whole patch are left out.
    pub trims: bool,
    pub patch_size: usize,
    /// `embed_dim`, `depth` and `num_heads`.
    pub size: [usize; 3],
    pub mlp_ratio: f64,
    pub qkv_bias: bool,
    pub key_bias: Option<bool>,
    pub qkv_fused: bool,
    pub scale_attn_inner: bool,
    pub swiglu_mlp: bool,
    pub swiglu_align_to: usize,
    pub scale_mlp: bool,
    pub class_token: bool,
    pub reg_tokens: usize,
    pub no_embed_class: bool,
    pub rope_type: Option<RopeType>,
    pub ref_feat_shape: Option<[usize; 2]>,
    pub init_values: Option<f64>,
    pub act_layer: MlpActivation,
    pub global_pool: GlobalPool,
    pub fc_norm: Option<bool>,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub crop_pct: f32,
    pub crop_mode: CropMode,
}

/// timm's defaults, for sizes of one's own.
pub(crate) const DEFAULT: Row = vit(224, 16, [0; 3]);

pub(super) const TINY: [usize; 3] = [192, 12, 3];
pub(super) const SMALL: [usize; 3] = [384, 12, 6];
pub(super) const MEDIUM: [usize; 3] = [512, 12, 8];
pub(super) const BETWIXT: [usize; 3] = [640, 12, 10];
pub(super) const BASE: [usize; 3] = [768, 12, 12];
pub(super) const LARGE: [usize; 3] = [1024, 24, 16];
pub(super) const HUGE: [usize; 3] = [1280, 32, 16];

/// timm's defaults.
pub(super) const fn vit(img_size: usize, patch_size: usize, size: [usize; 3]) -> Row {
    Row {
        img_size,
        trims: false,
        patch_size,
        size,
        mlp_ratio: 4.0,
        qkv_bias: true,
        key_bias: None,
        qkv_fused: true,
        scale_attn_inner: false,
        swiglu_mlp: false,
        swiglu_align_to: 0,
        scale_mlp: false,
        class_token: true,
        reg_tokens: 0,
        no_embed_class: false,
        rope_type: None,
        ref_feat_shape: None,
        init_values: None,
        act_layer: MlpActivation::Gelu,
        global_pool: GlobalPool::Token,
        fc_norm: None,
        mean: [0.5; 3],
        std: [0.5; 3],
        crop_pct: 0.9,
        crop_mode: CropMode::Center,
    }
}

/// DeiT's images are normalised with ImageNet's mean and standard deviation.
pub(super) const fn deit(img_size: usize, patch_size: usize, size: [usize; 3]) -> Row {
    Row {
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        ..vit(img_size, patch_size, size)
    }
}

/// The same with gated MLPs, whose hidden width is a multiple of `align`.
pub(super) const fn swiglu(align: usize, row: Row) -> Row {
    Row {
        swiglu_mlp: true,
        swiglu_align_to: align,
        ..row
    }
}
