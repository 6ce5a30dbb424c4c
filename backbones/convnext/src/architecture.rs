//! The sizes and options of the network.

use peft_core::backbone::ImageSize;
use peft_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// timm's LayerNorm epsilon.
pub(crate) const EPSILON: f64 = 1e-6;

/// Hidden width of an MLP over its channels.
pub(crate) const MLP_RATIO: usize = 4;

/// The most stages: maps of a large image are a single position after as many.
const STAGES: usize = 8;

/// The value that the head sees where there is a hidden layer before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeaturesAt {
    /// The normed mean of the last map.
    #[default]
    Before,
    /// That after the hidden layer and a GELU.
    After,
}

/// The sizes and options of a ConvNeXt, under the names of the configuration's fields;
/// [`Architecture::checked`] makes sure that they fit each other.
#[derive(Clone, Debug)]
pub(crate) struct Architecture {
    /// The variant or family, for messages.
    pub name: String,
    /// Rows and columns of the image in pixels.
    pub img_size: ImageSize,
    pub patch_size: usize,
    /// Blocks in each stage.
    pub depths: Vec<usize>,
    /// Channels of each stage.
    pub dims: Vec<usize>,
    pub kernel_sizes: usize,
    pub conv_mlp: bool,
    pub use_grn: bool,
    /// Initial value of LayerScale; `None` builds the blocks without it.
    pub ls_init_value: Option<f64>,
    pub conv_bias: bool,
    pub head_norm_first: bool,
    pub head_hidden_size: Option<usize>,
    pub features: FeaturesAt,
    pub norm_eps: f64,
    /// Epsilon of the last norm, if it is stated; otherwise that of the others, or of the library whose weights
    /// are loaded.
    pub head_norm_eps: Option<f64>,
}

impl Architecture {
    /// Returns the architecture if its sizes fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that does not fit.
    pub fn checked(self) -> Result<Self> {
        let stages = self.depths.len();
        if stages == 0 || stages > STAGES || self.depths.contains(&0) {
            let message = format!(
                "expected 1 to {STAGES} stages of at least 1 block, got {:?}",
                self.depths
            );
            return Err(Error::config("depths", message));
        }
        if self.dims.len() != stages || self.dims.contains(&0) {
            let message = format!(
                "expected {stages} numbers of at least 1, one for each stage, got {:?}",
                self.dims
            );
            return Err(Error::config("dims", message));
        }
        if self.patch_size == 0 {
            return Err(Error::config("patch_size", "expected at least 1, got 0"));
        }
        if self.kernel_sizes.is_multiple_of(2) {
            let message = format!("expected an odd number, got {}", self.kernel_sizes);
            return Err(Error::config("kernel_sizes", message));
        }
        // Each downsampling halves the map and needs two rows and columns.
        let least = self.patch_size << (stages - 1);
        if self.img_size.shorter() < least {
            let message = format!(
                "expected at least {least}, which leaves one position in the last stage, got {}",
                self.img_size
            );
            return Err(Error::config("img_size", message));
        }
        if self.head_hidden_size.is_some() && self.head_norm_first {
            let message = "expected none with head_norm_first, which has no such layer";
            return Err(Error::config("head_hidden_size", message));
        }
        if self.head_hidden_size == Some(0) {
            return Err(Error::config(
                "head_hidden_size",
                "expected at least 1, got 0",
            ));
        }
        if self.features == FeaturesAt::After && self.head_hidden_size.is_none() {
            let message = "expected before, because there is no hidden layer, got after";
            return Err(Error::config("features", message));
        }
        for (field, value) in [
            ("norm_eps", Some(self.norm_eps)),
            ("head_norm_eps", self.head_norm_eps),
        ] {
            if let Some(value) = value.filter(|value| !(*value >= 0.0 && value.is_finite())) {
                let message = format!("expected a number of at least 0, got {value}");
                return Err(Error::config(field, message));
            }
        }
        Ok(self)
    }

    /// Rows and columns of the map in the stage with that index from 0. What a layer leaves over is not seen.
    pub fn grid(&self, stage: usize) -> [usize; 2] {
        self.img_size
            .map(|side| (side / self.patch_size) >> stage)
            .sides()
    }

    /// Width of the features.
    pub fn features(&self) -> usize {
        let hidden = self
            .head_hidden_size
            .filter(|_| self.features == FeaturesAt::After);
        hidden.or(self.dims.last().copied()).unwrap_or_default()
    }

    /// Epsilon of the last norm until weights are loaded.
    pub fn last_epsilon(&self) -> f64 {
        self.head_norm_eps.unwrap_or(self.norm_eps)
    }
}
