//! The network: patch embedding, pre-norm blocks, last norm and pooling; and the options in which
//! its families differ.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use peft_core::activation::{Activation, BoundaryShape, Tokens};
use peft_core::backbone::{Backbone, BackboneSpec, Cut, Init, InputSpec, run_span};
use peft_core::error::{Error, Result};
use peft_core::hooks::{BranchValues, Hooks, like};
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm, Linear};
use peft_core::layout::Layout;
use peft_core::params::{Tensors, floats};
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::{Gelu, attention};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layouts::resampled;

/// What the norms of transformers' ViT and DeiT add to a variance.
const TRANSFORMERS_EPSILON: f64 = 1e-12;

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
    /// What the norms add to a variance.
    pub epsilon: f64,
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
        if let Some(value) = self.init_values.filter(|value| !value.is_finite()) {
            let message = format!("expected a finite number, got {value}");
            return Err(Error::config("init_values", message));
        }
        Ok(self)
    }

    /// Patches along one side.
    fn grid(&self) -> usize {
        self.img_size / self.patch_size
    }

    /// Tokens before the patches: the class token, then registers.
    fn prefix_tokens(&self) -> usize {
        usize::from(self.class_token) + self.reg_tokens
    }

    fn mlp_hidden(&self) -> usize {
        (self.embed_dim as f64 * self.mlp_ratio) as usize
    }
}

/// A Vision Transformer whose fields are named like timm's.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    cls_token: Option<Param<Tensor<3>>>,
    reg_token: Option<Param<Tensor<3>>>,
    pos_embed: Param<Tensor<3>>,
    patch_embed: PatchEmbed,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    fc_norm: Option<LayerNorm>,
    projection: Option<Linear>,
    /// Tokens before the patches.
    prefix_tokens: usize,
    #[module(skip)]
    global_pool: GlobalPool,
    #[module(skip)]
    spec: BackboneSpec,
    #[module(skip)]
    layouts: &'static [Layout],
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

/// `x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`.
#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    mlp: Mlp,
    ls2: Option<LayerScale>,
}

/// `gamma x`, channel by channel (Touvron et al. 2021). What acts on a branch acts before it.
#[derive(Module, Debug)]
struct LayerScale {
    gamma: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    #[module(skip)]
    site: Site,
}

#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    act_layer: MlpActivation,
    #[module(skip)]
    site: Site,
}

impl VisionTransformer {
    /// The network with initial values from `init`.
    pub fn new(sizes: Architecture, input: InputSpec, init: &Init) -> Self {
        let (d, depth, grid) = (sizes.embed_dim, sizes.depth, sizes.grid());
        let (prefix, patches) = (sizes.prefix_tokens(), grid * grid);
        let embedded = match sizes.no_embed_class {
            true => patches,
            false => prefix + patches,
        };
        let proj = Conv2dSizes {
            inputs: 3,
            outputs: d,
            kernel: sizes.patch_size,
            stride: sizes.patch_size,
            padding: 0,
        };
        let patch_embed = PatchEmbed {
            proj: Conv2d::new(
                Site::new("patch_embed.proj", 0, proj.kind()),
                !sizes.pre_norm,
                init,
            ),
        };
        let blocks: Vec<Block> = (0..depth).map(|i| Block::new(i, &sizes, init)).collect();
        let norm = |name: &str, block| {
            let site = Site::new(name, block, SiteKind::Norm { channels: d });
            LayerNorm::new(site, sizes.epsilon, init)
        };
        let norm_pre = sizes.pre_norm.then(|| norm("norm_pre", 0));
        let (norm, fc_norm) = match sizes.fc_norm {
            false => (Some(norm("norm", depth + 1)), None),
            true => (None, Some(norm("fc_norm", depth + 1))),
        };
        let projection = sizes.projection.map(|outputs| {
            let kind = SiteKind::Linear { inputs: d, outputs };
            Linear::new(Site::new("projection", depth + 1, kind), false, init)
        });
        let image = BoundaryShape::Map {
            channels: 3,
            height: sizes.img_size,
            width: sizes.img_size,
        };
        let shape = BoundaryShape::Tokens {
            count: prefix + patches,
            width: d,
        };
        let names: Vec<_> = (0..depth).map(|i| format!("blocks.{i}")).collect();
        let mut sites = vec![patch_embed.proj.site().clone()];
        sites.extend(norm_pre.iter().map(|n| n.site().clone()));
        sites.extend(blocks.iter().flat_map(Block::sites));
        sites.extend(norm.iter().chain(&fc_norm).map(|n| n.site().clone()));
        sites.extend(projection.iter().map(|p| p.site().clone()));
        let spec = BackboneSpec {
            name: sizes.name,
            depth,
            boundaries: BackboneSpec::boundaries(image, &names, &vec![shape; depth + 1]),
            sites,
            input,
            features: sizes.projection.unwrap_or(d),
            head_name: "head",
        };
        let tokens = |name: &str, count, std| {
            let values = Distribution::TruncatedNormal(std);
            (count > 0).then(|| init.param(name, [1, count, d], values))
        };
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            cls_token: tokens("cls_token", usize::from(sizes.class_token), 1e-6),
            reg_token: tokens("reg_token", sizes.reg_tokens, 1e-6),
            pos_embed: init.param("pos_embed", [1, embedded, d], normal),
            patch_embed,
            norm_pre,
            blocks,
            norm,
            fc_norm,
            projection,
            prefix_tokens: prefix,
            global_pool: sizes.global_pool,
            spec,
            layouts: sizes.layouts,
        }
    }

    /// Prefix tokens that have a position embedding.
    fn embedded_prefix_tokens(&self) -> usize {
        let patches = self.spec.boundaries[1].shape.dims()[0] - self.prefix_tokens;
        self.pos_embed.dims()[1] - patches
    }

    /// Image to tokens, positions added, normed if the family does.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, prefix + n, d]`.
    fn embed(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<3> {
        let patches = self.patch_embed.proj.forward(image, hooks); // [b, d, gh, gw]
        let [b, d, gh, gw] = patches.dims();
        let patches = patches.permute([0, 2, 3, 1]).reshape([b, gh * gw, d]); // [b, n, d]
        let positions = like(self.pos_embed.val(), &patches);
        let with_prefix = |patches: Tensor<3>| {
            let prefix = self.cls_token.iter().chain(&self.reg_token);
            let prefix = prefix.map(|tokens| {
                let count = tokens.dims()[1];
                like(tokens.val(), &patches).expand([b, count, d])
            });
            let parts = prefix.chain([patches.clone()]).collect();
            Tensor::cat(parts, 1) // [b, prefix + n, d]
        };
        let tokens = match self.embedded_prefix_tokens() {
            0 => with_prefix(patches + positions),
            _ => with_prefix(patches) + positions,
        };
        match &self.norm_pre {
            Some(norm) => norm.forward(tokens, hooks),
            None => tokens,
        }
    }

    /// Of the image's own tokens.
    ///
    /// # Shapes
    /// `[b, prefix + n, d] -> [b, features]`.
    fn pool(&self, tokens: Tokens, hooks: &Hooks) -> Tensor<2> {
        let own = tokens.own();
        // The norm works on each token alone, so only those that count are normed.
        let x = match self.global_pool {
            GlobalPool::Token => tokens.x.narrow(1, 0, 1),
            GlobalPool::Avg => tokens
                .x
                .narrow(1, self.prefix_tokens, own - self.prefix_tokens),
        };
        let x = match &self.norm {
            Some(norm) => norm.forward(x, hooks),
            None => x,
        };
        let pooled = x.mean_dim(1).squeeze_dim(1); // [b, d]
        let pooled = match &self.fc_norm {
            Some(norm) => norm.forward(pooled, hooks),
            None => pooled,
        };
        match &self.projection {
            Some(projection) => projection.forward(pooled, hooks),
            None => pooled,
        }
    }
}

impl Backbone for VisionTransformer {
    fn spec(&self) -> &BackboneSpec {
        &self.spec
    }

    fn forward(&self, x: Activation, span: Range<Cut>, hooks: &Hooks) -> Activation {
        run_span(x, span, hooks, |cut, x| match (cut, x) {
            (0, Activation::Map(image)) => self.embed(image, hooks).into(),
            (cut, Activation::Tokens(x)) if cut <= self.spec.depth => {
                Activation::Tokens(self.blocks[cut - 1].forward(x, hooks))
            }
            (_, Activation::Tokens(x)) => Activation::Features(self.pool(x, hooks)),
            (cut, x) => panic!("cut {cut} of a vit cannot take {:?}", x.shape()),
        })
    }

    fn layouts(&self) -> &'static [Layout] {
        self.layouts
    }

    /// transformers' ViT and DeiT add less to a variance.
    fn adopt(&mut self, layout: &str) {
        if !matches!(layout, "transformers" | "transformers-4") || self.norm_pre.is_some() {
            return;
        }
        let blocks = self.blocks.iter_mut();
        let norms = blocks.flat_map(|block| [&mut block.norm1, &mut block.norm2]);
        let last = self.norm.iter_mut().chain(&mut self.fc_norm);
        norms
            .chain(last)
            .for_each(|norm| norm.set_epsilon(TRANSFORMERS_EPSILON));
    }

    fn why_not(&self, tensor: &str) -> Option<&'static str> {
        let ends = |names: &[&str]| names.iter().any(|name| tensor.ends_with(name));
        if ends(&["dist_token", "distillation_token"]) {
            return Some(
                "a distilled DeiT has a token for what its teacher says, which this backbone has \
                 not; expected a checkpoint without distillation",
            );
        }
        if ends(&["reg_token", "register_tokens"]) {
            return Some("it has register tokens; expected their number as reg_tokens");
        }
        if tensor.contains(".mlp.w12.") || tensor.contains(".mlp.weights_in.") {
            return Some("its MLPs are SwiGLU, which this backbone has not");
        }
        None
    }

    /// Position embeddings of another resolution, as timm resamples them.
    fn resized(&self, name: &str, value: TensorData) -> Option<TensorData> {
        let prefix = self.embedded_prefix_tokens();
        let patches = self.pos_embed.dims()[1] - prefix;
        match name {
            "pos_embed" => resampled(value, prefix, patches.isqrt()),
            _ => None,
        }
    }

    /// A prompt on the image joins the position embedding, as does one before the first block,
    /// unless a norm stands between; class and register tokens without a position take their
    /// part themselves. A prompt that is shared over positions joins the bias that is added last
    /// before it.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        let added = |name: &str, param: &Param<Tensor<3>>, delta: Tensor<3>| {
            (name.to_owned(), (param.val() + delta).into_data())
        };
        let (name, value) = match (boundary, delta.clone()) {
            (0, Activation::Map(image)) => {
                let size = self.spec.input.size;
                let image = image.expand([1, 3, size, size]);
                let nothing = Hooks::none();
                let with = self.patch_embed.proj.forward(image.clone(), &nothing);
                let without = self.patch_embed.proj.forward(image.zeros_like(), &nothing);
                let patches = (with - without).flatten::<3>(2, 3).swap_dims(1, 2); // [1, n, d]
                let [_, _, d] = patches.dims();
                let positions = match self.embedded_prefix_tokens() {
                    0 => patches,
                    prefix => {
                        let none = Tensor::zeros([1, prefix, d], &patches.device());
                        Tensor::cat(vec![none, patches], 1)
                    }
                };
                added("pos_embed", &self.pos_embed, positions)
            }
            (1, Activation::Tokens(delta)) if self.norm_pre.is_none() => {
                let [_, _, d] = delta.x.dims();
                let count = self.spec.boundaries[1].shape.dims()[0];
                let delta = delta.x.expand([1, count, d]);
                if self.embedded_prefix_tokens() == self.prefix_tokens {
                    return Some([added("pos_embed", &self.pos_embed, delta)].into());
                }
                let parts = [
                    ("cls_token", self.cls_token.as_ref()),
                    ("reg_token", self.reg_token.as_ref()),
                    ("pos_embed", Some(&self.pos_embed)),
                ];
                let mut start = 0;
                let parts = parts.into_iter().filter_map(|(name, param)| {
                    let count = param?.dims()[1];
                    start += count;
                    let own = delta.clone().narrow(1, start - count, count);
                    Some(added(name, param?, own))
                });
                return Some(parts.collect());
            }
            (boundary, Activation::Tokens(delta)) if delta.x.dims()[1] == 1 => {
                let delta = delta.x.flatten::<1>(0, 2);
                let (site, bias, delta) = match boundary {
                    1 => {
                        let norm = self.norm_pre.as_ref()?;
                        (norm.site(), &norm.bias, delta)
                    }
                    boundary => {
                        let block = &self.blocks[boundary - 2];
                        let last = &block.mlp.fc2;
                        let delta = match &block.ls2 {
                            Some(scale) => delta / scale.gamma.val(),
                            None => delta,
                        };
                        (last.site(), last.bias.as_ref()?, delta)
                    }
                };
                let value = (bias.val() + delta).into_data();
                // Where LayerScale is zero nothing passes it.
                if !floats(value.clone()).iter().all(|value| value.is_finite()) {
                    return None;
                }
                (format!("{}.bias", site.name), value)
            }
            _ => return None,
        };
        Some(Tensors::from([(name, value)]))
    }
}

impl Block {
    fn new(index: usize, sizes: &Architecture, init: &Init) -> Self {
        let (d, block) = (sizes.embed_dim, index + 1);
        let name = |part: &str| format!("blocks.{index}.{part}");
        let norm = |part: &str| {
            let site = Site::new(name(part), block, SiteKind::Norm { channels: d });
            LayerNorm::new(site, sizes.epsilon, init)
        };
        let linear = |part: &str, inputs, outputs| {
            Site::new(name(part), block, SiteKind::Linear { inputs, outputs })
        };
        let branch = |part: &str, branch| {
            Site::new(name(part), block, SiteKind::Branch { branch, width: d })
        };
        let qkv = linear("attn.qkv", d, 3 * d).with_slices(&["query", "key", "value"], d);
        let hidden = sizes.mlp_hidden();
        let scale = |part: &str| {
            let value = sizes.init_values?;
            let gamma = init.tensor(&name(part), [d], Distribution::Ones) * value;
            let gamma = Param::from_tensor(gamma);
            Some(LayerScale { gamma })
        };
        Self {
            norm1: norm("norm1"),
            attn: Attention {
                qkv: Linear::new(qkv, sizes.qkv_bias, init),
                proj: Linear::new(linear("attn.proj", d, d), true, init),
                heads: sizes.num_heads,
                site: branch("attn", Branch::Attention),
            },
            ls1: scale("ls1.gamma"),
            norm2: norm("norm2"),
            mlp: Mlp {
                fc1: Linear::new(linear("mlp.fc1", d, hidden), true, init),
                fc2: Linear::new(linear("mlp.fc2", hidden, d), true, init),
                act_layer: sizes.act_layer,
                site: branch("mlp", Branch::Mlp),
            },
            ls2: scale("ls2.gamma"),
        }
    }

    fn sites(&self) -> Vec<Site> {
        [
            self.norm1.site(),
            self.attn.qkv.site(),
            self.attn.proj.site(),
            &self.attn.site,
            self.norm2.site(),
            self.mlp.fc1.site(),
            self.mlp.fc2.site(),
            &self.mlp.site,
        ]
        .map(Site::clone)
        .into()
    }

    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`, extra tokens included.
    fn forward(&self, tokens: Tokens, hooks: &Hooks) -> Tokens {
        tokens.map(|x| {
            let bare = |site, scale: &Option<LayerScale>| scale.is_none() && !hooks.acts_at(site);
            let normed = self.norm1.forward(x.clone(), hooks);
            let mixed = self.attn.mixed(normed.clone(), hooks);
            let x = if bare(&self.attn.site, &self.ls1) {
                self.attn.proj.forward_onto(x, mixed, hooks)
            } else {
                let output = self.attn.proj.forward(mixed, hooks);
                let output = branch(&self.attn.site, [x.clone(), normed, output], hooks);
                x + scaled(output, &self.ls1)
            };
            let normed = self.norm2.forward(x.clone(), hooks);
            if bare(&self.mlp.site, &self.ls2) {
                self.mlp.forward(Some(x), normed, hooks)
            } else {
                let output = self.mlp.forward(None, normed.clone(), hooks);
                let output = branch(&self.mlp.site, [x.clone(), normed, output], hooks);
                x + scaled(output, &self.ls2)
            }
        })
    }
}

/// The output of a branch after what acts there.
fn branch(site: &Site, [residual, normed, output]: [Tensor<3>; 3], hooks: &Hooks) -> Tensor<3> {
    let values = BranchValues {
        residual: residual.into(),
        normed: normed.into(),
        output: output.into(),
    };
    match hooks.at_branch(site, values) {
        Activation::Tokens(tokens) => tokens.x,
        other => panic!("{}: tokens became {:?}", site.name, other.shape()),
    }
}

/// # Shapes
/// `[b, n, d] -> [b, n, d]`.
fn scaled(x: Tensor<3>, scale: &Option<LayerScale>) -> Tensor<3> {
    match scale {
        Some(scale) => {
            let gamma = like(scale.gamma.val(), &x).unsqueeze();
            x * gamma
        }
        None => x,
    }
}

impl Attention {
    /// Softmax attention with heads of `d / heads` contiguous channels, before the last projection.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    fn mixed(&self, x: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        attention(self.qkv.forward(x, hooks), self.heads)
    }
}

impl Mlp {
    /// With a residual added if there is one.
    ///
    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`.
    fn forward(&self, residual: Option<Tensor<3>>, x: Tensor<3>, hooks: &Hooks) -> Tensor<3> {
        let gelu = match self.act_layer {
            MlpActivation::Gelu => Gelu::Exact,
            MlpActivation::QuickGelu => Gelu::Quick,
        };
        let hidden = self.fc1.forward(x, hooks); // [b, n, hidden]
        self.fc2.forward_gelu(residual, hidden, gelu, hooks)
    }
}
