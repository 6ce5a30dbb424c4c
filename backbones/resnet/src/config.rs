//! The configuration and the table of variants.

use std::path::PathBuf;

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Init, InputFields, InputSpec, Interpolation, variant,
};
use peft_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::ResidualNetwork;

/// A residual network: a variant of the table, or sizes of its own; a field that is given overrides
/// the variant's.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResNet {
    /// torchvision's name, for example `resnet50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Rows and columns of the image in pixels, at least 32. Default 224.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub img_size: Option<usize>,
    /// Two 3x3 convolutions (`basic`) or 1x1, 3x3, 1x1 (`bottleneck`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<BlockKind>,
    /// Blocks in each of the four stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<[usize; 4]>,
    /// Width of the 3x3 convolutions in each stage. Default 64, 128, 256, 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<[usize; 4]>,
    /// Mean of each channel that the checkpoint was trained with. Default ImageNet's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel. Default ImageNet's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<[f32; 3]>,
    /// How images are resized. Default bilinear (torchvision).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Part of the resized image that is kept: images are resized to `img_size / crop_pct` and the
    /// centre is cut out. Default 0.875.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f32>,
    /// What is resized: the shorter side (`center`), or both sides to a square (`squash`). Default
    /// `center`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_mode: Option<CropMode>,
    /// A checkpoint (safetensors, `.pth`, `.bin`) under torchvision's, timm's or transformers' names; without
    /// one the values are random.
    pub weights: Option<PathBuf>,
}

/// The residual branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// 3x3, 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 with four times the width at its end.
    Bottleneck,
}

impl BlockKind {
    /// Output channels over the stage's width.
    pub fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

/// torchvision's variants.
const VARIANTS: [(&str, (BlockKind, [usize; 4])); 5] = [
    ("resnet18", (BlockKind::Basic, [2, 2, 2, 2])),
    ("resnet34", (BlockKind::Basic, [3, 4, 6, 3])),
    ("resnet50", (BlockKind::Bottleneck, [3, 4, 6, 3])),
    ("resnet101", (BlockKind::Bottleneck, [3, 4, 23, 3])),
    ("resnet152", (BlockKind::Bottleneck, [3, 8, 36, 3])),
];

/// The sizes of a residual network, complete and consistent.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub name: String,
    pub img_size: usize,
    pub block: BlockKind,
    pub layers: [usize; 4],
    pub channels: [usize; 4],
}

impl ResNet {
    pub(crate) fn sizes(&self) -> Result<Sizes> {
        let row = match &self.variant {
            None => None,
            Some(name) => Some(variant(&VARIANTS, name)?),
        };
        let needed =
            |field: &str| Error::config(field, "expected a value, or a `variant` that has one");
        let block = self.block.or(row.map(|(block, _)| *block));
        let layers = self.layers.or(row.map(|(_, layers)| *layers));
        let sizes = Sizes {
            name: self.variant.clone().unwrap_or_else(|| "resnet".to_owned()),
            img_size: self.img_size.unwrap_or(224),
            block: block.ok_or_else(|| needed("block"))?,
            layers: layers.ok_or_else(|| needed("layers"))?,
            channels: self.channels.unwrap_or([64, 128, 256, 512]),
        };
        if sizes.img_size < 32 {
            let message = format!("expected at least 32, got {}", sizes.img_size);
            return Err(Error::config("img_size", message));
        }
        for (field, values) in [("layers", sizes.layers), ("channels", sizes.channels)] {
            if values.contains(&0) {
                let message = format!("expected four numbers of at least 1, got {values:?}");
                return Err(Error::config(field, message));
            }
        }
        Ok(sizes)
    }
}

#[typetag::serde(name = "resnet")]
impl BackboneConfig for ResNet {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (sizes, input) = (self.sizes()?, self.input()?);
        Ok(Box::new(ResidualNetwork::new(sizes, input, init)))
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
            mean: self.mean.unwrap_or([0.485, 0.456, 0.406]),
            std: self.std.unwrap_or([0.229, 0.224, 0.225]),
            interpolation: self.interpolation.unwrap_or(Interpolation::Bilinear),
            crop_pct: self.crop_pct.unwrap_or(0.875),
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
    Backbone, ResNet,
    name: "resnet",
    summary: "Residual network: 18, 34, 50, 101, 152, or sizes of your own",
    reference: "Deep Residual Learning for Image Recognition, He, Zhang, Ren and Sun, 2016",
    example: "name: resnet\nvariant: resnet50\n",
    tiny: &[
        "{name: resnet, img_size: 64, block: bottleneck, layers: [1, 2, 1, 1], \
          channels: [8, 16, 32, 64]}",
        "{name: resnet, img_size: 32, block: basic, layers: [1, 1, 1, 1], channels: [8, 8, 16, 16]}",
    ],
);
