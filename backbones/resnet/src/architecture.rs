//! The sizes of the network and its kinds of blocks and stems.

use peft_core::backbone::ImageSize;
use peft_core::error::{Error, Result};
use peft_core::layout::Layout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layouts::LAYOUTS;

/// Width of a stem of one convolution, whatever the stages' widths.
pub(crate) const STEM: usize = 64;
/// The stage's width that `base_width` refers to.
pub(crate) const WIDTH: usize = 64;

/// The layers of the residual branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BlockKind {
    /// Two convolutions of 3x3.
    Basic,
    /// Convolutions of 1x1, 3x3 and 1x1; the output is four times as wide as the stage.
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

/// The convolutions before the pooling of the stem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StemType {
    /// One convolution of 7x7.
    #[serde(rename = "")]
    Plain,
    /// Three convolutions of 3x3.
    Deep,
    /// Three convolutions of 3x3, the first of them narrower.
    DeepTiered,
}

/// The sizes of a residual network, under the names of the configuration's fields;
/// [`Architecture::checked`] makes sure that they fit each other.
#[derive(Clone, Debug)]
pub(crate) struct Architecture {
    /// The variant or family, for messages.
    pub name: String,
    pub img_size: ImageSize,
    pub block: BlockKind,
    pub layers: [usize; 4],
    pub channels: [usize; 4],
    pub cardinality: usize,
    pub base_width: usize,
    pub stem_type: StemType,
    pub stem_width: usize,
    pub avg_down: bool,
}

impl Architecture {
    /// Channels of the 3x3 convolutions in a stage, all groups together.
    pub(crate) fn width(&self, stage: usize) -> usize {
        self.channels[stage] * self.base_width / WIDTH * self.cardinality
    }

    /// Channels of a block's output in a stage, counted from 0.
    pub(crate) fn outputs(&self, stage: usize) -> usize {
        self.channels[stage] * self.block.expansion()
    }

    /// Channels of the three convolutions of a deep stem.
    pub(crate) fn stem_widths(&self) -> [usize; 3] {
        let width = self.stem_width;
        match self.stem_type {
            StemType::DeepTiered => [width / 4 * 3, width, 2 * width],
            StemType::Plain | StemType::Deep => [width, width, 2 * width],
        }
    }

    /// The parameter names of other libraries; transformers implements only He et al.'s network.
    pub(crate) fn layouts(&self) -> &'static [Layout] {
        let original = !self.avg_down
            && self.stem_type == StemType::Plain
            && (self.cardinality, self.base_width) == (1, WIDTH);
        if original { &LAYOUTS } else { &[] }
    }

    /// Returns the architecture if its sizes fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that does not fit.
    pub(crate) fn checked(self) -> Result<Self> {
        let Self {
            cardinality,
            base_width,
            stem_width,
            ..
        } = self;
        if self.img_size.shorter() < 32 {
            let message = format!("expected at least 32, got {}", self.img_size);
            return Err(Error::config("img_size", message));
        }
        for (field, values) in [("layers", self.layers), ("channels", self.channels)] {
            if values.contains(&0) {
                let message = format!("expected four numbers of at least 1, got {values:?}");
                return Err(Error::config(field, message));
            }
        }
        for (field, value, own) in [
            ("cardinality", cardinality, 1),
            ("base_width", base_width, WIDTH),
        ] {
            if self.block == BlockKind::Basic && value != own {
                let message = format!("expected {own}, as basic blocks have it, got {value}");
                return Err(Error::config(field, message));
            }
        }
        if cardinality == 0 {
            return Err(Error::config("cardinality", "expected at least 1, got 0"));
        }
        // The width is rounded down, so a narrow stage could be left without channels.
        if let Some(stage) = (0..4).find(|&stage| self.width(stage) == 0) {
            let channels = self.channels[stage];
            let least = WIDTH.div_ceil(channels);
            let message =
                format!("expected at least {least} for {channels} channels, got {base_width}");
            return Err(Error::config("base_width", message));
        }
        let (fits, expected) = match self.stem_type {
            StemType::Plain => (stem_width == STEM, "64, the width of one convolution"),
            StemType::Deep => (stem_width >= 1, "at least 1"),
            StemType::DeepTiered => (stem_width >= 4, "at least 4"),
        };
        if !fits {
            let message = format!("expected {expected}, got {stem_width}");
            return Err(Error::config("stem_width", message));
        }
        Ok(self)
    }
}
