//! The configuration of the family and the table of its variants.

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Facts, HasSource, IMAGENET_MEAN, IMAGENET_STD, Init,
    InputSpec, Interpolation, needed, variant,
};
use peft_core::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::architecture::{Architecture, EPSILON};
use crate::model::SwinTransformer;

peft_core::backbone_config! {
    /// A Swin Transformer: a variant of the table or your own sizes. A field that is given overrides the
    /// variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Swin {
        /// timm's name, for example `swin_tiny_patch4_window7_224`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Rows and columns of the image in pixels, a multiple of `patch_size`. Default 224.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<usize>,
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
        /// Rows and columns of a window in positions, for all stages. Default the variant's, else 7. A
        /// smaller map is one window; bias tables of a checkpoint with other windows are resized.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub window_size: Option<usize>,
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
        crop_pct: "0.9",
        weights: "(safetensors, `.pth`, `.bin`) under timm's, torchvision's, Microsoft's or transformers' names",
        layout: "`timm`, `microsoft`, `transformers`, `transformers-4` or `torchvision`",
    }
}

/// A row of the table: image size and channels, then windows, blocks and heads of the stages.
type Row = ([usize; 2], [usize; 4], [usize; 4], [usize; 4]);

/// timm's variants; all with patches of 4 and `mlp_ratio` 4.
const VARIANTS: [(&str, Row); 9] = {
    const SHALLOW: [usize; 4] = [2, 2, 6, 2];
    const DEEP: [usize; 4] = [2, 2, 18, 2];
    const NARROW: [usize; 4] = [3, 6, 12, 24];
    const BASE: [usize; 4] = [4, 8, 16, 32];
    const LARGE: [usize; 4] = [6, 12, 24, 48];
    const TINY_224: Row = ([224, 96], [7; 4], SHALLOW, NARROW);
    const SMALL_224: Row = ([224, 96], [7; 4], DEEP, NARROW);
    const BASE_224: Row = ([224, 128], [7; 4], DEEP, BASE);
    const BASE_384: Row = ([384, 128], [12; 4], DEEP, BASE);
    const LARGE_224: Row = ([224, 192], [7; 4], DEEP, LARGE);
    const LARGE_384: Row = ([384, 192], [12; 4], DEEP, LARGE);
    // Found by the search of Chen et al., 2021 ("Searching the Search Space of Vision Transformer").
    const S3_TINY: Row = ([224, 96], [7, 7, 14, 7], SHALLOW, NARROW);
    const S3_SMALL: Row = ([224, 96], [14, 14, 14, 7], DEEP, NARROW);
    const S3_BASE: Row = ([224, 96], [7, 7, 14, 7], [2, 2, 30, 2], NARROW);
    [
        ("swin_tiny_patch4_window7_224", TINY_224),
        ("swin_small_patch4_window7_224", SMALL_224),
        ("swin_base_patch4_window7_224", BASE_224),
        ("swin_base_patch4_window12_384", BASE_384),
        ("swin_large_patch4_window7_224", LARGE_224),
        ("swin_large_patch4_window12_384", LARGE_384),
        ("swin_s3_tiny_224", S3_TINY),
        ("swin_s3_small_224", S3_SMALL),
        ("swin_s3_base_224", S3_BASE),
    ]
};

/// The names of the table.
pub(crate) fn variants() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}

impl Swin {
    fn architecture(&self) -> Result<Architecture> {
        let name = self.variant.as_deref();
        let row = name.map(|name| variant(&VARIANTS, name)).transpose()?;
        let of_variant = |i: usize| row.map(|(sizes, ..)| sizes[i]);
        let depths = row.map(|(_, _, depths, _)| depths.to_vec());
        let depths = needed("depths", self.depths.clone(), depths)?;
        let heads = row.map(|(.., heads)| heads.to_vec());
        let windows = row.map_or([7; 4], |(_, windows, ..)| *windows);
        let window = |stage: usize| self.window_size.unwrap_or(windows[stage.min(3)]);
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "swin".to_owned()),
            img_size: self.img_size.or(of_variant(0)).unwrap_or(224),
            patch_size: self.patch_size.unwrap_or(4),
            embed_dim: needed("embed_dim", self.embed_dim, of_variant(1))?,
            window_sizes: (0..depths.len()).map(window).collect(),
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
            crop_pct: 0.9,
            crop_mode: CropMode::Center,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        let sizes = self.architecture()?;
        let facts = json!({
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
        Ok(facts)
    }
}
