//! A pre-norm block: attention inside windows, then an MLP, each added to the stream.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::activation::Activation;
use peft_core::hooks::{BranchValues, Hooks};
use peft_core::layers::LayerNorm;
use peft_core::site::{Branch, Site};

use crate::architecture::StageSizes;
use crate::attention::WindowAttention;
use crate::mlp::Mlp;
use crate::place::Place;
use crate::windows::Windows;

/// `x + attn(norm1(x))`, then `x + mlp(norm2(x))`.
#[derive(Module, Debug)]
pub(crate) struct Block {
    norm1: LayerNorm,
    pub attn: WindowAttention,
    norm2: LayerNorm,
    pub mlp: Mlp,
}

impl Block {
    /// A block whose windows are shifted by half their size if `shifted`.
    pub fn new(place: &Place, sizes: &StageSizes, shifted: bool) -> Self {
        let d = sizes.width;
        let windows = Windows::new(sizes.grid, sizes.window, shifted);
        Self {
            norm1: place.norm("norm1", d),
            attn: WindowAttention::new(place, sizes, windows),
            norm2: place.norm("norm2", d),
            mlp: Mlp {
                fc1: place.linear("mlp.fc1", [d, sizes.hidden], true),
                fc2: place.linear("mlp.fc2", [sizes.hidden, d], true),
                site: place.branch("mlp", Branch::Mlp, d),
            },
        }
    }

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> [Site; 8] {
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
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
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
