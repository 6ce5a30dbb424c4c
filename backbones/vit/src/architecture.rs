//! The sizes of the network and the options in which the members of the family differ.

use peft_core::backbone::{Facts, ImageSize};
use peft_core::error::{Error, Result};
use peft_core::layout::Layout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// timm's LayerNorm epsilon.
const EPSILON: f64 = 1e-6;

/// The sizes and options of a Vision Transformer; [`Architecture::checked`] makes sure that they fit
/// each other.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// The variant or family, for messages.
    pub name: String,
    /// Rows and columns of the image in pixels, multiples of `patch_size`.
    pub img_size: ImageSize,
    /// Rows and columns of a patch in pixels.
    pub patch_size: usize,
    /// Width `D` of the tokens, a multiple of `num_heads`.
    pub embed_dim: usize,
    /// Number of blocks `L`.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`, more than 0 and at most 64.
    pub mlp_ratio: f64,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether a class token comes first.
    pub class_token: bool,
    /// Number of register tokens between the class token and the patches.
    pub reg_tokens: usize,
    /// Whether only the patches have a position embedding.
    pub no_embed_class: bool,
    /// Initial value of LayerScale; `None` builds the blocks without it.
    pub init_values: Option<f64>,
    /// Whether the tokens are normed before the first block (`norm_pre`); the patch embedding then
    /// has no bias.
    pub pre_norm: bool,
    /// Activation of the MLPs.
    pub act_layer: MlpActivation,
    /// Epsilon that the norms add to the variance; `None` is timm's 1e-6 until weights of a library are
    /// loaded that has another.
    pub layer_norm_eps: Option<f64>,
    /// The pooling that turns the tokens into features.
    pub global_pool: GlobalPool,
    /// Whether the last norm comes after pooling (`fc_norm`) instead of before it (`norm`).
    pub fc_norm: bool,
    /// Output width of a linear layer without bias after the last norm (`projection`), if there is
    /// one.
    pub projection: Option<usize>,
    /// The parameter names of other libraries.
    pub layouts: &'static [Layout],
}

/// The pooling that turns the tokens into features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// The class token.
    #[default]
    Token,
    /// The mean of the patch tokens, without class and register tokens.
    Avg,
}

/// The activation between the two layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpActivation {
    /// The exact GELU, `x cdf(x)`.
    Gelu,
    /// OpenAI's approximation, `x sigmoid(1.702 x)`.
    QuickGelu,
}

impl Architecture {
    /// Returns the architecture if its sizes fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that does not fit.
    pub fn checked(self) -> Result<Self> {
        let positive = [
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("img_size", self.img_size.shorter()),
            ("projection_dim", self.projection.unwrap_or(1)),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(*field, "expected at least 1, got 0"));
        }
        let multiple = |field: &str, of: &str, value: ImageSize, unit: usize| {
            if value.sides().iter().all(|side| side.is_multiple_of(unit)) {
                return Ok(());
            }
            let expected = match value.is_square() {
                true => "a multiple",
                false => "multiples",
            };
            let message = format!("expected {expected} of {of} ({unit}), got {value}");
            Err(Error::config(field, message))
        };
        let width = ImageSize::square(self.embed_dim);
        multiple("img_size", "patch_size", self.img_size, self.patch_size)?;
        multiple("embed_dim", "num_heads", width, self.num_heads)?;
        let ratio = self.mlp_ratio;
        if !(ratio > 0.0 && ratio <= 64.0) {
            let message = format!("expected more than 0 and at most 64, got {ratio}");
            return Err(Error::config("mlp_ratio", message));
        }
        if !self.class_token && self.global_pool == GlobalPool::Token {
            let message = "expected avg where there is no class token, got token";
            return Err(Error::config("global_pool", message));
        }
        let epsilon = self.layer_norm_eps;
        if let Some(value) = epsilon.filter(|value| !(*value > 0.0 && *value < 1.0)) {
            let message = format!("expected more than 0 and less than 1, got {value}");
            return Err(Error::config("layer_norm_eps", message));
        }
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            let message = format!("expected a finite number, got {value}");
            return Err(Error::config("init_values", message));
        }
        Ok(self)
    }

    /// The facts of the network, to be compared with a file beside its weights.
    pub fn facts(&self) -> Facts {
        let facts = json!({
            "img_size": self.img_size,
            "patch_size": self.patch_size,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
            "class_token": self.class_token,
            "reg_tokens": self.reg_tokens,
            "no_embed_class": self.no_embed_class,
            "init_values": self.init_values,
            "pre_norm": self.pre_norm,
            "act_layer": self.act_layer,
            "global_pool": self.global_pool,
            "fc_norm": self.fc_norm,
            // No field sets the following: timm and transformers have options there.
            "num_features": self.embed_dim,
            "in_chans": 3,
            "qk_norm": false,
            "proj_bias": true,
            "final_norm": true,
            "pos_embed": "learn",
            "use_swiglu_ffn": false,
        });
        let mut facts = facts.as_object().cloned().unwrap_or_default();
        if let Some(projection) = self.projection {
            facts.insert("projection_dim".to_owned(), projection.into());
        }
        if let Some(epsilon) = self.layer_norm_eps {
            facts.insert("layer_norm_eps".to_owned(), epsilon.into());
        }
        facts
    }

    /// Epsilon of the norms before weights are loaded.
    pub(crate) fn epsilon(&self) -> f64 {
        self.layer_norm_eps.unwrap_or(EPSILON)
    }

    /// Rows and columns of patches.
    pub(crate) fn grid(&self) -> [usize; 2] {
        self.img_size.map(|side| side / self.patch_size).sides()
    }

    /// Number of tokens in the image: one for each patch.
    pub(crate) fn patches(&self) -> usize {
        self.grid().iter().product()
    }

    /// Number of tokens before the patches: the class token, then the registers.
    pub(crate) fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.reg_tokens
    }

    /// Hidden width of the MLPs, rounded down as timm does.
    pub(crate) fn mlp_hidden(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }
}
