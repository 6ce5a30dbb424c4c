//! What the network is built of: sizes, and the options in which its families differ.

use peft_core::backbone::Facts;
use peft_core::error::{Error, Result};
use peft_core::layout::Layout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// timm's LayerNorm epsilon.
const EPSILON: f64 = 1e-6;

/// What a Vision Transformer is built of, complete and consistent.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// The variant or family, for messages.
    pub name: String,
    /// Rows and columns of the image in pixels, a multiple of `patch_size`.
    pub img_size: usize,
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
    /// Whether a class token stands first.
    pub class_token: bool,
    /// Register tokens behind it, before the patches.
    pub reg_tokens: usize,
    /// Whether only patches have a position embedding.
    pub no_embed_class: bool,
    /// What LayerScale starts with; without it there is none.
    pub init_values: Option<f64>,
    /// Whether a norm stands before the first block (`norm_pre`); the patch embedding then has no
    /// bias.
    pub pre_norm: bool,
    /// What the MLPs apply.
    pub act_layer: MlpActivation,
    /// What the norms add to a variance; without it timm's 1e-6, until weights of a library are loaded
    /// that adds another number.
    pub layer_norm_eps: Option<f64>,
    /// What the head sees.
    pub global_pool: GlobalPool,
    /// Whether the last norm stands after pooling (`fc_norm`) and not before it (`norm`).
    pub fc_norm: bool,
    /// Width of a linear layer without bias after the last norm (`projection`), if there is one.
    pub projection: Option<usize>,
    /// Spellings of other libraries.
    pub layouts: &'static [Layout],
}

/// What the head sees of the tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GlobalPool {
    /// The class token.
    #[default]
    Token,
    /// The mean of the patch tokens; class and register tokens are left out.
    Avg,
}

/// What the MLPs apply between their two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpActivation {
    /// `x cdf(x)`, exact.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

impl Architecture {
    /// The same, if its sizes fit each other.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field that does not.
    pub fn checked(self) -> Result<Self> {
        let positive = [
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("img_size", self.img_size),
            ("projection_dim", self.projection.unwrap_or(1)),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(*field, "expected at least 1, got 0"));
        }
        let multiple = |field: &str, of: &str, value: usize, unit: usize| {
            if value.is_multiple_of(unit) {
                return Ok(());
            }
            let message = format!("expected a multiple of {of} ({unit}), got {value}");
            Err(Error::config(field, message))
        };
        multiple("img_size", "patch_size", self.img_size, self.patch_size)?;
        multiple("embed_dim", "num_heads", self.embed_dim, self.num_heads)?;
        let ratio = self.mlp_ratio;
        if !(ratio > 0.0 && ratio <= 64.0) {
            let message = format!("expected more than 0 and at most 64, got {ratio}");
            return Err(Error::config("mlp_ratio", message));
        }
        if !self.class_token && self.global_pool == GlobalPool::Token {
            let message = "expected avg where there is no class token, got token";
            return Err(Error::config("global_pool", message));
        }
        if let Some(value) = self
            .layer_norm_eps
            .filter(|eps| !(*eps > 0.0 && *eps < 1.0))
        {
            let message = format!("expected more than 0 and less than 1, got {value}");
            return Err(Error::config("layer_norm_eps", message));
        }
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            let message = format!("expected a finite number, got {value}");
            return Err(Error::config("init_values", message));
        }
        Ok(self)
    }

    /// The facts of the network, for comparison with files beside its weights.
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
            // The last have one value here.
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

    /// What the norms of a new network add to a variance.
    pub(crate) fn epsilon(&self) -> f64 {
        self.layer_norm_eps.unwrap_or(EPSILON)
    }

    /// Patches along one side.
    pub(crate) fn grid(&self) -> usize {
        self.img_size / self.patch_size
    }

    /// Tokens before the patches: the class token, then registers.
    pub(crate) fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.reg_tokens
    }

    pub(crate) fn mlp_hidden(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }
}
