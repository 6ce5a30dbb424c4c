//! The network: patch embedding, pre-norm blocks, last norm and pooling.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use peft_core::activation::{Activation, BoundaryShape, Tokens};
use peft_core::attention::AttentionGrid;
use peft_core::backbone::{Backbone, BackboneSpec, Cut, ImageSize, Init, InputSpec, run_span};
use peft_core::hooks::{Hooks, like};
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm, Linear};
use peft_core::layout::Layout;
use peft_core::params::{Tensors, floats};
use peft_core::random::Distribution;
use peft_core::site::{Site, SiteKind};
use peft_ops::Rotation;

use crate::architecture::{Architecture, GlobalPool, Stated};
use crate::block::Block;
use crate::foreign::{NAFLEX, foreign};
use crate::layouts::Library;
use crate::pool::AttentionPool;
use crate::positions::resampled;
use crate::rope::RopeType;

/// A Vision Transformer whose fields have timm's names.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    cls_token: Option<Param<Tensor<3>>>,
    reg_token: Option<Param<Tensor<3>>>,
    pos_embed: Option<Param<Tensor<3>>>,
    patch_embed: PatchEmbed,
    norm_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: Option<LayerNorm>,
    attn_pool: Option<AttentionPool>,
    fc_norm: Option<LayerNorm>,
    projection: Option<Linear>,
    /// Number of tokens before the patches.
    prefix_tokens: usize,
    /// Rows and columns of patches.
    #[module(skip)]
    grid: [usize; 2],
    /// The rotary position embedding of these patches.
    #[module(skip)]
    rotation: Option<Rotation>,
    #[module(skip)]
    rope: Option<RopeType>,
    #[module(skip)]
    global_pool: GlobalPool,
    #[module(skip)]
    spec: BackboneSpec,
    /// Whether the configuration states the epsilon of the norms.
    #[module(skip)]
    own_epsilon: bool,
    #[module(skip)]
    stated: Stated,
    #[module(skip)]
    layouts: &'static [Layout],
}

#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

impl VisionTransformer {
    /// The network with initial values from `init`.
    pub fn new(sizes: Architecture, input: InputSpec, init: &Init) -> Self {
        let (d, last) = (sizes.embed_dim, sizes.depth + 1);
        let norm = |name: &str, block| {
            let site = Site::new(name, block, SiteKind::Norm { channels: d });
            LayerNorm::new(site, sizes.epsilon(), init)
        };
        let patch_embed = PatchEmbed::new(&sizes, init);
        let norm_pre = sizes.pre_norm.then(|| norm("norm_pre", 0));
        let blocks: Vec<Block> = (0..sizes.depth)
            .map(|index| Block::new(index, &sizes, init))
            .collect();
        let (norm, fc_norm) = match sizes.fc_norm {
            false => (Some(norm("norm", last)), None),
            true => (None, Some(norm("fc_norm", last))),
        };
        let pools = sizes.global_pool == GlobalPool::Map;
        let attn_pool = pools.then(|| AttentionPool::new(&sizes, init));
        let projection = sizes.projection.map(|outputs| {
            let kind = SiteKind::Linear { inputs: d, outputs };
            Linear::new(Site::new("projection", last, kind), false, init)
        });

        // Messages and tables list the sites in the order of the forward pass.
        let mut sites = vec![patch_embed.proj.site().clone()];
        sites.extend(norm_pre.iter().map(|norm| norm.site().clone()));
        sites.extend(blocks.iter().flat_map(Block::sites));
        sites.extend(norm.iter().map(|norm| norm.site().clone()));
        sites.extend(attn_pool.iter().flat_map(AttentionPool::sites).cloned());
        sites.extend(fc_norm.iter().map(|norm| norm.site().clone()));
        sites.extend(projection.iter().map(|layer| layer.site().clone()));

        let (prefix_tokens, patches) = (sizes.prefix_tokens(), sizes.patches());
        let rotation = sizes.rope.map(|rope| {
            let channels = d / sizes.num_heads;
            rope.rotation(sizes.grid(), prefix_tokens, channels)
        });
        let embedded = match sizes.no_embed_class {
            true => patches,
            false => prefix_tokens + patches,
        };
        let tokens = |name: &str, count, std| {
            let values = Distribution::TruncatedNormal(std);
            (count > 0).then(|| init.param(name, [1, count, d], values))
        };
        let normal = Distribution::TruncatedNormal(0.02);
        Self {
            cls_token: tokens("cls_token", usize::from(sizes.class_token), 1e-6),
            reg_token: tokens("reg_token", sizes.reg_tokens, 1e-6),
            pos_embed: (sizes.use_abs_pos_emb)
                .then(|| init.param("pos_embed", [1, embedded, d], normal)),
            patch_embed,
            norm_pre,
            blocks,
            norm,
            attn_pool,
            fc_norm,
            projection,
            prefix_tokens,
            grid: sizes.grid(),
            rotation,
            rope: sizes.rope.map(|rope| rope.kind),
            global_pool: sizes.global_pool,
            own_epsilon: sizes.layer_norm_eps.is_some(),
            stated: sizes.stated,
            layouts: sizes.layouts,
            spec: spec(sizes, sites, input),
        }
    }

    /// Number of prefix tokens that have a position embedding: all of them or none.
    fn embedded_prefix_tokens(&self) -> usize {
        let positions = self.pos_embed.as_ref().map(|positions| positions.dims()[1]);
        positions.map_or(0, |positions| positions - self.grid[0] * self.grid[1])
    }

    /// Turns an image into tokens with their positions, normed if the architecture says so.
    ///
    /// # Shapes
    /// `[b, 3, h, w] -> [b, prefix + n, d]`.
    fn embed(&self, image: Tensor<4>, hooks: &Hooks) -> Tensor<3> {
        let patches = self.patch_embed.proj.forward(image, hooks); // [b, d, gh, gw]
        let [b, d, gh, gw] = patches.dims();
        let patches = patches.permute([0, 2, 3, 1]).reshape([b, gh * gw, d]); // [b, n, d]
        let positions = self.pos_embed.as_ref();
        let positions = positions.map(|positions| like(positions.val(), &patches));
        let with_prefix = |patches: Tensor<3>| {
            let prefix = self.cls_token.iter().chain(&self.reg_token);
            let prefix = prefix.map(|tokens| {
                let count = tokens.dims()[1];
                like(tokens.val(), &patches).expand([b, count, d])
            });
            let parts = prefix.chain([patches.clone()]).collect();
            Tensor::cat(parts, 1) // [b, prefix + n, d]
        };
        // Prefix tokens without positions join after these were added.
        let tokens = match (positions, self.embedded_prefix_tokens()) {
            (None, _) => with_prefix(patches),
            (Some(positions), 0) => with_prefix(patches + positions),
            (Some(positions), _) => with_prefix(patches) + positions,
        };
        match &self.norm_pre {
            Some(norm) => norm.forward(tokens, hooks),
            None => tokens,
        }
    }

    /// Pools the image's own tokens; extra tokens behind them are left out.
    ///
    /// # Shapes
    /// `[b, prefix + n, d] -> [b, features]`.
    fn pool(&self, tokens: Tokens, hooks: &Hooks) -> Tensor<2> {
        let own = tokens.own();
        // The norm works on each token alone, so only the tokens that are pooled need it.
        let x = match self.global_pool {
            GlobalPool::Token => tokens.x.narrow(1, 0, 1),
            GlobalPool::Avg | GlobalPool::Map => {
                tokens
                    .x
                    .narrow(1, self.prefix_tokens, own - self.prefix_tokens)
            }
        };
        let x = match &self.norm {
            Some(norm) => norm.forward(x, hooks),
            None => x,
        };
        let pooled = match &self.attn_pool {
            Some(pool) => pool.forward(x, hooks),
            None => x.mean_dim(1).squeeze_dim(1),
        }; // [b, d]
        let pooled = match &self.fc_norm {
            Some(norm) => norm.forward(pooled, hooks),
            None => pooled,
        };
        match &self.projection {
            Some(projection) => projection.forward(pooled, hooks),
            None => pooled,
        }
    }

    /// The position embedding that has the effect of adding `delta` to the normalised image: the
    /// patch embedding is affine, so its linear part maps the prompt to tokens. `None` without one.
    ///
    /// # Shapes
    /// `delta` is `[1, 3, h, w]`, or can be expanded to it.
    fn absorb_in_patches(&self, delta: Tensor<4>) -> Option<Tensors> {
        let embedding = self.pos_embed.as_ref()?;
        let image = delta.expand(self.spec.input.batch(1));
        // The difference of two outputs is free of the bias.
        let nothing = Hooks::none();
        let with = self.patch_embed.proj.forward(image.clone(), &nothing);
        let without = self.patch_embed.proj.forward(image.zeros_like(), &nothing);
        let patches = (with - without).flatten::<3>(2, 3).swap_dims(1, 2); // [1, n, d]
        let [_, _, d] = patches.dims();
        let positions = match self.embedded_prefix_tokens() {
            0 => patches,
            prefix => {
                // The image does not reach the prefix tokens.
                let zeros = Tensor::zeros([1, prefix, d], &patches.device());
                Tensor::cat(vec![zeros, patches], 1)
            }
        };
        Some(Tensors::from([sum("pos_embed", embedding, positions)]))
    }

    /// The tokens and position embeddings that have the effect of adding `delta` before the first
    /// block. Prefix tokens without a position embedding take their part themselves. Without position
    /// embeddings only a delta that all patches share can be held, by the bias of the patch embedding.
    ///
    /// # Shapes
    /// `delta` is `[1, prefix + n, d]` or `[1, 1, d]`.
    fn absorb_in_tokens(&self, delta: Tensor<3>) -> Option<Tensors> {
        let [_, shared, d] = delta.dims();
        let count = self.spec.boundaries[1].shape.dims()[0];
        let (one, delta) = (delta.clone(), delta.expand([1, count, d]));
        let embedding = self.pos_embed.as_ref();
        if let Some(embedding) = embedding
            && self.embedded_prefix_tokens() == self.prefix_tokens
        {
            return Some(Tensors::from([sum("pos_embed", embedding, delta)]));
        }
        let mut absorbed = Tensors::new();
        if embedding.is_none() {
            let proj = &self.patch_embed.proj;
            let bias = proj.bias.as_ref().filter(|_| shared == 1)?;
            let bias = bias.val() + one.flatten(0, 2);
            absorbed.insert(format!("{}.bias", proj.site().name), bias.into_data());
        }
        let parts = [
            ("cls_token", self.cls_token.as_ref()),
            ("reg_token", self.reg_token.as_ref()),
            ("pos_embed", embedding),
        ];
        let mut start = 0;
        let parts = parts.into_iter().filter_map(|(name, param)| {
            let count = param?.dims()[1];
            start += count;
            let own = delta.clone().narrow(1, start - count, count);
            Some(sum(name, param?, own))
        });
        absorbed.extend(parts);
        Some(absorbed)
    }

    /// The bias that has the effect of adding the same `delta` to every token at `boundary`: the
    /// one that is added last before it. `None` where LayerScale lets nothing through.
    ///
    /// # Shapes
    /// `delta` is `[d]`.
    fn absorb_in_bias(&self, boundary: Cut, delta: Tensor<1>) -> Option<Tensors> {
        let (site, bias, delta) = match boundary {
            1 => {
                let norm = self.norm_pre.as_ref()?;
                (norm.site(), &norm.bias, delta)
            }
            boundary => {
                let block = &self.blocks[boundary - 2];
                let last = &block.mlp.fc2;
                let delta = match block.scale2.iter().next() {
                    Some((_, gamma)) => delta / gamma.val(),
                    None => delta,
                };
                (last.site(), last.bias.as_ref()?, delta)
            }
        };
        let value = (bias.val() + delta).into_data();
        // Dividing by a gamma of zero gives infinity or NaN.
        if !floats(value.clone()).iter().all(|value| value.is_finite()) {
            return None;
        }
        Some(Tensors::from([(format!("{}.bias", site.name), value)]))
    }
}

/// Boundaries, sites and sizes of the network.
fn spec(sizes: Architecture, sites: Vec<Site>, input: InputSpec) -> BackboneSpec {
    let image = BoundaryShape::image(sizes.img_size);
    let tokens = BoundaryShape::Tokens {
        count: sizes.prefix_tokens() + sizes.patches(),
        width: sizes.embed_dim,
    };
    let depth = sizes.depth;
    let names: Vec<_> = (0..depth).map(|i| format!("blocks.{i}")).collect();
    BackboneSpec {
        name: sizes.name,
        depth,
        boundaries: BackboneSpec::boundaries(image, &names, &vec![tokens; depth + 1]),
        sites,
        input,
        features: sizes.projection.unwrap_or(sizes.embed_dim),
        head_name: "head",
    }
}

/// A parameter's name, and its value with `delta` added.
fn sum(name: &str, param: &Param<Tensor<3>>, delta: Tensor<3>) -> (String, TensorData) {
    (name.to_owned(), (param.val() + delta).into_data())
}

impl PatchEmbed {
    fn new(sizes: &Architecture, init: &Init) -> Self {
        let proj = Conv2dSizes {
            inputs: 3,
            outputs: sizes.embed_dim,
            kernel: sizes.patch_size,
            stride: sizes.patch_size,
            padding: 0,
        };
        let site = Site::new("patch_embed.proj", 0, proj.kind());
        // As in timm: CLIP, which norms its tokens first, has no bias here.
        let bias = !sizes.pre_norm;
        Self {
            proj: Conv2d::new(site, bias, init),
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
                let block = &self.blocks[cut - 1];
                Activation::Tokens(block.forward(x, self.rotation.as_ref(), hooks))
            }
            (_, Activation::Tokens(x)) => Activation::Features(self.pool(x, hooks)),
            (cut, x) => panic!("cut {cut} of a vit cannot take {:?}", x.shape()),
        })
    }

    fn takes_queries(&self) -> bool {
        true
    }

    fn query(&self, block: usize, x: Tensor<3>, queries: Tensor<3>) -> Tensor<3> {
        self.blocks[block - 1].query(x, queries, self.rotation.as_ref())
    }

    fn attention_grid(&self, block: usize) -> Option<AttentionGrid> {
        (1..=self.spec.depth)
            .contains(&block)
            .then(|| AttentionGrid {
                prefix: self.prefix_tokens,
                grid: self.grid,
                patch: self.spec.input.size.height / self.grid[0],
                windows: false,
            })
    }

    fn layouts(&self) -> &'static [Layout] {
        self.layouts
    }

    /// Takes over what differs between libraries with the same weights, unless the configuration states it:
    /// the smaller epsilon of transformers' ViT and DeiT, its approximation of GELU in SigLIP, and the pooling
    /// of DINOv3, which only timm averages.
    fn adopt(&mut self, layout: &str) {
        let layout = Library::of(layout);
        // CLIP, which norms its tokens first, has the same epsilon in all libraries.
        let smaller = layout.epsilon.filter(|_| self.norm_pre.is_none());
        if let Some(epsilon) = smaller.filter(|_| !self.own_epsilon) {
            let blocks = self.blocks.iter_mut();
            blocks.for_each(|block| block.set_epsilon(epsilon));
            let last = self.norm.iter_mut().chain(&mut self.fc_norm);
            last.for_each(|norm| norm.set_epsilon(epsilon));
            let pool = self.attn_pool.iter_mut();
            pool.for_each(|pool| pool.set_epsilon(epsilon));
        }
        if let Some(activation) = layout.act_layer.filter(|_| !self.stated.act_layer) {
            let blocks = self.blocks.iter_mut();
            blocks.for_each(|block| block.set_activation(activation));
            let pool = self.attn_pool.iter_mut();
            pool.for_each(|pool| pool.set_activation(activation));
        }
        if let Some(pool) = layout.global_pool.filter(|_| !self.stated.global_pool)
            && self.rope == Some(RopeType::Dinov3)
        {
            self.global_pool = pool;
        }
    }

    fn spared_from_decay(&self, name: &str) -> bool {
        ["pos_embed", "cls_token", "reg_token"].contains(&name)
    }

    fn why_not(&self, tensor: &str) -> Option<&'static str> {
        if tensor.ends_with("reg_token") || tensor.ends_with("register_tokens") {
            return Some("the checkpoint has register tokens; expected their number as reg_tokens");
        }
        foreign(tensor)
    }

    /// Resamples position embeddings of another resolution as timm does, also where only the aspect of
    /// the image differs.
    fn resized(
        &self,
        name: &str,
        value: &TensorData,
        stored: Option<ImageSize>,
    ) -> std::result::Result<Option<TensorData>, String> {
        match (name, value.shape().len()) {
            ("pos_embed", _) => {}
            ("patch_embed.proj.weight", 2) => return Err(NAFLEX.to_owned()),
            _ => return Ok(None),
        }
        let patch = self.spec.input.size.height / self.grid[0];
        let stored = stored.map(|size| size.map(|side| side / patch).sides());
        let &[1, found, _] = &value.shape()[..] else {
            return Ok(None);
        };
        let embedded = self.embedded_prefix_tokens();
        let known = stored.is_some_and(|[rows, columns]| rows * columns + embedded == found);
        // As many positions as there would be with the other value of this option.
        let other = self.grid[0] * self.grid[1] + self.prefix_tokens - embedded;
        if self.prefix_tokens > 0 && found == other && !known {
            let whose = match embedded {
                0 => "of the patches and of the tokens before them",
                _ => "of the patches alone",
            };
            return Err(format!(
                "these are the positions {whose}; expected no_embed_class: {}",
                embedded > 0
            ));
        }
        resampled(value, embedded, self.grid, stored)
    }

    /// A prompt on the image joins the position embedding, as does one before the first block
    /// unless a norm comes between. Elsewhere only a prompt that all tokens share can be absorbed,
    /// by a bias.
    fn absorb(&self, boundary: Cut, delta: &Activation) -> Option<Tensors> {
        match (boundary, delta.clone()) {
            (0, Activation::Map(delta)) => self.absorb_in_patches(delta),
            (1, Activation::Tokens(delta)) if self.norm_pre.is_none() => {
                self.absorb_in_tokens(delta.x)
            }
            (boundary, Activation::Tokens(delta)) if delta.x.dims()[1] == 1 => {
                self.absorb_in_bias(boundary, delta.x.flatten(0, 2))
            }
            _ => None,
        }
    }
}
