//! The configuration and the table of variants.

use std::path::PathBuf;

use peft_core::backbone::{Backbone, BackboneConfig, Init, InputSpec, Interpolation};
use peft_core::error::{Error, Result, nearest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::VisionTransformer;

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
    /// A safetensors file under timm's names; without one the values are random.
    pub weights: Option<PathBuf>,
}

/// What the head sees of the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// The class token of the normed sequence.
    #[default]
    Token,
    /// The mean of the patch tokens, normed afterwards (`fc_norm`).
    Avg,
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

/// The sizes of a Vision Transformer, complete and consistent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sizes {
    pub name: String,
    pub img_size: usize,
    pub patch_size: usize,
    pub embed_dim: usize,
    pub depth: usize,
    pub num_heads: usize,
    pub mlp_hidden: usize,
    pub qkv_bias: bool,
    pub global_pool: GlobalPool,
}

impl Sizes {
    /// Patches along one side.
    pub fn grid(&self) -> usize {
        self.img_size / self.patch_size
    }
}

impl Vit {
    pub(crate) fn sizes(&self) -> Result<Sizes> {
        let variant = match &self.variant {
            None => [None; 4],
            Some(name) => {
                let names = || VARIANTS.iter().map(|(name, _)| *name);
                let row = VARIANTS.iter().find(|(n, _)| n == name).ok_or_else(|| {
                    let hint = nearest(name, names())
                        .map_or(String::new(), |name| format!("; did you mean {name:?}?"));
                    let all = names().collect::<Vec<_>>().join(", ");
                    let message = format!("unknown variant {name:?}{hint} There are: {all}");
                    Error::config("variant", message)
                })?;
                row.1.map(Some)
            }
        };
        let needed = |field: &str, own: Option<usize>, of_variant: Option<usize>| {
            own.or(of_variant).ok_or_else(|| {
                Error::config(field, "expected a number, or a `variant` that has one")
            })
        };
        let [patch_size, embed_dim, depth, num_heads] = variant;
        let sizes = Sizes {
            name: self.variant.clone().unwrap_or_else(|| "vit".to_owned()),
            img_size: self.img_size.unwrap_or(224),
            patch_size: self.patch_size.or(patch_size).unwrap_or(16),
            embed_dim: needed("embed_dim", self.embed_dim, embed_dim)?,
            depth: needed("depth", self.depth, depth)?,
            num_heads: needed("num_heads", self.num_heads, num_heads)?,
            mlp_hidden: 0,
            qkv_bias: self.qkv_bias.unwrap_or(true),
            global_pool: self.global_pool.unwrap_or_default(),
        };
        let positive = [
            ("patch_size", sizes.patch_size),
            ("embed_dim", sizes.embed_dim),
            ("depth", sizes.depth),
            ("num_heads", sizes.num_heads),
            ("img_size", sizes.img_size),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(*field, "expected at least 1, got 0"));
        }
        let multiple = |field: &str, of: &str, value: usize, unit: usize| {
            if value.is_multiple_of(unit) {
                return Ok(());
            }
            let message = format!("expected a multiple of {of} ({unit}), got {value}");
            Err(Error::config(field, message))
        };
        multiple("img_size", "patch_size", sizes.img_size, sizes.patch_size)?;
        multiple("embed_dim", "num_heads", sizes.embed_dim, sizes.num_heads)?;
        let ratio = self.mlp_ratio.unwrap_or(4.0);
        if !(ratio > 0.0 && ratio <= 64.0) {
            let message = format!("expected more than 0 and at most 64, got {ratio}");
            return Err(Error::config("mlp_ratio", message));
        }
        Ok(Sizes {
            mlp_hidden: (sizes.embed_dim as f64 * ratio) as usize,
            ..sizes
        })
    }
}

#[typetag::serde(name = "vit")]
impl BackboneConfig for Vit {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (sizes, input) = (self.sizes()?, self.input()?);
        Ok(Box::new(VisionTransformer::new(sizes, input, init)))
    }

    fn weights(&self) -> Option<&PathBuf> {
        self.weights.as_ref()
    }

    fn set_weights(&mut self, path: PathBuf) {
        self.weights = Some(path);
    }

    fn input(&self) -> Result<InputSpec> {
        Ok(InputSpec {
            size: self.sizes()?.img_size,
            mean: self.mean.unwrap_or([0.5; 3]),
            std: self.std.unwrap_or([0.5; 3]),
            interpolation: self.interpolation.unwrap_or_default(),
        })
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
