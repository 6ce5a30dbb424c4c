//! The configuration of the family and the table of its variants.

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Facts, HasSource, IMAGENET_MEAN, IMAGENET_STD, ImageSize,
    Init, InputSpec, Interpolation, needed, variant,
};
use peft_core::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, GlobalPool, MlpActivation};
use crate::layouts::LAYOUTS;
use crate::model::VisionTransformer;

peft_core::backbone_config! {
    /// A Vision Transformer: a variant of the table or your own sizes. A field that is given overrides
    /// the variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Vit {
        /// timm's name, for example `vit_base_patch16_224`. A tag behind a dot
        /// (`vit_base_patch16_224.dino`) names weights and is ignored: `weights` says where they are, and
        /// `mean` and `std` how their images were normalised, if not as the variant's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Rows and columns of the image in pixels, multiples of `patch_size`: a number for a square, or
        /// `[height, width]`. Default the variant's, else 224.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<ImageSize>,
        /// Rows and columns of a patch in pixels. Default the variant's, else 16.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub patch_size: Option<usize>,
        /// Width `D` of the tokens, a multiple of `num_heads`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub embed_dim: Option<usize>,
        /// Number of blocks `L`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub depth: Option<usize>,
        /// Attention heads.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub num_heads: Option<usize>,
        /// Hidden width of the MLP over `embed_dim`. Default the variant's, else 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mlp_ratio: Option<f64>,
        /// Whether queries, keys and values have a bias. Default the variant's, else true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub qkv_bias: Option<bool>,
        /// Whether a class token comes first. Default the variant's, else true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub class_token: Option<bool>,
        /// Number of register tokens behind the class token. Default the variant's, else 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reg_tokens: Option<usize>,
        /// Whether only the patches have a position embedding, and not the class token and the registers.
        /// Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub no_embed_class: Option<bool>,
        /// Initial value of LayerScale; a checkpoint replaces it. Default the variant's, else the blocks
        /// have no LayerScale.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init_values: Option<f64>,
        /// Whether the tokens are normed before the first block; the patch embedding then has no bias.
        /// Default false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pre_norm: Option<bool>,
        /// Activation of the MLPs. Default `gelu`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub act_layer: Option<MlpActivation>,
        /// The pooling that turns the tokens into features. Default the variant's, else `token`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub global_pool: Option<GlobalPool>,
        /// Whether the last norm comes after the pooling, under the name `fc_norm`, instead of before it.
        /// Default the variant's, else true with `global_pool: avg`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fc_norm: Option<bool>,
        /// The epsilon that the norms add to a variance. Default 1e-6, or 1e-12 for weights in the
        /// names of transformers' ViT.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub layer_norm_eps: Option<f64>,
    }
    source {
        mean: "the variant's, else 0.5 (most of timm's ViTs)",
        std: "the variant's, else 0.5",
        interpolation: "bicubic",
        crop_pct: "0.9",
        weights: "(safetensors, `.pth`, `.bin`, `.npz`) under timm's, torchvision's, transformers', \
                  Google's or DINO's names",
        layout: "`timm`, `transformers`, `transformers-4` (also `transformers-dinov2`, \
                 `transformers-4-dinov2`), `dino` (DINO's and DINOv2's own), `deit` (DeiT III's own), \
                 `google`, `torchvision` or `torchvision-0.13` (its names until then, and in the files \
                 that it publishes)",
    }
}

/// A row of the table, under the names of the configuration's fields.
#[derive(Clone, Copy)]
struct Row {
    img_size: usize,
    patch_size: usize,
    /// `embed_dim`, `depth` and `num_heads`.
    size: [usize; 3],
    mlp_ratio: f64,
    qkv_bias: bool,
    class_token: bool,
    reg_tokens: usize,
    no_embed_class: bool,
    init_values: Option<f64>,
    global_pool: GlobalPool,
    fc_norm: Option<bool>,
    mean: [f32; 3],
    std: [f32; 3],
}

const TINY: [usize; 3] = [192, 12, 3];
const SMALL: [usize; 3] = [384, 12, 6];
const MEDIUM: [usize; 3] = [512, 12, 8];
const BETWIXT: [usize; 3] = [640, 12, 10];
const BASE: [usize; 3] = [768, 12, 12];
const LARGE: [usize; 3] = [1024, 24, 16];
const HUGE: [usize; 3] = [1280, 32, 16];

/// timm's defaults.
const fn vit(img_size: usize, patch_size: usize, size: [usize; 3]) -> Row {
    Row {
        img_size,
        patch_size,
        size,
        mlp_ratio: 4.0,
        qkv_bias: true,
        class_token: true,
        reg_tokens: 0,
        no_embed_class: false,
        init_values: None,
        global_pool: GlobalPool::Token,
        fc_norm: None,
        mean: [0.5; 3],
        std: [0.5; 3],
    }
}

/// DeiT's images are normalised with ImageNet's mean and standard deviation.
const fn deit(img_size: usize, patch_size: usize, size: [usize; 3]) -> Row {
    Row {
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
        ..vit(img_size, patch_size, size)
    }
}

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

/// timm's variants.
const VARIANTS: [(&str, Row); 53] = [
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
];

/// The names of the table.
pub(crate) fn variants() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}

impl Vit {
    /// The variant's row and its sizes; without a variant timm's defaults, and no sizes.
    fn row(&self) -> Result<(Row, Option<[usize; 3]>)> {
        let Some(name) = &self.variant else {
            return Ok((vit(224, 16, [0; 3]), None));
        };
        let row = variant(&VARIANTS, name)?;
        Ok((*row, Some(row.size)))
    }

    fn architecture(&self) -> Result<Architecture> {
        let (row, size) = self.row()?;
        let of_variant = |place: usize| size.map(|size| size[place]);
        let global_pool = self.global_pool.unwrap_or(row.global_pool);
        let fc_norm = self.fc_norm.or(row.fc_norm);
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "vit".to_owned()),
            img_size: self.img_size.unwrap_or(row.img_size.into()),
            patch_size: self.patch_size.unwrap_or(row.patch_size),
            embed_dim: needed("embed_dim", self.embed_dim, of_variant(0))?,
            depth: needed("depth", self.depth, of_variant(1))?,
            num_heads: needed("num_heads", self.num_heads, of_variant(2))?,
            mlp_ratio: self.mlp_ratio.unwrap_or(row.mlp_ratio),
            qkv_bias: self.qkv_bias.unwrap_or(row.qkv_bias),
            class_token: self.class_token.unwrap_or(row.class_token),
            reg_tokens: self.reg_tokens.unwrap_or(row.reg_tokens),
            no_embed_class: self.no_embed_class.unwrap_or(row.no_embed_class),
            init_values: self.init_values.or(row.init_values),
            pre_norm: self.pre_norm.unwrap_or(false),
            act_layer: self.act_layer.unwrap_or(MlpActivation::Gelu),
            layer_norm_eps: self.layer_norm_eps,
            global_pool,
            fc_norm: fc_norm.unwrap_or(global_pool == GlobalPool::Avg),
            projection: None,
            layouts: &LAYOUTS,
        }
        .checked()
    }
}

#[typetag::serde(name = "vit")]
impl BackboneConfig for Vit {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (architecture, input) = (self.architecture()?, self.input()?);
        Ok(Box::new(VisionTransformer::new(architecture, input, init)))
    }

    fn input(&self) -> Result<InputSpec> {
        let (row, _) = self.row()?;
        Ok(self.source().input(InputSpec {
            size: self.architecture()?.img_size,
            mean: row.mean,
            std: row.std,
            interpolation: Interpolation::Bicubic,
            crop_pct: 0.9,
            crop_mode: CropMode::Center,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        Ok(self.architecture()?.facts())
    }
}
