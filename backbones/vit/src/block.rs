//! A pre-norm block: attention, then an MLP, each added to the stream.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::{Activation, Tokens};
use peft_core::backbone::Init;
use peft_core::hooks::{BranchValues, Hooks, like};
use peft_core::layers::LayerNorm;
use peft_core::plug::Named;
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site};
use peft_ops::Rotation;

use crate::architecture::{Architecture, MlpActivation};
use crate::attention::Attention;
use crate::mlp::Mlp;
use crate::place::Place;

/// `x + scale1 attn(norm1(x))`, then `x + scale2 mlp(norm2(x))`; most variants have no scales.
#[derive(Module, Debug)]
pub(crate) struct Block {
    norm1: LayerNorm,
    attn: Attention,
    scale1: LayerScale,
    norm2: LayerNorm,
    pub mlp: Mlp,
    pub scale2: LayerScale,
    #[module(skip)]
    mlp_site: Site,
}

/// `gamma x`, channel by channel (Touvron et al., 2021); empty if a variant has none. An adapter of the
/// branch acts before it. The key is the path of `gamma`: `ls1.gamma`, or `gamma_1` in networks with rotary
/// positions.
type LayerScale = Named<&'static str, Param<Tensor<1>>>;

impl Block {
    /// The block `blocks.{index}` with initial values from `init`.
    pub fn new(index: usize, sizes: &Architecture, init: &Init) -> Self {
        // Names count blocks from 0, boundaries and sites from 1.
        let place = Place {
            module: format!("blocks.{index}"),
            block: index + 1,
        };
        let d = sizes.embed_dim;
        let norm = |part: &str| LayerNorm::new(place.norm(part, d), sizes.epsilon(), init);
        let scale = |[plain, rotary]: [&'static str; 2]| -> LayerScale {
            let name = if sizes.rope.is_some() { rotary } else { plain };
            let gamma = |value| {
                let ones = init.tensor(&place.name(name), [d], Distribution::Ones);
                (name, Param::from_tensor(ones * value))
            };
            sizes.init_values.map(gamma).into_iter().collect()
        };
        let attention = place.branch("attn", Branch::Attention, d);
        Self {
            norm1: norm("norm1"),
            attn: Attention::new(sizes, &place, attention, init),
            scale1: scale(["ls1.gamma", "gamma_1"]),
            norm2: norm("norm2"),
            mlp: Mlp::new(sizes, sizes.mlp, &place, init),
            scale2: scale(["ls2.gamma", "gamma_2"]),
            mlp_site: place.branch("mlp", Branch::Mlp, d),
        }
    }

    /// Its sites in the order of the forward pass.
    pub fn sites(&self) -> Vec<Site> {
        let attention = std::iter::once(self.norm1.site()).chain(self.attn.sites());
        let mlp = std::iter::once(self.norm2.site()).chain(self.mlp.sites());
        let all = attention.chain(mlp).chain([&self.mlp_site]);
        all.cloned().collect()
    }

    /// Changes the activation of its MLP.
    pub fn set_activation(&mut self, act_layer: MlpActivation) {
        self.mlp.set_activation(act_layer);
    }

    /// Changes the epsilon of its norms.
    pub fn set_epsilon(&mut self, epsilon: f64) {
        self.norm1.set_epsilon(epsilon);
        self.attn.set_epsilon(epsilon);
        self.norm2.set_epsilon(epsilon);
        self.mlp.set_epsilon(epsilon);
    }

    /// Runs the block, without acts, for `queries` that attend to the tokens `x`.
    ///
    /// # Shapes
    /// `x`: `[b, n, d]`, `queries`: `[b, t, d]`; the result has the shape of the queries.
    pub fn query(
        &self,
        x: Tensor<3>,
        queries: Tensor<3>,
        rotation: Option<&Rotation>,
    ) -> Tensor<3> {
        let none = &Hooks::none();
        let [x, asking] = [x, queries.clone()].map(|x| self.norm1.forward(x, none));
        let mixed = self.attn.queried(x, asking, rotation);
        let x = queries + scaled(self.attn.proj.forward(mixed, none), &self.scale1);
        let output = self
            .mlp
            .forward(None, self.norm2.forward(x.clone(), none), none);
        x + scaled(output, &self.scale2)
    }

    /// # Shapes
    /// `[b, n, d] -> [b, n, d]`, extra tokens included, which a rotation leaves as they are.
    pub fn forward(&self, tokens: Tokens, rotation: Option<&Rotation>, hooks: &Hooks) -> Tokens {
        tokens.map(|x| {
            // With nothing between a branch's last layer and the sum, both happen in one pass.
            let bare = |site, scale: &LayerScale| scale.is_empty() && !hooks.acts_at(site);
            // What an adapter does not read is moved, so that its memory is free before the next layer.
            let normed = self.norm1.forward(x.clone(), hooks);
            let x = if bare(&self.attn.site, &self.scale1) {
                let mixed = self.attn.mixed(normed, rotation, hooks);
                self.attn.proj.forward_onto(x, mixed, hooks)
            } else {
                let mixed = self.attn.mixed(normed.clone(), rotation, hooks);
                let output = self.attn.proj.forward(mixed, hooks);
                let output = branch(&self.attn.site, [x.clone(), normed, output], hooks);
                x + scaled(output, &self.scale1)
            };
            let normed = self.norm2.forward(x.clone(), hooks);
            if bare(&self.mlp_site, &self.scale2) {
                self.mlp.forward(Some(x), normed, hooks)
            } else {
                let output = self.mlp.forward(None, normed.clone(), hooks);
                let output = branch(&self.mlp_site, [x.clone(), normed, output], hooks);
                x + scaled(output, &self.scale2)
            }
        })
    }
}

/// The output of a branch after the adapters at `site` have acted.
///
/// # Shapes
/// `[b, n, d]`, all three and the result.
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

/// `x` after a LayerScale, if there is one.
///
/// # Shapes
/// `[b, n, d] -> [b, n, d]`.
fn scaled(x: Tensor<3>, scale: &LayerScale) -> Tensor<3> {
    match scale.iter().next() {
        Some((_, gamma)) => {
            let gamma = like(gamma.val(), &x).unsqueeze();
            x * gamma
        }
        None => x,
    }
}
