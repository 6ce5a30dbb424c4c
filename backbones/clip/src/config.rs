//! The configuration and the table of variants.

use std::path::PathBuf;

use peft_backbone_vit::{Architecture, GlobalPool, MlpActivation, VisionTransformer};
use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Init, InputFields, InputSpec, Interpolation, variant,
};
use peft_core::error::{Error, Result};
use peft_core::registry::Family;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layouts::LAYOUTS;
use crate::recognise::recognise;

/// CLIP's LayerNorm epsilon.
const EPSILON: f64 = 1e-5;

/// CLIP's image encoder: a variant of the table, or sizes of its own; a field that is given
/// overrides the variant's.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Clip {
    /// timm's name, for example `vit_base_patch32_clip_quickgelu_224`. OpenAI's weights need the
    /// names with `quickgelu`, those without it apply GELU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Rows and columns of the image in pixels, a multiple of `patch_size`. Default 224.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img_size: Option<usize>,
    /// Rows and columns of a patch in pixels. Default 32.
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
    /// Width of the projected features; used with `features: after`. Default the variant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projection_dim: Option<usize>,
    /// What the head sees. Default `before`.
    pub features: Features,
    /// What the MLPs apply. Default the variant's, else `quick_gelu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_layer: Option<MlpActivation>,
    /// Mean of each channel that the checkpoint was trained with. Default CLIP's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel. Default CLIP's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// How images are resized. Default bicubic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Part of the resized image that is kept: images are resized to `img_size / crop_pct` and the
    /// centre is cut out. Default 1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f32>,
    /// What is resized: the shorter side (`center`), or both sides to a square (`squash`). Default
    /// `center`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_mode: Option<CropMode>,
    /// A checkpoint: safetensors, `.pth` or `.bin`, under timm's or transformers' names; without one the
    /// values are random.
    pub weights: Option<PathBuf>,
    /// The library whose names the weights have: `timm` or `transformers`. Default: recognised by their
    /// keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
}

/// What the head sees of the normed class token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// The token itself, as in the paper's linear probes; there is no projection then.
    #[default]
    Before,
    /// Its projection into the space shared with texts, what a text head compares.
    After,
}

/// timm's variants: image size, patch size, width, blocks, heads, projected width; `mlp_ratio` 4.
const VARIANTS: [(&str, ([usize; 6], MlpActivation)); 8] = {
    use MlpActivation::{Gelu, QuickGelu};
    let base_32 = [224, 32, 768, 12, 12, 512];
    let base_16 = [224, 16, 768, 12, 12, 512];
    let large = [224, 14, 1024, 24, 16, 768];
    let large_336 = [336, 14, 1024, 24, 16, 768];
    [
        ("vit_base_patch32_clip_quickgelu_224", (base_32, QuickGelu)),
        ("vit_base_patch16_clip_quickgelu_224", (base_16, QuickGelu)),
        ("vit_large_patch14_clip_quickgelu_224", (large, QuickGelu)),
        (
            "vit_large_patch14_clip_quickgelu_336",
            (large_336, QuickGelu),
        ),
        ("vit_base_patch32_clip_224", (base_32, Gelu)),
        ("vit_base_patch16_clip_224", (base_16, Gelu)),
        ("vit_large_patch14_clip_224", (large, Gelu)),
        ("vit_large_patch14_clip_336", (large_336, Gelu)),
    ]
};

impl Clip {
    fn architecture(&self) -> Result<Architecture> {
        let (row, act_layer) = match &self.variant {
            None => ([None; 6], MlpActivation::QuickGelu),
            Some(name) => {
                let (row, act_layer) = variant(&VARIANTS, name)?;
                (row.map(Some), *act_layer)
            }
        };
        let needed = |field: &str, own: Option<usize>, of_variant: Option<usize>| {
            own.or(of_variant).ok_or_else(|| {
                Error::config(field, "expected a number, or a `variant` that has one")
            })
        };
        let [
            img_size,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            projection_dim,
        ] = row;
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "clip".to_owned()),
            img_size: self.img_size.or(img_size).unwrap_or(224),
            patch_size: self.patch_size.or(patch_size).unwrap_or(32),
            embed_dim: needed("embed_dim", self.embed_dim, embed_dim)?,
            depth: needed("depth", self.depth, depth)?,
            num_heads: needed("num_heads", self.num_heads, num_heads)?,
            mlp_ratio: self.mlp_ratio.unwrap_or(4.0),
            qkv_bias: true,
            class_token: true,
            reg_tokens: 0,
            no_embed_class: false,
            init_values: None,
            pre_norm: true,
            act_layer: self.act_layer.unwrap_or(act_layer),
            epsilon: EPSILON,
            global_pool: GlobalPool::Token,
            fc_norm: false,
            projection: match self.features {
                Features::Before => None,
                Features::After => Some(needed(
                    "projection_dim",
                    self.projection_dim,
                    projection_dim,
                )?),
            },
            layouts: &LAYOUTS,
        }
        .checked()
    }
}

#[typetag::serde(name = "clip")]
impl BackboneConfig for Clip {
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
        let mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
        let std = [0.268_629_54, 0.261_302_6, 0.275_777_1];
        Ok(InputSpec {
            size: self.architecture()?.img_size,
            mean: self.mean.unwrap_or(mean),
            std: self.std.unwrap_or(std),
            interpolation: self.interpolation.unwrap_or_default(),
            crop_pct: self.crop_pct.unwrap_or(1.0),
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
    Backbone, Clip,
    name: "clip",
    summary: "CLIP's image encoder: ViT-B/32, B/16, L/14 and L/14 at 336, or sizes of your own",
    reference: "Learning Transferable Visual Models From Natural Language Supervision, Radford et \
                al., 2021",
    example: "name: clip\nvariant: vit_base_patch32_clip_quickgelu_224\nfeatures: before\n",
    tiny: &[
        "{name: clip, img_size: 32, patch_size: 8, embed_dim: 48, depth: 3, num_heads: 3}",
        "{name: clip, img_size: 32, patch_size: 16, embed_dim: 24, depth: 2, num_heads: 2, \
          projection_dim: 16, features: after, act_layer: gelu}",
    ],
    family: Family {
        variants: || VARIANTS.iter().map(|(name, _)| *name).collect(),
        layouts: &LAYOUTS,
        recognise,
    },
);
