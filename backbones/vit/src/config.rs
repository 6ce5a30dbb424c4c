//! The configuration of the family.

use peft_core::backbone::{
    Backbone, BackboneConfig, Facts, HasSource, ImageSize, Init, InputSpec, Interpolation, needed,
    variant,
};
use peft_core::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, GlobalPool, MlpActivation, MlpKind, Qkv, QkvBias, Stated};
use crate::layouts::LAYOUTS;
use crate::model::VisionTransformer;
use crate::rope::{Rope, RopeType};
use crate::variants::{DEFAULT, Row, VARIANTS};

peft_core::backbone_config! {
    /// A Vision Transformer: a variant of the table or your own sizes. A field that is given overrides
    /// the variant's.
    #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    pub struct Vit {
        /// timm's name, for example `vit_base_patch16_224`. A tag behind a dot
        /// (`vit_base_patch16_224.dino`) names weights and is ignored: `weights` says where they are, and
        /// `mean` and `std` how their images were normalised, if not as the variant's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub variant: Option<String>,
        /// Rows and columns of the image in pixels, multiples of `patch_size`: a number for a square, or
        /// `[height, width]`. Default the variant's, else 224.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub img_size: Option<ImageSize>,
        /// Rows and columns of a patch in pixels. Default the variant's, else 16.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub patch_size: Option<usize>,
        /// Width `D` of the tokens, a multiple of `num_heads`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub embed_dim: Option<usize>,
        /// Number of blocks `L`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub depth: Option<usize>,
        /// Attention heads.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub num_heads: Option<usize>,
        /// Hidden width of the MLP over `embed_dim`. Default the variant's, else 4.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mlp_ratio: Option<f64>,
        /// Whether queries and values have a bias, and keys unless `key_bias` is false. Default the variant's,
        /// else true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub qkv_bias: Option<bool>,
        /// Whether keys have a bias where queries and values have one. Default the variant's, else true
        /// without `rope_type`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_bias: Option<bool>,
        /// Whether one layer projects queries, keys and values, instead of a layer each. Default the
        /// variant's, else true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub qkv_fused: Option<bool>,
        /// Whether the queries and keys of each head are normed. Default false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub qk_norm: Option<bool>,
        /// Whether the values that attention mixed are normed before its last layer. Default the variant's,
        /// else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub scale_attn_inner: Option<bool>,
        /// Whether the MLPs are gated: SwiGLU instead of `act_layer`. Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub swiglu_mlp: Option<bool>,
        /// The number of which the hidden width of a gated MLP is a multiple. With one above 0, or with
        /// `scale_mlp`, gate and gated value are layers of their own; else they are two halves of one layer.
        /// Default the variant's, else 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub swiglu_align_to: Option<usize>,
        /// Whether the hidden values are normed before the MLP's last layer. Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub scale_mlp: Option<bool>,
        /// Whether a class token comes first. Default the variant's, else true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub class_token: Option<bool>,
        /// Number of register tokens behind the class token. Default the variant's, else 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reg_tokens: Option<usize>,
        /// Whether tokens have a learned position embedding. Default the variant's, else true unless
        /// `rope_type` is `dinov3`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub use_abs_pos_emb: Option<bool>,
        /// The rotary position embedding of the patches: `dinov3`, or `cat`, which is EVA-02's. Default the
        /// variant's, else none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rope_type: Option<RopeType>,
        /// The ratio of its longest to its shortest period, more than 1. Default 100 for `dinov3`, 10000 for
        /// `cat`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rope_temperature: Option<f64>,
        /// Rows and columns of the grid of the pretraining, to which the places of patches are scaled with
        /// `rope_type: cat`. Default the variant's, else the image's own grid.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ref_feat_shape: Option<[usize; 2]>,
        /// Whether only the patches have a position embedding, and not the class token and the registers.
        /// Default the variant's, else false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub no_embed_class: Option<bool>,
        /// Initial value of LayerScale; a checkpoint replaces it. Default the variant's, else the blocks
        /// have no LayerScale.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub init_values: Option<f64>,
        /// Whether the tokens are normed before the first block; the patch embedding then has no bias.
        /// Default false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub pre_norm: Option<bool>,
        /// Activation of the MLPs. Default the variant's, else `gelu`, or `gelu_tanh` for weights in the names
        /// of transformers' SigLIP.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub act_layer: Option<MlpActivation>,
        /// The pooling that turns the tokens into features. Default the variant's, else `token`. Without it,
        /// DINOv3's weights in other names than timm's give the class token, as their libraries do.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub global_pool: Option<GlobalPool>,
        /// Whether the last norm comes after the pooling, under the name `fc_norm`, instead of before it.
        /// Default the variant's, else true with `global_pool: avg` unless `rope_type` is `dinov3`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fc_norm: Option<bool>,
        /// The epsilon that the norms add to a variance. Default 1e-6, 1e-5 with `rope_type: dinov3`, or 1e-12
        /// for weights in the names of transformers' ViT.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub layer_norm_eps: Option<f64>,
    }
    source {
        mean: "the variant's, else 0.5 (most of timm's ViTs)",
        std: "the variant's, else 0.5",
        interpolation: "bicubic",
        crop_pct: "the variant's, else 0.9",
        weights: "(safetensors, `.pth`, `.bin`, `.npz`) under the names of timm, torchvision, transformers, \
                  Google, DINO, DINOv3, MAE, MoCo v3 or EVA-02",
        layout: "`timm`, `transformers`, `transformers-4` (also with `-dinov2`, `-dinov3` or `-siglip` behind \
                 it, and `-gated` for networks with gated MLPs), `dino` (DINO's and DINOv2's own), `dinov3` \
                 (its own), `deit` (DeiT III's own), `mae`, `moco-v3`, `eva`, `google`, `torchvision` or \
                 `torchvision-0.13` (its names until then, and in the files that it publishes)",
    }
}

impl Vit {
    /// The variant's row and its sizes; without a variant timm's defaults, and no sizes.
    fn row(&self) -> Result<(Row, Option<[usize; 3]>)> {
        let Some(name) = &self.variant else {
            return Ok((DEFAULT, None));
        };
        let row = variant(&VARIANTS, name)?;
        Ok((*row, Some(row.size)))
    }

    /// The rotary position embedding.
    fn rope(&self, row: &Row) -> Option<Rope> {
        let kind = self.rope_type.or(row.rope_type)?;
        // A grid that the variant has belongs to its own kind.
        let of_variant = row.ref_feat_shape.filter(|_| kind == RopeType::Cat);
        Some(Rope {
            kind,
            temperature: self.rope_temperature.unwrap_or(kind.temperature()),
            ref_feat_shape: self.ref_feat_shape.or(of_variant),
        })
    }

    fn qkv(&self, row: &Row, rope: Option<Rope>) -> Qkv {
        let of_keys = row.key_bias.unwrap_or(rope.is_none());
        let bias = match (
            self.qkv_bias.unwrap_or(row.qkv_bias),
            self.key_bias.unwrap_or(of_keys),
        ) {
            (false, _) => QkvBias::None,
            (true, false) => QkvBias::QueryValue,
            (true, true) => QkvBias::All,
        };
        Qkv {
            fused: self.qkv_fused.unwrap_or(row.qkv_fused),
            bias,
            norm: self.qk_norm.unwrap_or(false),
        }
    }

    /// Whether two first layers make the gate and the gated value, or two halves of one.
    fn mlp(&self, row: &Row, scaled: bool) -> MlpKind {
        let align = self.swiglu_align_to.unwrap_or(row.swiglu_align_to);
        match self.swiglu_mlp.unwrap_or(row.swiglu_mlp) {
            false => MlpKind::Plain,
            true if scaled || align > 0 => MlpKind::Swiglu,
            true => MlpKind::SwigluPacked,
        }
    }

    fn architecture(&self) -> Result<Architecture> {
        let (row, size) = self.row()?;
        let of_variant = |place: usize| size.map(|size| size[place]);
        let global_pool = self.global_pool.unwrap_or(row.global_pool);
        let fc_norm = self.fc_norm.or(row.fc_norm);
        let rope = self.rope(&row);
        let dinov3 = rope.is_some_and(|rope| rope.kind == RopeType::Dinov3);
        let scale_mlp = self.scale_mlp.unwrap_or(row.scale_mlp);
        if let (None, Some(_)) = (rope, self.ref_feat_shape) {
            let message = "expected no value without rope_type";
            return Err(Error::config("ref_feat_shape", message));
        }
        Architecture {
            name: self.variant.clone().unwrap_or_else(|| "vit".to_owned()),
            img_size: self.img_size.unwrap_or(row.img_size.into()),
            // timm and transformers leave out what is behind the last whole patch of a SigLIP's image.
            trims: row.trims || global_pool == GlobalPool::Map,
            patch_size: self.patch_size.unwrap_or(row.patch_size),
            embed_dim: needed("embed_dim", self.embed_dim, of_variant(0))?,
            depth: needed("depth", self.depth, of_variant(1))?,
            num_heads: needed("num_heads", self.num_heads, of_variant(2))?,
            mlp_ratio: self.mlp_ratio.unwrap_or(row.mlp_ratio),
            mlp_align: self.swiglu_align_to.unwrap_or(row.swiglu_align_to),
            qkv: self.qkv(&row, rope),
            scale_attn_inner: self.scale_attn_inner.unwrap_or(row.scale_attn_inner),
            mlp: self.mlp(&row, scale_mlp),
            scale_mlp,
            class_token: self.class_token.unwrap_or(row.class_token),
            reg_tokens: self.reg_tokens.unwrap_or(row.reg_tokens),
            use_abs_pos_emb: self.use_abs_pos_emb.unwrap_or(!dinov3),
            no_embed_class: self.no_embed_class.unwrap_or(row.no_embed_class),
            rope,
            init_values: self.init_values.or(row.init_values),
            pre_norm: self.pre_norm.unwrap_or(false),
            act_layer: self.act_layer.unwrap_or(row.act_layer),
            layer_norm_eps: self.layer_norm_eps,
            global_pool,
            fc_norm: fc_norm.unwrap_or(global_pool == GlobalPool::Avg && !dinov3),
            projection: None,
            stated: Stated {
                act_layer: self.act_layer.is_some(),
                global_pool: self.global_pool.is_some(),
            },
            layouts: &LAYOUTS,
        }
        .checked()
    }
}

#[typetag::serde(name = "vit")]
impl BackboneConfig for Vit {
    fn build(&self, init: &Init) -> Result<Box<dyn Backbone>> {
        let (architecture, input) = (self.architecture()?, self.input()?);
        Ok(Box::new(VisionTransformer::new(architecture, input, init)))
    }

    fn input(&self) -> Result<InputSpec> {
        let (row, _) = self.row()?;
        Ok(self.source().input(InputSpec {
            size: self.architecture()?.img_size,
            mean: row.mean,
            std: row.std,
            interpolation: Interpolation::Bicubic,
            crop_pct: row.crop_pct,
            crop_mode: row.crop_mode,
        }))
    }

    fn facts(&self) -> Result<Facts> {
        Ok(self.architecture()?.facts())
    }
}
