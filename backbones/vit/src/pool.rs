//! Pooling by attention, as SigLIP does it: timm's `AttentionPoolLatent`.
//!
//! Reference: "Sigmoid Loss for Language Image Pre-Training", Zhai et al., 2023; the head is the one of
//! "Scaling Vision Transformers", Zhai et al., 2022.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use peft_core::backbone::Init;
use peft_core::hooks::{Hooks, like};
use peft_core::layers::{LayerNorm, Linear};
use peft_core::random::Distribution;
use peft_core::site::Site;

use crate::architecture::{Architecture, MlpActivation, MlpKind};
use crate::mlp::Mlp;
use crate::place::Place;

/// The name of its module.
const NAME: &str = "attn_pool";

/// `y = proj(attention(q(latent), kv(tokens)))`, then `y + mlp(norm(y))`.
#[derive(Module, Debug)]
pub(crate) struct AttentionPool {
    /// The learned query `[1, 1, d]`.
    latent: Param<Tensor<3>>,
    q: Linear,
    /// Keys, then values.
    kv: Linear,
    proj: Linear,
    norm: LayerNorm,
    mlp: Mlp,
    heads: usize,
}

impl AttentionPool {
    pub fn new(sizes: &Architecture, init: &Init) -> Self {
        let place = Place {
            module: NAME.to_owned(),
            block: sizes.depth + 1,
        };
        let d = sizes.embed_dim;
        let normal = Distribution::TruncatedNormal((d as f32).powf(-0.5));
        let layer = |part: &str, outputs| Linear::new(place.linear(part, d, outputs), true, init);
        Self {
            latent: init.param(&place.name("latent"), [1, 1, d], normal),
            q: layer("q", d),
            kv: layer("kv", 2 * d),
            proj: layer("proj", d),
            norm: LayerNorm::new(place.norm("norm", d), sizes.epsilon(), init),
            mlp: Mlp::new(sizes, MlpKind::Plain, &place, init),
            heads: sizes.num_heads,
        }
    }

    /// Its sites in the order of the forward pass.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        let attention = [&self.q, &self.kv, &self.proj].map(Linear::site);
        let attention = attention.into_iter().chain([self.norm.site()]);
        attention.chain(self.mlp.sites())
    }

    /// Changes the activation of its MLP.
    pub fn set_activation(&mut self, act_layer: MlpActivation) {
        self.mlp.set_activation(act_layer);
    }

    /// Changes the epsilon of its norm.
    pub fn set_epsilon(&mut self, epsilon: f64) {
        self.norm.set_epsilon(epsilon);
    }

    /// # Shapes
    /// `[b, n, d] -> [b, d]`.
    pub fn forward(&self, tokens: Tensor<3>, hooks: &Hooks) -> Tensor<2> {
        let [b, n, d] = tokens.dims();
        let (heads, width) = (self.heads, d / self.heads);
        let q = self.q.forward(like(self.latent.val(), &tokens), hooks); // [1, 1, d]
        let q = q.reshape([1, heads, 1, width]) * (width as f64).powf(-0.5);
        let kv = self.kv.forward(tokens, hooks); // [b, n, 2 d]
        let kv = kv.reshape([b, n, 2, heads, width]).permute([2, 0, 3, 1, 4]); // [2, b, h, n, w]
        let part = |i| kv.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        let (k, v) = (part(0), part(1)); // [b, h, n, w]
        let scores = q.expand([b, heads, 1, width]).matmul(k.transpose()); // [b, h, 1, n]
        let mixed = softmax(scores, 3).matmul(v); // [b, h, 1, w]
        let y = self.proj.forward(mixed.reshape([b, 1, d]), hooks);
        let normed = self.norm.forward(y.clone(), hooks);
        self.mlp.forward(Some(y), normed, hooks).squeeze_dim(1)
    }
}
