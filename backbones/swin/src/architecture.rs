//! The sizes of the network.

use peft_core::backbone::ImageSize;
use peft_core::error::{Error, Result};

/// timm's LayerNorm epsilon, and the default of transformers.
pub(crate) const EPSILON: f64 = 1e-5;

/// The sizes of a Swin Transformer, under the names of the configuration's fields;
/// [`Architecture::checked`] makes sure that they fit each other.
#[derive(Clone, Debug)]
pub(crate) struct Architecture {
    /// The variant or family, for messages.
    pub name: String,
    pub img_size: ImageSize,
    pub patch_size: usize,
    pub embed_dim: usize,
    pub depths: Vec<usize>,
    pub num_heads: Vec<usize>,
    /// Rows and columns of a window in each stage.
    pub window_sizes: Vec<usize>,
    pub version: Version,
    /// Rows and columns of a window with which version 2 was pretrained, in each stage; 0 for those that it
    /// has here.
    pub pretrained_window_sizes: Vec<usize>,
    pub mlp_ratio: f64,
    pub qkv_bias: bool,
    /// The epsilon that the norms of the blocks and the last norm add to a variance.
    pub layer_norm_eps: f64,
}

/// The two networks of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Norms before the branches, a table of position biases (Liu et al., 2021).
    One,
    /// Norms behind the branches, cosine attention, position biases from a small network (Liu et al.,
    /// 2022).
    Two,
}

impl Version {
    /// The version of that number.
    ///
    /// # Errors
    /// [`Error::Config`] for another number.
    pub fn of(number: usize) -> Result<Self> {
        match number {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            _ => {
                let message = format!("expected 1 or 2, got {number}");
                Err(Error::config("version", message))
            }
        }
    }

    /// Its number.
    pub fn number(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// The sizes of one stage.
pub(crate) struct StageSizes {
    /// Channels.
    pub width: usize,
    /// Hidden width of the MLPs.
    pub hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Rows and columns of the map.
    pub grid: [usize; 2],
    /// Rows and columns of a window; where the map has fewer, so has the window.
    pub window: usize,
    /// Rows and columns of a window in pretraining, or 0.
    pub pretrained_window: usize,
    pub version: Version,
    pub qkv_bias: bool,
}

impl Architecture {
    /// Returns the architecture if its sizes fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that does not fit.
    pub fn checked(self) -> Result<Self> {
        let positive = [
            ("img_size", self.img_size.shorter()),
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            (
                "window_size",
                self.window_sizes.iter().copied().min().unwrap_or(1),
            ),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(*field, "expected at least 1, got 0"));
        }
        let (size, patch) = (self.img_size, self.patch_size);
        if !size.sides().iter().all(|side| side.is_multiple_of(patch)) {
            let expected = match size.is_square() {
                true => "a multiple",
                false => "multiples",
            };
            let message = format!("expected {expected} of patch_size ({patch}), got {size}");
            return Err(Error::config("img_size", message));
        }
        // Channels double from stage to stage, so their number would overflow after many stages.
        let (stages, most) = (self.depths.len(), 16);
        if stages == 0 || stages > most || self.depths.contains(&0) {
            let message = format!(
                "expected 1 to {most} stages of at least 1 block, got {:?}",
                self.depths
            );
            return Err(Error::config("depths", message));
        }
        let widths: Vec<usize> = (0..stages).map(|stage| self.embed_dim << stage).collect();
        let divides = |(width, heads): (&usize, &usize)| *heads > 0 && width % heads == 0;
        if self.num_heads.len() != stages || !widths.iter().zip(&self.num_heads).all(divides) {
            let message = format!(
                "expected one divisor of its channels for each stage ({widths:?}), got {:?}",
                self.num_heads
            );
            return Err(Error::config("num_heads", message));
        }
        let pretrained = &self.pretrained_window_sizes;
        if pretrained.len() != stages {
            let message =
                format!("expected one size for each of {stages} stages, got {pretrained:?}");
            return Err(Error::config("pretrained_window_sizes", message));
        }
        if self.version == Version::One && pretrained.iter().any(|size| *size > 0) {
            let message = "only version 2 has pretrained windows";
            return Err(Error::config("pretrained_window_sizes", message));
        }
        let ratio = self.mlp_ratio;
        if !(ratio > 0.0 && ratio <= 64.0) {
            let message = format!("expected more than 0 and at most 64, got {ratio}");
            return Err(Error::config("mlp_ratio", message));
        }
        Ok(self)
    }

    /// The sizes of the stage with that index from 0.
    pub fn stage(&self, stage: usize) -> StageSizes {
        let width = self.embed_dim << stage;
        StageSizes {
            width,
            hidden: (width as f64 * self.mlp_ratio) as usize,
            heads: self.num_heads[stage],
            // Each downsampling halves the map, rounded up: it pads an odd one.
            grid: (self.img_size)
                .map(|side| (side / self.patch_size).div_ceil(1 << stage))
                .sides(),
            window: self.window_sizes[stage],
            pretrained_window: self.pretrained_window_sizes[stage],
            version: self.version,
            qkv_bias: self.qkv_bias,
        }
    }
    /// Channels of the last stage, which are the features.
    pub fn features(&self) -> usize {
        self.embed_dim << (self.depths.len() - 1)
    }
}
