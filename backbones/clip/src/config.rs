//! The configuration of the family and the table of its variants.

use peft_backbone_vit::{
    Architecture, GlobalPool, MlpActivation, MlpKind, Qkv, Stated, VisionTransformer,
};
use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Facts, HasSource, ImageSize, Init, InputSpec,
    Interpolation, needed, variant,
};
use peft_core::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layouts::LAYOUTS;

/// CLIP's LayerNorm epsilon.
const EPSILON: f64 = 1e-5;
/// Mean and standard deviation of the images that CLIP was trained on.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

peft_core::backbone_config! {
    /// CLIP's image encoder: a variant of the table or your own sizes. A field that is given overrides
    /// the variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Clip {
        /// timm's name, for example `vit_base_patch32_clip_quickgelu_224`. OpenAI's weights need the
        /// variants with `quickgelu`; the others apply GELU. A tag behind a dot names weights and is
        /// ignored.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Rows and columns of the image in pixels, multiples of `patch_size`: a number for a square, or
        /// `[height, width]`. Default the variant's, else 224.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<ImageSize>,
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
        /// Hidden width of the MLP over `embed_dim`. Default the variant's, else 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mlp_ratio: Option<f64>,
        /// Width of the projected features; used with `features: after`. Default the variant's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub projection_dim: Option<usize>,
        /// Whether the head sees the features before or after the projection. Default `before`.
        pub features: Features,
        /// Activation of the MLPs. Default the variant's, else `quick_gelu`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub act_layer: Option<MlpActivation>,
        /// The epsilon that the norms add to a variance. Default 1e-5.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub layer_norm_eps: Option<f64>,
    }
    source {
        mean: "CLIP's",
        std: "CLIP's",
        interpolation: "bicubic",
        crop_pct: "1.0",
        weights: "(safetensors, `.pth`, `.bin` or one of OpenAI's `.pt` archives) under timm's, OpenAI's \
                  (open_clip's) or transformers' names",
        layout: "`timm`, `openai` or `transformers`",
    }
}

/// Whether the head sees the normed class token before or after its projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// The token itself, as in the paper's linear probes; the network then has no projection.
    #[default]
    Before,
    /// The projection of the token into the space that images share with texts, which a text head
    /// needs.
    After,
}

/// A row of the table, under the names of the configuration's fields.
#[derive(Clone, Copy)]
struct Row {
    img_size: usize,
    patch_size: usize,
    /// `embed_dim`, `depth`, `num_heads` and `projection_dim`.
    size: [usize; 4],
    mlp_ratio: f64,
    act_layer: MlpActivation,
}

const XSMALL: [usize; 4] = [256, 10, 4, 512];
const MEDIUM: [usize; 4] = [512, 12, 8, 512];
const BETWIXT: [usize; 4] = [640, 12, 10, 512];
const BASE: [usize; 4] = [768, 12, 12, 512];
const LARGE: [usize; 4] = [1024, 24, 16, 768];
const HUGE: [usize; 4] = [1280, 32, 16, 1024];

const fn clip(img_size: usize, patch_size: usize, size: [usize; 4]) -> Row {
    Row {
        img_size,
        patch_size,
        size,
        mlp_ratio: 4.0,
        act_layer: MlpActivation::Gelu,
    }
}

const fn quick(row: Row) -> Row {
    Row {
        act_layer: MlpActivation::QuickGelu,
        ..row
    }
}

const GIANT: Row = Row {
    mlp_ratio: 48.0 / 11.0,
    ..clip(224, 14, [1408, 40, 16, 1024])
};
const GIGANTIC: Row = Row {
    mlp_ratio: 64.0 / 13.0,
    ..clip(224, 14, [1664, 48, 16, 1280])
};

/// timm's variants.
const VARIANTS: [(&str, Row); 26] = [
    (
        "vit_base_patch32_clip_quickgelu_224",
        quick(clip(224, 32, BASE)),
    ),
    (
        "vit_base_patch16_clip_quickgelu_224",
        quick(clip(224, 16, BASE)),
    ),
    (
        "vit_large_patch14_clip_quickgelu_224",
        quick(clip(224, 14, LARGE)),
    ),
    (
        "vit_large_patch14_clip_quickgelu_336",
        quick(clip(336, 14, LARGE)),
    ),
    (
        "vit_huge_patch14_clip_quickgelu_224",
        quick(clip(224, 14, HUGE)),
    ),
    (
        "vit_huge_patch14_clip_quickgelu_378",
        quick(clip(378, 14, HUGE)),
    ),
    ("vit_gigantic_patch14_clip_quickgelu_224", quick(GIGANTIC)),
    ("vit_xsmall_patch16_clip_224", clip(224, 16, XSMALL)),
    ("vit_medium_patch32_clip_224", clip(224, 32, MEDIUM)),
    ("vit_medium_patch16_clip_224", clip(224, 16, MEDIUM)),
    ("vit_betwixt_patch32_clip_224", clip(224, 32, BETWIXT)),
    ("vit_base_patch32_clip_224", clip(224, 32, BASE)),
    ("vit_base_patch32_clip_256", clip(256, 32, BASE)),
    ("vit_base_patch32_clip_384", clip(384, 32, BASE)),
    ("vit_base_patch32_clip_448", clip(448, 32, BASE)),
    ("vit_base_patch16_clip_224", clip(224, 16, BASE)),
    ("vit_base_patch16_clip_384", clip(384, 16, BASE)),
    (
        "vit_base_patch16_plus_clip_240",
        clip(240, 16, [896, 12, 14, 640]),
    ),
    ("vit_large_patch14_clip_224", clip(224, 14, LARGE)),
    ("vit_large_patch14_clip_336", clip(336, 14, LARGE)),
    ("vit_huge_patch14_clip_224", clip(224, 14, HUGE)),
    ("vit_huge_patch14_clip_336", clip(336, 14, HUGE)),
    ("vit_huge_patch14_clip_378", clip(378, 14, HUGE)),
    ("vit_giant_patch14_clip_224", GIANT),
    ("vit_gigantic_patch14_clip_224", GIGANTIC),
    (
        "vit_gigantic_patch14_clip_378",
        Row {
            img_size: 378,
            ..GIGANTIC
        },
    ),
];

/// The names of the table.
pub(crate) fn variants() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}

impl Clip {
    /// The variant's row and its sizes; without a variant OpenAI's defaults, and no sizes.
    fn row(&self) -> Result<(Row, Option<[usize; 4]>)> {
        let Some(name) = &self.variant else {
            return Ok((quick(clip(224, 32, [0; 4])), None));
        };
        let row = variant(&VARIANTS, name)?;
        Ok((*row, Some(row.size)))
    }

    fn architecture(&self) -> Result<Architecture> {
        let (row, size) = self.row()?;
        let of_variant = |place: usize| size.map(|size| size[place]);
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "clip".to_owned()),
            img_size: self.img_size.unwrap_or(row.img_size.into()),
            patch_size: self.patch_size.unwrap_or(row.patch_size),
            embed_dim: needed("embed_dim", self.embed_dim, of_variant(0))?,
            depth: needed("depth", self.depth, of_variant(1))?,
            num_heads: needed("num_heads", self.num_heads, of_variant(2))?,
            mlp_ratio: self.mlp_ratio.unwrap_or(row.mlp_ratio),
            trims: false,
            mlp_align: 0,
            qkv: Qkv::PLAIN,
            scale_attn_inner: false,
            mlp: MlpKind::Plain,
            scale_mlp: false,
            use_abs_pos_emb: true,
            rope: None,
            stated: Stated {
                act_layer: true,
                global_pool: true,
            },
            class_token: true,
            reg_tokens: 0,
            no_embed_class: false,
            init_values: None,
            pre_norm: true,
            act_layer: self.act_layer.unwrap_or(row.act_layer),
            layer_norm_eps: Some(self.layer_norm_eps.unwrap_or(EPSILON)),
            global_pool: GlobalPool::Token,
            fc_norm: false,
            // Its width is needed only where there is a projection, so that own sizes may leave it out.
            projection: match self.features {
                Features::Before => None,
                Features::After => {
                    let own = self.projection_dim;
                    Some(needed("projection_dim", own, of_variant(3))?)
                }
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

    fn input(&self) -> Result<InputSpec> {
        Ok(self.source().input(InputSpec {
            size: self.architecture()?.img_size,
            mean: MEAN,
            std: STD,
            interpolation: Interpolation::Bicubic,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        let mut facts = self.architecture()?.facts();
        let (_, size) = self.row()?;
        // The projection is a fact of the weights even where the head sees what is before it.
        if let Some(projection) = self.projection_dim.or(size.map(|size| size[3])) {
            facts.insert("projection_dim".to_owned(), projection.into());
        }
        let only = [("attentional_pool", false), ("input_patchnorm", false)];
        facts.extend(only.map(|(name, value)| (name.to_owned(), value.into())));
        Ok(facts)
    }
}
