//! The configuration and the table of variants.

use std::path::PathBuf;

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Init, InputFields, InputSpec, Interpolation, variant,
};
use peft_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layouts::LAYOUTS;
use crate::model::{Architecture, GlobalPool, MlpActivation, VisionTransformer};

/// timm's LayerNorm epsilon.
const EPSILON: f64 = 1e-6;

/// A Vision Transformer: a variant of the table, or sizes of its own; a field that is given
/// overrides the variant's.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Vit {
    /// timm's name, for example `vit_base_patch16_224`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Rows and columns of the image in pixels, a multiple of `patch_size`. Default 224.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img_size: Option<usize>,
    /// Rows and columns of a patch in pixels. Default 16.
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
    /// Hidden width of the MLP over `embed_dim`. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mlp_ratio: Option<f64>,
    /// Whether queries, keys and values have a bias. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qkv_bias: Option<bool>,
    /// What the head sees. Default `token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_pool: Option<GlobalPool>,
    /// Mean of each channel that the checkpoint was trained with. Default 0.5 (timm's ViTs).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// How images are resized. Default bicubic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Part of the resized image that is kept: images are resized to `img_size / crop_pct` and the
    /// centre is cut out. Default 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f32>,
    /// What is resized: the shorter side (`center`), or both sides to a square (`squash`). Default
    /// `center`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_mode: Option<CropMode>,
    /// A checkpoint (safetensors, `.pth`, `.bin`, `.npz`) under timm's, transformers' or Google's names;
    /// without one the values are random.
    pub weights: Option<PathBuf>,
    /// The library whose names the weights have: `timm`, `transformers`, `transformers-4` or
    /// `google`. Default: recognised by their keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
}

/// timm's variants: patch size, width, blocks, heads; all at 224 pixels with `mlp_ratio` 4.
const VARIANTS: [(&str, [usize; 4]); 9] = [
    ("vit_tiny_patch16_224", [16, 192, 12, 3]),
    ("vit_small_patch16_224", [16, 384, 12, 6]),
    ("vit_small_patch32_224", [32, 384, 12, 6]),
    ("vit_base_patch16_224", [16, 768, 12, 12]),
    ("vit_base_patch32_224", [32, 768, 12, 12]),
    ("vit_large_patch16_224", [16, 1024, 24, 16]),
    ("vit_large_patch32_224", [32, 1024, 24, 16]),
    ("vit_huge_patch14_224", [14, 1280, 32, 16]),
    ("vit_huge_patch16_224", [16, 1280, 32, 16]),
];

impl Vit {
    fn architecture(&self) -> Result<Architecture> {
        let row = match &self.variant {
            None => [None; 4],
            Some(name) => variant(&VARIANTS, name)?.map(Some),
        };
        let needed = |field: &str, own: Option<usize>, of_variant: Option<usize>| {
            own.or(of_variant).ok_or_else(|| {
                Error::config(field, "expected a number, or a `variant` that has one")
            })
        };
        let [patch_size, embed_dim, depth, num_heads] = row;
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "vit".to_owned()),
            img_size: self.img_size.unwrap_or(224),
            patch_size: self.patch_size.or(patch_size).unwrap_or(16),
            embed_dim: needed("embed_dim", self.embed_dim, embed_dim)?,
            depth: needed("depth", self.depth, depth)?,
            num_heads: needed("num_heads", self.num_heads, num_heads)?,
            mlp_ratio: self.mlp_ratio.unwrap_or(4.0),
            qkv_bias: self.qkv_bias.unwrap_or(true),
            pre_norm: false,
            activation: MlpActivation::Gelu,
            epsilon: EPSILON,
            global_pool: self.global_pool.unwrap_or_default(),
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

    fn weights(&self) -> Option<&PathBuf> {
        self.weights.as_ref()
    }

    fn layout(&self) -> Option<&str> {
        self.layout.as_deref()
    }

    fn set_weights(&mut self, path: PathBuf) {
        self.weights = Some(path);
    }

    fn input(&self) -> Result<InputSpec> {
        Ok(InputSpec {
            size: self.architecture()?.img_size,
            mean: self.mean.unwrap_or([0.5; 3]),
            std: self.std.unwrap_or([0.5; 3]),
            interpolation: self.interpolation.unwrap_or_default(),
            crop_pct: self.crop_pct.unwrap_or(0.9),
            crop_mode: self.crop_mode.unwrap_or_default(),
        })
    }

    fn input_fields(&mut self) -> InputFields<'_> {
        InputFields {
            mean: &mut self.mean,
            std: &mut self.std,
            interpolation: &mut self.interpolation,
            crop_pct: &mut self.crop_pct,
            crop_mode: &mut self.crop_mode,
        }
    }
}

peft_core::register!(
    Backbone, Vit,
    name: "vit",
    summary: "Vision Transformer: Ti, S, B, L, H at patch 14, 16 and 32, or sizes of your own",
    reference: "An Image is Worth 16x16 Words, Dosovitskiy et al., 2021",
    example: "name: vit\nvariant: vit_base_patch16_224\n",
    tiny: &[
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 48, depth: 4, num_heads: 3}",
        "{name: vit, img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2, \
          qkv_bias: false, global_pool: avg}",
    ],
);
