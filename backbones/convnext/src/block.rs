//! A block: a depthwise convolution, a norm and an MLP, added to the stream.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::Activation;
use peft_core::hooks::{BranchValues, Hooks, like};
use peft_core::layers::{Conv2d, Conv2dSizes, LayerNorm};
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::Gelu;

use crate::architecture::MLP_RATIO;
use crate::grn::Grn;
use crate::place::Place;
use crate::pointwise::Pointwise;

/// `x + gamma mlp(norm(conv_dw(x)))`; version 2 has no `gamma`.
#[derive(Module, Debug)]
pub(crate) struct Block {
    conv_dw: Conv2d,
    norm: LayerNorm,
    pub mlp: Mlp,
    /// LayerScale (Touvron et al., 2021), `[c]`. An adapter of the branch acts before it.
    pub gamma: Option<Param<Tensor<1>>>,
    #[module(skip)]
    site: Site,
}

/// Two layers with GELU between them, and GRN behind it in version 2.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    fc1: Pointwise,
    grn: Option<Grn>,
    pub fc2: Pointwise,
}

impl Block {
    /// The block at `place`, of `width` channels.
    pub fn new(place: &Place, width: usize) -> Self {
        let (sizes, hidden) = (place.sizes, MLP_RATIO * width);
        let depthwise = Conv2dSizes {
            inputs: width,
            outputs: width,
            kernel: sizes.kernel_sizes,
            stride: 1,
            padding: sizes.kernel_sizes / 2,
        };
        let gamma = sizes.ls_init_value.map(|value| {
            let ones = Distribution::Ones;
            let gamma = place.init.tensor(&place.part("gamma"), [width], ones);
            Param::from_tensor(gamma * value)
        });
        let branch = SiteKind::Branch {
            branch: Branch::Residual,
            width,
        };
        Self {
            conv_dw: place.conv("conv_dw", depthwise.grouped(width)),
            norm: place.norm("norm", width),
            mlp: Mlp {
                fc1: Pointwise::new(place, "mlp.fc1", [width, hidden]),
                grn: sizes.use_grn.then(|| Grn::new(place, "mlp.grn", hidden)),
                fc2: Pointwise::new(place, "mlp.fc2", [hidden, width]),
            },
            gamma,
            site: Site::new(place.name.clone(), place.block, branch),
        }
    }

    /// Returns its sites in the order of the forward pass.
    pub fn sites(&self) -> [Site; 5] {
        [
            self.conv_dw.site(),
            self.norm.site(),
            self.mlp.fc1.site(),
            self.mlp.fc2.site(),
            &self.site,
        ]
        .map(Site::clone)
    }

    /// # Shapes
    /// `[b, h, w, c] -> [b, h, w, c]`.
    pub fn forward(&self, x: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let mixed = self.conv_dw.forward_grid(x.clone(), hooks);
        let normed = self.norm.forward(mixed, hooks);
        let hidden = self.mlp.fc1.forward(normed, hooks); // [b, h, w, 4 c]
        let fc2 = &self.mlp.fc2;
        if !hooks.acts_at(&self.site) {
            // With nothing between the last layer and the sum, both happen in one pass. LayerScale then joins the
            // layer's weight, which is small beside the map.
            match &self.gamma {
                None => return self.mlp.ends_with(fc2, Some(x), hidden, hooks),
                Some(gamma) if !hooks.acts_at(fc2.site()) => {
                    let scaled = fc2.scaled(&gamma.val());
                    return self.mlp.ends_with(&scaled, Some(x), hidden, hooks);
                }
                Some(_) => {}
            }
        }
        let output = self.mlp.ends_with(fc2, None, hidden, hooks);
        let output = match hooks.acts_at(&self.site) {
            true => self.branch(x.clone(), output, hooks),
            false => output,
        };
        x + match &self.gamma {
            Some(gamma) => {
                let gamma = like(gamma.val(), &output);
                output * gamma.reshape([1, 1, 1, -1])
            }
            None => output,
        }
    }

    /// The output of the branch after the adapters at it have acted. The branch begins with a convolution of the
    /// stream, so that its input is the stream itself.
    ///
    /// # Shapes
    /// `[b, h, w, c]`, both and the result.
    fn branch(&self, x: Tensor<4>, output: Tensor<4>, hooks: &Hooks) -> Tensor<4> {
        let values = BranchValues {
            residual: Activation::Grid(x.clone()),
            normed: Activation::Grid(x),
            output: Activation::Grid(output),
        };
        match hooks.at_branch(&self.site, values) {
            Activation::Grid(x) => x,
            other => panic!("{}: a grid became {:?}", self.site.name, other.shape()),
        }
    }
}

impl Mlp {
    /// The part behind the first layer, with `fc2` as the last one, added to `residual` if there is one.
    ///
    /// # Shapes
    /// `[b, h, w, c]`, `[b, h, w, 4 c] -> [b, h, w, c]`.
    fn ends_with(
        &self,
        fc2: &Pointwise,
        residual: Option<Tensor<4>>,
        hidden: Tensor<4>,
        hooks: &Hooks,
    ) -> Tensor<4> {
        match &self.grn {
            Some(grn) => fc2.onto(residual, grn.forward(Gelu::Exact.of(hidden)), hooks),
            None => fc2.of_gelu(residual, hidden, hooks),
        }
    }
}
