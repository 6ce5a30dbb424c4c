//! The configuration of the family and the table of its variants.

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Facts, HasSource, IMAGENET_MEAN, IMAGENET_STD, ImageSize,
    Init, InputSpec, Interpolation, needed, variant,
};
use peft_core::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::architecture::{Architecture, EPSILON, Version};
use crate::model::SwinTransformer;

peft_core::backbone_config! {
    /// A Swin Transformer: a variant of the table or your own sizes. A field that is given overrides the
    /// variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Swin {
        /// timm's name, for example `swin_tiny_patch4_window7_224` or `swinv2_tiny_window8_256`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// The network: 1, or 2 for Swin Transformer V2 with cosine attention, continuous position biases
        /// and norms behind the branches. Default the variant's, else 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub version: Option<usize>,
        /// Rows and columns of the image in pixels, multiples of `patch_size`: a number for a square, or
        /// `[height, width]`. Default the variant's, else 224, or 256 in
        /// version 2.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<ImageSize>,
        /// Rows and columns of a patch in pixels. Default 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub patch_size: Option<usize>,
        /// Channels `C` of the first stage; each later stage has twice as many as the one before.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub embed_dim: Option<usize>,
        /// Blocks in each stage, one or more stages.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub depths: Option<Vec<usize>>,
        /// Attention heads in each stage; each number must divide the stage's channels.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub num_heads: Option<Vec<usize>>,
        /// Rows and columns of a window in positions, for all stages. Default the variant's, else 7, or 8
        /// in version 2. Where
        /// a map has fewer rows or columns, so has a window; bias tables of a checkpoint with other windows are resized.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub window_size: Option<usize>,
        /// Rows and columns of a window with which version 2 was pretrained, for each stage, by which the
        /// offsets between positions are divided; 0 for those of the window itself. Default the variant's,
        /// else 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pretrained_window_sizes: Option<Vec<usize>>,
        /// Hidden width of the MLP over the channels. Default 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mlp_ratio: Option<f64>,
        /// Whether queries, keys and values have a bias. Default true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub qkv_bias: Option<bool>,
        /// The epsilon that the norms of the blocks and the last norm add to a variance; as in
        /// transformers, the norms of the patches and between stages add 1e-5. Default 1e-5.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub layer_norm_eps: Option<f64>,
    }
    source {
        mean: "ImageNet's",
        std: "ImageNet's",
        interpolation: "bicubic",
        crop_pct: "0.9, or 1.0 with the variants for 384 pixels",
        weights: "(safetensors, `.pth`, `.bin`) under timm's, torchvision's, Microsoft's or transformers' names",
        layout: "`timm`, `microsoft`, `transformers`, `transformers-4` or `torchvision`",
    }
}

/// A row of the table; all with patches of 4 and `mlp_ratio` 4.
#[derive(Clone, Copy)]
struct Row {
    img_size: usize,
    embed_dim: usize,
    /// Windows, blocks and heads of the stages.
    windows: [usize; 4],
    depths: [usize; 4],
    heads: [usize; 4],
    version: usize,
    pretrained: [usize; 4],
    crop_pct: f32,
}

const fn swin(img_size: usize, window: usize, [embed_dim, blocks]: [usize; 2]) -> Row {
    let first = embed_dim / 32;
    Row {
        img_size,
        embed_dim,
        windows: [window; 4],
        depths: [2, 2, blocks, 2],
        heads: [first, 2 * first, 4 * first, 8 * first],
        version: 1,
        pretrained: [0; 4],
        crop_pct: if img_size == 384 { 1.0 } else { 0.9 },
    }
}

/// Found by the search of Chen et al., 2021 ("Searching the Search Space of Vision Transformer").
const fn s3(windows: [usize; 4], blocks: usize) -> Row {
    Row {
        windows,
        ..swin(224, 7, [96, blocks])
    }
}

const fn v2(img_size: usize, window: usize, size: [usize; 2]) -> Row {
    Row {
        version: 2,
        ..swin(img_size, window, size)
    }
}

/// Pretrained with windows of 12 on images of 192 pixels.
const fn from_192(row: Row) -> Row {
    Row {
        pretrained: [12, 12, 12, 6],
        ..row
    }
}

/// Channels of the first stage, and blocks of the third.
const TINY: [usize; 2] = [96, 6];
const SMALL: [usize; 2] = [96, 18];
const BASE: [usize; 2] = [128, 18];
const LARGE: [usize; 2] = [192, 18];

/// timm's variants.
const VARIANTS: [(&str, Row); 21] = [
    ("swin_tiny_patch4_window7_224", swin(224, 7, TINY)),
    ("swin_small_patch4_window7_224", swin(224, 7, SMALL)),
    ("swin_base_patch4_window7_224", swin(224, 7, BASE)),
    ("swin_base_patch4_window12_384", swin(384, 12, BASE)),
    ("swin_large_patch4_window7_224", swin(224, 7, LARGE)),
    ("swin_large_patch4_window12_384", swin(384, 12, LARGE)),
    ("swin_s3_tiny_224", s3([7, 7, 14, 7], 6)),
    ("swin_s3_small_224", s3([14, 14, 14, 7], 18)),
    ("swin_s3_base_224", s3([7, 7, 14, 7], 30)),
    ("swinv2_tiny_window8_256", v2(256, 8, TINY)),
    ("swinv2_tiny_window16_256", v2(256, 16, TINY)),
    ("swinv2_small_window8_256", v2(256, 8, SMALL)),
    ("swinv2_small_window16_256", v2(256, 16, SMALL)),
    ("swinv2_base_window8_256", v2(256, 8, BASE)),
    ("swinv2_base_window16_256", v2(256, 16, BASE)),
    ("swinv2_base_window12_192", v2(192, 12, BASE)),
    (
        "swinv2_base_window12to16_192to256",
        from_192(v2(256, 16, BASE)),
    ),
    (
        "swinv2_base_window12to24_192to384",
        from_192(v2(384, 24, BASE)),
    ),
    ("swinv2_large_window12_192", v2(192, 12, LARGE)),
    (
        "swinv2_large_window12to16_192to256",
        from_192(v2(256, 16, LARGE)),
    ),
    (
        "swinv2_large_window12to24_192to384",
        from_192(v2(384, 24, LARGE)),
    ),
];

/// The names of the table.
pub(crate) fn variants() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}

impl Swin {
    fn row(&self) -> Result<Option<&'static Row>> {
        let name = self.variant.as_deref();
        name.map(|name| variant(&VARIANTS, name)).transpose()
    }

    fn architecture(&self) -> Result<Architecture> {
        let row = self.row()?;
        let of_variant = |field: fn(&Row) -> usize| row.map(field);
        let version = self.version.or(of_variant(|row| row.version)).unwrap_or(1);
        let version = Version::of(version)?;
        let (size, window) = match version {
            Version::One => (224, 7),
            Version::Two => (256, 8),
        };
        let size = of_variant(|row| row.img_size).unwrap_or(size);
        let depths = row.map(|row| row.depths.to_vec());
        let depths = needed("depths", self.depths.clone(), depths)?;
        let heads = row.map(|row| row.heads.to_vec());
        let windows = row.map_or([window; 4], |row| row.windows);
        let pretrained = row.map_or([0; 4], |row| row.pretrained);
        let stages = 0..depths.len();
        let window = |stage: usize| self.window_size.unwrap_or(windows[stage.min(3)]);
        let own = self.pretrained_window_sizes.clone();
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "swin".to_owned()),
            img_size: self.img_size.unwrap_or(size.into()),
            patch_size: self.patch_size.unwrap_or(4),
            embed_dim: needed("embed_dim", self.embed_dim, of_variant(|row| row.embed_dim))?,
            window_sizes: stages.clone().map(window).collect(),
            version,
            pretrained_window_sizes: own
                .unwrap_or_else(|| stages.map(|stage| pretrained[stage.min(3)]).collect()),
            depths,
            num_heads: needed("num_heads", self.num_heads.clone(), heads)?,
            mlp_ratio: self.mlp_ratio.unwrap_or(4.0),
            qkv_bias: self.qkv_bias.unwrap_or(true),
            layer_norm_eps: self.layer_norm_eps.unwrap_or(EPSILON),
        }
        .checked()
    }
}

#[typetag::serde(name = "swin")]
impl BackboneConfig for Swin {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (architecture, input) = (self.architecture()?, self.input()?);
        Ok(Box::new(SwinTransformer::new(architecture, input, init)))
    }

    fn input(&self) -> Result<InputSpec> {
        Ok(self.source().input(InputSpec {
            size: self.architecture()?.img_size,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            interpolation: Interpolation::Bicubic,
            crop_pct: self.row()?.map_or(0.9, |row| row.crop_pct),
            crop_mode: CropMode::Center,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        let sizes = self.architecture()?;
        let facts = json!({
            "version": sizes.version.number(),
            "img_size": sizes.img_size,
            "patch_size": sizes.patch_size,
            "embed_dim": sizes.embed_dim,
            "depths": sizes.depths,
            "num_heads": sizes.num_heads,
            "mlp_ratio": sizes.mlp_ratio,
            "qkv_bias": sizes.qkv_bias,
            "layer_norm_eps": sizes.layer_norm_eps,
            // No field sets the following: timm and transformers have options there.
            "num_features": sizes.embed_dim << (sizes.depths.len() - 1),
            "in_chans": 3,
            "act_layer": "gelu",
            "global_pool": "avg",
            "patch_norm": true,
            "use_absolute_embeddings": false,
            "ape": false,
        });
        let mut facts = facts.as_object().cloned().unwrap_or_default();
        // The field is one number for all stages; windows that differ are a variant's.
        let windows = &sizes.window_sizes;
        if windows.iter().all(|window| *window == windows[0]) {
            facts.insert("window_size".to_owned(), windows[0].into());
        }
        if sizes.version == Version::Two {
            let pretrained = sizes.pretrained_window_sizes;
            facts.insert("pretrained_window_sizes".to_owned(), pretrained.into());
        }
        Ok(facts)
    }
}
