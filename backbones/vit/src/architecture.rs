//! The sizes of the network and the options in which the members of the family differ.

use peft_core::backbone::{Facts, ImageSize};
use peft_core::error::{Error, Result};
use peft_core::layout::Layout;
use peft_ops::Gelu;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rope::Rope;

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
    /// Whether rows and columns of pixels behind the last whole patch are left out, instead of being refused.
    pub trims: bool,
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
    /// The number of which the hidden width is a multiple, rounded up; 0 for any.
    pub mlp_align: usize,
    /// How queries, keys and values are projected.
    pub qkv: Qkv,
    /// Whether the mixed values are normed before the last projection of attention (`attn.norm`).
    pub scale_attn_inner: bool,
    /// The function that the MLPs apply between their layers.
    pub mlp: MlpKind,
    /// Whether the hidden values are normed before the MLP's last layer (`mlp.norm`).
    pub scale_mlp: bool,
    /// Whether a class token comes first.
    pub class_token: bool,
    /// Number of register tokens between the class token and the patches.
    pub reg_tokens: usize,
    /// Whether tokens have a learned position embedding.
    pub use_abs_pos_emb: bool,
    /// Whether only the patches have a position embedding.
    pub no_embed_class: bool,
    /// The rotary position embedding, if there is one.
    pub rope: Option<Rope>,
    /// Initial value of LayerScale; `None` builds the blocks without it.
    pub init_values: Option<f64>,
    /// Whether the tokens are normed before the first block (`norm_pre`); the patch embedding then
    /// has no bias.
    pub pre_norm: bool,
    /// Activation of the MLPs.
    pub act_layer: MlpActivation,
    /// Epsilon that the norms add to the variance; `None` is timm's until weights of a library are loaded
    /// that has another.
    pub layer_norm_eps: Option<f64>,
    /// The pooling that turns the tokens into features.
    pub global_pool: GlobalPool,
    /// Whether the last norm comes after pooling (`fc_norm`) instead of before it (`norm`).
    pub fc_norm: bool,
    /// Output width of a linear layer without bias after the last norm (`projection`), if there is
    /// one.
    pub projection: Option<usize>,
    /// The options that the configuration states, so that a library's weights do not change them.
    pub stated: Stated,
    /// The parameter names of other libraries.
    pub layouts: &'static [Layout],
}

/// The options that differ between libraries with the same weights, and whether a configuration states them.
#[derive(Clone, Copy, Debug)]
pub struct Stated {
    /// `act_layer`.
    pub act_layer: bool,
    /// `global_pool`.
    pub global_pool: bool,
}

/// How queries, keys and values are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qkv {
    /// Whether one layer projects all three (`qkv`), and not one each (`q_proj`, `k_proj`, `v_proj`).
    pub fused: bool,
    /// The projections among them that have a bias.
    pub bias: QkvBias,
    /// Whether the queries and keys of each head are normed.
    pub norm: bool,
}

/// The projections among queries, keys and values that have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvBias {
    /// None of them.
    None,
    /// Queries and values.
    QueryValue,
    /// All three.
    All,
}

impl Qkv {
    /// One layer with a bias, without norms.
    pub const PLAIN: Self = Self {
        fused: true,
        bias: QkvBias::All,
        norm: false,
    };
}

/// The function that an MLP applies between its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlpKind {
    /// An activation of one layer's output, `fc1`.
    Plain,
    /// SwiGLU of two layers' outputs: the gate is `fc1_g`, the gated value `fc1_x`.
    Swiglu,
    /// SwiGLU of the first and the second half of one layer's output, `fc1`.
    SwigluPacked,
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
    /// What a learned query gathers from the patch tokens by attention, with an MLP behind it (`attn_pool`).
    Map,
}

/// The activation between the two layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MlpActivation {
    /// The exact GELU, `x cdf(x)`.
    Gelu,
    /// Its approximation by tanh, which transformers calls `gelu_pytorch_tanh`.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// OpenAI's approximation, `x sigmoid(1.702 x)`.
    QuickGelu,
}

impl MlpActivation {
    /// The function.
    pub(crate) fn gelu(self) -> Gelu {
        match self {
            Self::Gelu => Gelu::Exact,
            Self::GeluTanh => Gelu::Tanh,
            Self::QuickGelu => Gelu::Quick,
        }
    }
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
        match self.trims {
            false => multiple("img_size", "patch_size", self.img_size, self.patch_size)?,
            true if self.patches() > 0 => {}
            true => {
                let (patch, got) = (self.patch_size, self.img_size);
                let message = format!("expected at least patch_size ({patch}), got {got}");
                return Err(Error::config("img_size", message));
            }
        }
        multiple("embed_dim", "num_heads", width, self.num_heads)?;
        let ratio = self.mlp_ratio;
        if !(ratio > 0.0 && ratio <= 64.0) {
            let message = format!("expected more than 0 and at most 64, got {ratio}");
            return Err(Error::config("mlp_ratio", message));
        }
        if !self.class_token && self.global_pool == GlobalPool::Token {
            let message = "expected avg or map where there is no class token, got token";
            return Err(Error::config("global_pool", message));
        }
        if self.rope.is_some() {
            multiple("embed_dim", "4 num_heads", width, 4 * self.num_heads)?;
        }
        if let Some(rope) = &self.rope {
            rope.check()?;
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
            "qkv_bias": self.qkv.bias != QkvBias::None,
            "key_bias": self.qkv.bias == QkvBias::All,
            "qkv_fused": self.qkv.fused,
            "qk_norm": self.qkv.norm,
            "swiglu_mlp": self.mlp != MlpKind::Plain,
            "scale_mlp": self.scale_mlp,
            "scale_attn_inner": self.scale_attn_inner,
            "use_abs_pos_emb": self.use_abs_pos_emb,
            "use_rot_pos_emb": self.rope.is_some(),
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
            "proj_bias": true,
            "mlp_bias": true,
            "value_bias": self.qkv.bias != QkvBias::None,
            "final_norm": true,
            "pos_embed": "learn",
            "use_swiglu_ffn": self.mlp != MlpKind::Plain,
            "use_gated_mlp": self.mlp != MlpKind::Plain,
        });
        let mut facts = facts.as_object().cloned().unwrap_or_default();
        if let Some(projection) = self.projection {
            facts.insert("projection_dim".to_owned(), projection.into());
        }
        if let Some(epsilon) = self.layer_norm_eps {
            facts.insert("layer_norm_eps".to_owned(), epsilon.into());
        }
        facts.extend(self.rope.iter().flat_map(Rope::facts));
        facts
    }

    /// Epsilon of the norms before weights are loaded.
    pub(crate) fn epsilon(&self) -> f64 {
        let of_rope = self.rope.map(|rope| rope.epsilon());
        self.layer_norm_eps.or(of_rope).unwrap_or(EPSILON)
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

    /// Hidden width of the MLPs, rounded as timm does: down, then up to the multiple.
    pub(crate) fn mlp_hidden(&self) -> usize {
        let hidden = (self.embed_dim as f64 * self.mlp_ratio) as usize;
        hidden.next_multiple_of(self.mlp_align.max(1))
    }
}
