//! A block: attention inside windows, then an MLP, each added to the stream. The first version norms what
//! a branch reads, the second what it puts out.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::Activation;
use peft_core::hooks::{BranchValues, Hooks};
use peft_core::layers::LayerNorm;
use peft_core::site::{Branch, Site};

use crate::architecture::{StageSizes, Version};
use crate::attention::WindowAttention;
use crate::mlp::Mlp;
use crate::place::Place;

/// `x + attn(norm1(x))`, then `x + mlp(norm2(x))`; in version 2 `x + norm1(attn(x))`, then
/// `x + norm2(mlp(x))`. There the output that an adapter of a branch sees is the norm's, which joins the
/// stream, and what it sees as normed is the stream.
#[derive(Module, Debug)]
pub(crate) struct Block {
    norm1: LayerNorm,
    pub attn: WindowAttention,
    norm2: LayerNorm,
    pub mlp: Mlp,
    #[module(skip)]
    version: Version,
}

impl Block {
    /// A block whose windows are shifted by half their size if `shifted`.
    pub fn new(place: &Place, sizes: &StageSizes, shifted: bool) -> Self {
        let d = sizes.width;
        Self {
            norm1: place.norm("norm1", d),
            attn: WindowAttention::new(place, sizes, shifted),
            norm2: place.norm("norm2", d),
            mlp: Mlp {
                fc1: place.linear("mlp.fc1", [d, sizes.hidden], true),
                fc2: place.linear("mlp.fc2", [sizes.hidden, d], true),
                site: place.branch("mlp", Branch::Mlp, d),
            },
            version: sizes.version,
        }
    }

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> [Site; 8] {
        let (norms, attn, mlp) = (
            [self.norm1.site(), self.norm2.site()],
            &self.attn,
            &self.mlp,
        );
        let [attention, perceptron] = [
            [attn.qkv.site(), attn.proj.site()],
            [mlp.fc1.site(), mlp.fc2.site()],
        ];
        let sites = match self.version {
            Version::One => [
                norms[0],
                attention[0],
                attention[1],
                &attn.site,
                norms[1],
                perceptron[0],
                perceptron[1],
                &mlp.site,
            ],
            Version::Two => [
                attention[0],
                attention[1],
                norms[0],
                &attn.site,
                perceptron[0],
                perceptron[1],
                norms[1],
                &mlp.site,
            ],
        };
        sites.map(Site::clone)
    }

    /// The bias that is added to the stream last, and the site of its layer.
    pub fn last_bias(&self) -> Option<(&Site, &Param<Tensor<1>>)> {
        match self.version {
            Version::One => Some((self.mlp.fc2.site(), self.mlp.fc2.bias.as_ref()?)),
            Version::Two => Some((self.norm2.site(), &self.norm2.bias)),
        }
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        if self.version == Version::Two {
            let output = self.attn.forward(x.clone(), hooks);
            let output = self.norm1.forward(output, hooks);
            let x = x.clone() + branch(&self.attn.site, [x.clone(), x, output], hooks);
            let output = self.mlp.forward(None, x.clone(), hooks);
            let output = self.norm2.forward(output, hooks);
            return x.clone() + branch(&self.mlp.site, [x.clone(), x, output], hooks);
        }
        let normed = self.norm1.forward(x.clone(), hooks);
        let output = self.attn.forward(normed.clone(), hooks);
        let x = x.clone() + branch(&self.attn.site, [x, normed, output], hooks);
        let normed = self.norm2.forward(x.clone(), hooks);
        // With nothing between the last layer and the sum, both happen in one pass.
        if !hooks.acts_at(&self.mlp.site) {
            return self.mlp.forward(Some(x), normed, hooks);
        }
        let output = self.mlp.forward(None, normed.clone(), hooks);
        x.clone() + branch(&self.mlp.site, [x, normed, output], hooks)
    }
}

/// The output of a branch after the adapters at `site` have acted.
///
/// # Shapes
/// `[b, h, w, c]`, all three and the result.
fn branch(site: &Site, values: [Tensor<4>; 3], hooks: &Hooks) -> Tensor<4> {
    let [residual, normed, output] = values.map(Activation::Grid);
    let values = BranchValues {
        residual,
        normed,
        output,
    };
    match hooks.at_branch(site, values) {
        Activation::Grid(x) => x,
        other => panic!("{}: a grid became {:?}", site.name, other.shape()),
    }
}
