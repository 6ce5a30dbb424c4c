//! A pre-norm block: attention, then an MLP, each added to the stream.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::{Activation, Tokens};
use peft_core::backbone::Init;
use peft_core::hooks::{BranchValues, Hooks, like};
use peft_core::layers::{LayerNorm, Linear};
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};

use crate::architecture::Architecture;
use crate::attention::Attention;
use crate::mlp::Mlp;

/// `x + ls1(attn(norm1(x)))`, then `x + ls2(mlp(norm2(x)))`; `ls1` and `ls2` are missing in most
/// variants.
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    pub norm2: LayerNorm,
    pub mlp: Mlp,
    pub ls2: Option<LayerScale>,
}

/// `gamma x`, channel by channel (Touvron et al., 2021). An adapter of the branch acts before it.
#[derive(Module, Debug)]
pub(crate) struct LayerScale {
    pub gamma: Param<Tensor<1>>,
}

impl Block {
    /// The block `blocks.{index}` with initial values from `init`.
    pub fn new(index: usize, sizes: &Architecture, init: &Init) -> Self {
        // Names count blocks from 0, boundaries and sites from 1.
        let (d, block) = (sizes.embed_dim, index + 1);
        let name = |part: &str| format!("blocks.{index}.{part}");
        let norm = |part: &str| {
            let site = Site::new(name(part), block, SiteKind::Norm { channels: d });
            LayerNorm::new(site, sizes.epsilon(), init)
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

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> Vec<Site> {
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
    pub fn forward(&self, tokens: Tokens, hooks: &Hooks) -> Tokens {
        tokens.map(|x| {
            // With nothing between a branch's last layer and the sum, both happen in one pass.
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
fn scaled(x: Tensor<3>, scale: &Option<LayerScale>) -> Tensor<3> {
    match scale {
        Some(scale) => {
            let gamma = like(scale.gamma.val(), &x).unsqueeze();
            x * gamma
        }
        None => x,
    }
}
