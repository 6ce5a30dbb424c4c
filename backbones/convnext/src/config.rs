//! The configuration of the family.

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Facts, HasSource, ImageSize, Init, InputSpec,
    Interpolation, needed,
};
use peft_core::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::architecture::{Architecture, EPSILON, FeaturesAt, MLP_RATIO};
use crate::model::ConvNextNetwork;
use crate::variants::{Preparation, Row, find, preparation};

/// The value with which LayerScale starts in timm.
const LAYER_SCALE: f64 = 1e-6;

peft_core::backbone_config! {
    /// A ConvNeXt, version 1 or 2: a variant of the table or your own sizes. A field that is given overrides the
    /// variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct ConvNext {
        /// timm's name, for example `convnext_tiny` or `convnextv2_base`. A tag of weights
        /// (`convnext_base.clip_laion2b`) chooses mean, standard deviation and crop, and nothing else: `weights` says
        /// where they are.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Rows and columns of the image in pixels, at least 32: a number for a square, or `[height,
        /// width]`. Default 224.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<ImageSize>,
        /// Rows and columns of the stem's kernel, and its stride, in pixels. Default 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub patch_size: Option<usize>,
        /// Blocks in each stage, one to eight stages.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub depths: Option<Vec<usize>>,
        /// Channels of each stage.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub dims: Option<Vec<usize>>,
        /// Rows and columns of the depthwise kernels, an odd number. Default 7.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub kernel_sizes: Option<usize>,
        /// Whether the two layers of an MLP are convolutions of 1x1, which changes the shapes of their weights and no
        /// result. Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub conv_mlp: Option<bool>,
        /// Whether the MLPs have a global response normalisation (version 2). Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub use_grn: Option<bool>,
        /// Initial value of LayerScale; 0 for blocks without it. Default 1e-6, and 0 with `use_grn`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ls_init_value: Option<f64>,
        /// Whether the stem, the downsamplings and the depthwise convolutions have a bias. Default true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub conv_bias: Option<bool>,
        /// Whether the last norm comes before pooling (`norm_pre`) instead of after it (`head.norm`). Default the
        /// variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_norm_first: Option<bool>,
        /// Width of a hidden layer with a GELU before the head (`head.pre_logits.fc`). Default the variant's, else
        /// there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_hidden_size: Option<usize>,
        /// Whether the head sees the value before or after the hidden layer. The checkpoint's own head needs `after`.
        /// Default `before`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub features: Option<FeaturesAt>,
        /// The epsilon that the norms add to a variance. Default the variant's, else 1e-6.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub norm_eps: Option<f64>,
        /// The epsilon of the last norm. Default `norm_eps`, or 1e-12 with weights under transformers' names.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_norm_eps: Option<f64>,
    }
    source {
        mean: "ImageNet's; CLIP's for its image towers",
        std: "ImageNet's; CLIP's for its image towers",
        interpolation: "bicubic",
        crop_pct: "the variant's, else 0.875",
        weights: "(safetensors, `.pth`, `.bin`) under timm's, torchvision's, transformers', open_clip's or the original's names",
        layout: "`timm`, `torchvision`, `transformers`, `transformers-dinov3`, `facebook` or `open_clip`",
    }
}

impl ConvNext {
    fn row(&self) -> Result<Option<&'static Row>> {
        self.variant.as_deref().map(find).transpose()
    }

    fn architecture(&self) -> Result<Architecture> {
        let row = self.row()?;
        let or_no =
            |own: Option<bool>, of_row: fn(&Row) -> bool| own.unwrap_or(row.is_some_and(of_row));
        let use_grn = or_no(self.use_grn, |row| row.use_grn);
        let usual = if use_grn { 0.0 } else { LAYER_SCALE };
        let scale = self.ls_init_value.unwrap_or(usual);
        let depths = row.map(|row| row.depths.to_vec());
        let dims = row.map(|row| row.dims.to_vec());
        let hidden = row.and_then(|row| row.head_hidden_size);
        Architecture {
            name: self
                .variant
                .clone()
                .unwrap_or_else(|| "convnext".to_owned()),
            img_size: self.img_size.unwrap_or(224.into()),
            patch_size: self.patch_size.unwrap_or(4),
            depths: needed("depths", self.depths.clone(), depths)?,
            dims: needed("dims", self.dims.clone(), dims)?,
            kernel_sizes: self.kernel_sizes.unwrap_or(7),
            conv_mlp: or_no(self.conv_mlp, |row| row.conv_mlp),
            use_grn,
            ls_init_value: (scale != 0.0).then_some(scale),
            conv_bias: self.conv_bias.unwrap_or(true),
            head_norm_first: or_no(self.head_norm_first, |row| row.head_norm_first),
            head_hidden_size: self.head_hidden_size.or(hidden),
            features: self.features.unwrap_or_default(),
            norm_eps: self
                .norm_eps
                .or(row.map(|row| row.norm_eps))
                .unwrap_or(EPSILON),
            head_norm_eps: self.head_norm_eps,
        }
        .checked()
    }
}

#[typetag::serde(name = "convnext")]
impl BackboneConfig for ConvNext {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (architecture, input) = (self.architecture()?, self.input()?);
        Ok(Box::new(ConvNextNetwork::new(architecture, input, init)))
    }

    fn input(&self) -> Result<InputSpec> {
        let size = self.architecture()?.img_size;
        let named = self.variant.as_deref().zip(self.row()?);
        let Preparation {
            mean,
            std,
            crop_pct,
        } = named.map_or(Preparation::IMAGENET, |(name, row)| preparation(name, row));
        Ok(self.source().input(InputSpec {
            size,
            mean,
            std,
            interpolation: Interpolation::Bicubic,
            crop_pct,
            crop_mode: CropMode::Center,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        let sizes = self.architecture()?;
        let facts = json!({
            "img_size": sizes.img_size,
            "patch_size": sizes.patch_size,
            "depths": sizes.depths,
            "dims": sizes.dims,
            "kernel_sizes": sizes.kernel_sizes,
            "conv_mlp": sizes.conv_mlp,
            "use_grn": sizes.use_grn,
            "ls_init_value": sizes.ls_init_value.unwrap_or(0.0),
            "conv_bias": sizes.conv_bias,
            "head_norm_first": sizes.head_norm_first,
            "head_hidden_size": sizes.head_hidden_size,
            "norm_eps": sizes.norm_eps,
            "head_norm_eps": sizes.last_epsilon(),
            // No field sets the following: timm and transformers have options there.
            "num_features": sizes.dims.last(),
            "in_chans": 3,
            "act_layer": "gelu",
            "global_pool": "avg",
            "stem_type": "patch",
            "mlp_ratio": MLP_RATIO,
            "output_stride": 32,
        });
        Ok(facts.as_object().cloned().unwrap_or_default())
    }
}
