//! The configuration of the family and the table of its variants.

use peft_core::backbone::{
    Backbone, BackboneConfig, CropMode, Facts, HasSource, IMAGENET_MEAN, IMAGENET_STD, ImageSize,
    Init, InputSpec, Interpolation, needed, variant,
};
use peft_core::error::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::architecture::{Architecture, BlockKind, STEM, StemType, WIDTH};
use crate::model::ResidualNetwork;

peft_core::backbone_config! {
    /// A residual network: a variant of the table or your own sizes. A field that is given overrides the
    /// variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct ResNet {
        /// timm's name, for example `resnet50d`; torchvision has the same names where it has the network.
        /// A tag of weights (`resnet50.a1_in1k`) is ignored: `weights` says where they are.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Rows and columns of the image in pixels, at least 32: a number for a square, or `[height,
        /// width]`. Default 224.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<ImageSize>,
        /// The layers of a block: two convolutions of 3x3 (`basic`), or 1x1, 3x3 and 1x1 (`bottleneck`).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub block: Option<BlockKind>,
        /// Blocks in each of the four stages.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub layers: Option<[usize; 4]>,
        /// Width of each stage; a bottleneck's output is four times as wide. Default 64, 128, 256, 512.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub channels: Option<[usize; 4]>,
        /// Groups of a bottleneck's 3x3 convolution (ResNeXt). Default 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cardinality: Option<usize>,
        /// Width of each of these groups in a stage of width 64, in proportion elsewhere. Default 64.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub base_width: Option<usize>,
        /// One convolution of 7x7 (an empty string) or three of 3x3 (`deep`, `deep_tiered`). Default the
        /// variant's, else one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stem_type: Option<StemType>,
        /// Width of the second of three convolutions; the third is twice as wide, the first as wide
        /// (`deep`) or three quarters as wide (`deep_tiered`). Default the variant's, else 64, which a
        /// stem of one convolution always has.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stem_width: Option<usize>,
        /// Whether a shortcut to a smaller map averages neighbours before its convolution, which then has
        /// no stride. Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub avg_down: Option<bool>,
    }
    source {
        mean: "ImageNet's",
        std: "ImageNet's",
        interpolation: "bilinear (torchvision)",
        crop_pct: "0.875",
        weights: "(safetensors, `.pth`, `.bin`) under torchvision's, timm's or transformers' names",
        layout: "`timm`, which is torchvision too, or `transformers`",
    }
}

/// A row of the table, under the names of the configuration's fields; all stages have the default
/// widths.
#[derive(Clone, Copy, Debug)]
struct Row {
    block: BlockKind,
    layers: [usize; 4],
    cardinality: usize,
    base_width: usize,
    stem_type: StemType,
    stem_width: usize,
    avg_down: bool,
}

/// The original network of He et al.
const fn row(block: BlockKind, layers: [usize; 4]) -> Row {
    Row {
        block,
        layers,
        cardinality: 1,
        base_width: WIDTH,
        stem_type: StemType::Plain,
        stem_width: STEM,
        avg_down: false,
    }
}

const fn basic(layers: [usize; 4]) -> Row {
    row(BlockKind::Basic, layers)
}

const fn bottleneck(layers: [usize; 4]) -> Row {
    row(BlockKind::Bottleneck, layers)
}

impl Row {
    const fn stem(self, stem_type: StemType, stem_width: usize) -> Self {
        Self {
            stem_type,
            stem_width,
            ..self
        }
    }

    /// The variant with a deep stem.
    const fn c(self) -> Self {
        self.stem(StemType::Deep, 32)
    }

    /// The variant with a deep stem and averaging shortcuts.
    const fn d(self) -> Self {
        self.c().averaging()
    }

    /// The variant with a wide deep stem.
    const fn s(self) -> Self {
        self.stem(StemType::Deep, 64)
    }

    /// The variant with a tiered stem and averaging shortcuts.
    const fn t(self) -> Self {
        self.stem(StemType::DeepTiered, 32).averaging()
    }

    const fn averaging(self) -> Self {
        Self {
            avg_down: true,
            ..self
        }
    }

    const fn groups(self, cardinality: usize, base_width: usize) -> Self {
        Self {
            cardinality,
            base_width,
            ..self
        }
    }
}

/// timm's variants. A letter behind the number stands for the method of [`Row`] with that name.
#[rustfmt::skip]
const VARIANTS: [(&str, Row); 33] = [
    ("resnet10t", basic([1, 1, 1, 1]).t()),
    ("resnet14t", bottleneck([1, 1, 1, 1]).t()),
    ("resnet18", basic([2, 2, 2, 2])),
    ("resnet18d", basic([2, 2, 2, 2]).d()),
    ("resnet26", bottleneck([2, 2, 2, 2])),
    ("resnet26d", bottleneck([2, 2, 2, 2]).d()),
    ("resnet26t", bottleneck([2, 2, 2, 2]).t()),
    ("resnet34", basic([3, 4, 6, 3])),
    ("resnet34d", basic([3, 4, 6, 3]).d()),
    ("resnet50", bottleneck([3, 4, 6, 3])),
    ("resnet50c", bottleneck([3, 4, 6, 3]).c()),
    ("resnet50d", bottleneck([3, 4, 6, 3]).d()),
    ("resnet50s", bottleneck([3, 4, 6, 3]).s()),
    ("resnet50t", bottleneck([3, 4, 6, 3]).t()),
    ("resnet101", bottleneck([3, 4, 23, 3])),
    ("resnet101c", bottleneck([3, 4, 23, 3]).c()),
    ("resnet101d", bottleneck([3, 4, 23, 3]).d()),
    ("resnet101s", bottleneck([3, 4, 23, 3]).s()),
    ("resnet152", bottleneck([3, 8, 36, 3])),
    ("resnet152c", bottleneck([3, 8, 36, 3]).c()),
    ("resnet152d", bottleneck([3, 8, 36, 3]).d()),
    ("resnet152s", bottleneck([3, 8, 36, 3]).s()),
    ("resnet200", bottleneck([3, 24, 36, 3])),
    ("resnet200d", bottleneck([3, 24, 36, 3]).d()),
    ("wide_resnet50_2", bottleneck([3, 4, 6, 3]).groups(1, 128)),
    ("wide_resnet101_2", bottleneck([3, 4, 23, 3]).groups(1, 128)),
    ("resnext50_32x4d", bottleneck([3, 4, 6, 3]).groups(32, 4)),
    ("resnext50d_32x4d", bottleneck([3, 4, 6, 3]).d().groups(32, 4)),
    ("resnext101_32x4d", bottleneck([3, 4, 23, 3]).groups(32, 4)),
    ("resnext101_32x8d", bottleneck([3, 4, 23, 3]).groups(32, 8)),
    ("resnext101_32x16d", bottleneck([3, 4, 23, 3]).groups(32, 16)),
    ("resnext101_32x32d", bottleneck([3, 4, 23, 3]).groups(32, 32)),
    ("resnext101_64x4d", bottleneck([3, 4, 23, 3]).groups(64, 4)),
];

/// The names of the table.
pub(crate) fn variants() -> Vec<&'static str> {
    VARIANTS.iter().map(|(name, _)| *name).collect()
}

impl ResNet {
    fn architecture(&self) -> Result<Architecture> {
        let name = self.variant.as_deref();
        let of_variant = name.map(|name| variant(&VARIANTS, name)).transpose()?;
        let block = needed("block", self.block, of_variant.map(|row| row.block))?;
        let layers = needed("layers", self.layers, of_variant.map(|row| row.layers))?;
        let of_variant = of_variant.copied().unwrap_or(row(block, layers));
        let stem_type = self.stem_type.unwrap_or(of_variant.stem_type);
        let stem_width = match stem_type {
            StemType::Plain => STEM,
            StemType::Deep | StemType::DeepTiered => of_variant.stem_width,
        };
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "resnet".to_owned()),
            img_size: self.img_size.unwrap_or(224.into()),
            block,
            layers,
            channels: self.channels.unwrap_or([64, 128, 256, 512]),
            cardinality: self.cardinality.unwrap_or(of_variant.cardinality),
            base_width: self.base_width.unwrap_or(of_variant.base_width),
            stem_type,
            stem_width: self.stem_width.unwrap_or(stem_width),
            avg_down: self.avg_down.unwrap_or(of_variant.avg_down),
        }
        .checked()
    }
}

#[typetag::serde(name = "resnet")]
impl BackboneConfig for ResNet {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (architecture, input) = (self.architecture()?, self.input()?);
        Ok(Box::new(ResidualNetwork::new(architecture, input, init)))
    }

    fn input(&self) -> Result<InputSpec> {
        Ok(self.source().input(InputSpec {
            size: self.architecture()?.img_size,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
            interpolation: Interpolation::Bilinear,
            crop_pct: 0.875,
            crop_mode: CropMode::Center,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        let sizes = self.architecture()?;
        let facts = json!({
            "img_size": sizes.img_size,
            "block": sizes.block,
            "layers": sizes.layers,
            "channels": sizes.channels,
            "cardinality": sizes.cardinality,
            "base_width": sizes.base_width,
            "stem_type": sizes.stem_type,
            "stem_width": sizes.stem_width,
            "avg_down": sizes.avg_down,
            // No field sets the following: timm and transformers have options there. A bottleneck's
            // stride is that of its 3x3 convolution.
            "num_features": sizes.channels[3] * sizes.block.expansion(),
            "in_chans": 3,
            "act_layer": "relu",
            "global_pool": "avg",
            "embedding_size": STEM,
            "downsample_in_first_stage": false,
            "downsample_in_bottleneck": false,
            "output_stride": 32,
            "block_reduce_first": 1,
            "down_kernel_size": 1,
            "replace_stem_pool": false,
        });
        Ok(facts.as_object().cloned().unwrap_or_default())
    }
}
