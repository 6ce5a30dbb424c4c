//! Convpass: bottlenecks with a convolution over the patches, beside the branches of frozen blocks.
//!
//! Reference: "Convolutional Bypasses Are Better Vision Transformer Adapters", Jie and Deng, 2022, Eqs. 5
//! to 8.
//!
//! `h + s C(norm x)` takes the place of the output `h` of attention and of the MLP, with
//! `C(x) = W_u q(conv(q(W_d x)))`, each with a bias, `q` QuickGELU, `W_d [h, D]` and a convolution of 3 x 3 among `h`
//! channels. Class and register tokens are maps of one pixel, and so are prompts. `W_d` is drawn
//! Xavier-uniform, the convolution starts as the identity and the rest at zero: an adapted model starts as
//! the backbone. Parameters: `2 D h + h + D + 9 h^2 + h` per branch.
//!
//! Departures: the reference code drops hidden values with probability 0.1, which is `dropout: 0.1`. Where a
//! backbone has LayerScale, the bottleneck acts before it. A residual block of convolutions is one branch,
//! whose shortcut is read.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use peft_core::activation::{Activation, BoundaryShape};
use peft_core::attention::AttentionGrid;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::described::{DescribedLayer, DescribedSite, Formula, Function, Reads, TokenGrid};
use peft_core::error::Result;
use peft_core::hooks::{BranchValues, Draws, SiteAct, like};
use peft_core::layers::Dense;
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Site, SiteKind};
use peft_ops::{Gelu, conv2d, linear};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Put convolutional bottlenecks beside branches.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Convpass {
    /// Hidden width `h`, at least 1. Default 8.
    pub bottleneck: usize,
    /// Factor `s` of the bottleneck's output, any finite number; the paper chooses it for each data set.
    /// Default 1.
    pub scale: f64,
    /// Probability in `[0, 1)` of dropping a hidden value while training. Default 0.
    pub dropout: f64,
}

impl Default for Convpass {
    fn default() -> Self {
        Self {
            bottleneck: 8,
            scale: 1.0,
            dropout: 0.0,
        }
    }
}

impl Convpass {
    /// The branches with their widths.
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<(&'a Site, usize)>> {
        check::at_least_one("bottleneck", self.bottleneck)?;
        check::finite("scale", self.scale)?;
        check::dropout("dropout", self.dropout)?;
        let spec = backbone.spec();
        let branch = |site: &'a Site| match site.kind {
            SiteKind::Branch { width, .. } => Some((site, width)),
            _ => None,
        };
        let sites: Vec<_> = spec.sites.iter().filter_map(branch).collect();
        match sites.is_empty() {
            true => Err(spec.unfit(
                "convpass",
                "it has neither attention, an mlp nor a residual branch",
            )),
            false => Ok(sites),
        }
    }
}

#[typetag::serde(name = "convpass")]
impl AdaptationMethod for Convpass {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let mut bypasses = Vec::new();
        for (site, width) in self.sites(backbone)? {
            let tokens = match backbone
                .spec()
                .boundaries
                .get(site.block)
                .map(|at| at.shape)
            {
                Some(BoundaryShape::Tokens { .. }) => {
                    let reason = format!("{} has tokens that lie on no grid", site.name);
                    let grid = backbone.attention_grid(site.block);
                    Some(grid.ok_or_else(|| backbone.spec().unfit("convpass", reason))?)
                }
                _ => None,
            };
            let bypass = Bypass::new(
                &site.name,
                [width, self.bottleneck],
                tokens,
                self.dropout,
                init,
            );
            bypasses.push((site.name.clone(), bypass));
        }
        Ok(Attachment::adapter(ConvpassAdapter {
            bypasses: bypasses.into_iter().collect(),
            scale: self.scale,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let hidden = self.bottleneck;
        let count = |(_, width): &(&Site, usize)| {
            2 * width * hidden + hidden + width + 9 * hidden * hidden + hidden
        };
        Ok(self.sites(backbone)?.iter().map(count).sum())
    }
}

/// The bottlenecks of a [`Convpass`], by branch.
#[derive(Module, Debug)]
pub struct ConvpassAdapter {
    bypasses: BySite<Bypass>,
    scale: f64,
}

impl Adapter for ConvpassAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let Some(bypass) = self.bypasses.get(site.name.as_str()) else {
            return Vec::new();
        };
        let act = move |values: BranchValues, draws: &Draws| {
            let delta = bypass.forward(values.normed, draws).scaled(self.scale);
            values.output.plus(delta)
        };
        vec![SiteAct::Branch(Box::new(act))]
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let described = |bypass: &Bypass| DescribedSite::Branch {
            reads: Reads::Normed,
            layers: bypass.described(),
            scale: self.scale,
        };
        let bypass = self.bypasses.get(site.name.as_str());
        bypass.map(described).into_iter().collect()
    }
}

/// `C` at one branch.
#[derive(Module, Debug)]
struct Bypass {
    down: Dense,
    conv: Conv,
    up: Dense,
    dropout: f64,
    #[module(skip)]
    tokens: Option<AttentionGrid>,
    #[module(skip)]
    name: String,
}

#[derive(Module, Debug)]
struct Conv {
    /// `[h, h, 3, 3]`.
    weight: Param<Tensor<4>>,
    /// `[h]`.
    bias: Param<Tensor<1>>,
}

impl Bypass {
    fn new(
        site: &str,
        [width, hidden]: [usize; 2],
        tokens: Option<AttentionGrid>,
        dropout: f64,
        init: &Init,
    ) -> Self {
        let zeros = Distribution::Zeros;
        let name = |part: &str| format!("{site}.{part}");
        let xavier = Distribution::Uniform((6.0 / (width + hidden) as f32).sqrt());
        let identity = Tensor::<2>::eye(hidden, init.device()).reshape([hidden, hidden, 1, 1]);
        let kernel = init.tensor(&name("conv.weight"), [hidden, hidden, 3, 3], zeros);
        Self {
            down: Dense::new(&name("down"), [hidden, width], xavier, init),
            conv: Conv {
                weight: Param::from_tensor(
                    kernel.slice_assign([0..hidden, 0..hidden, 1..2, 1..2], identity),
                ),
                bias: init.param(&name("conv.bias"), [hidden], zeros),
            },
            up: Dense::new(&name("up"), [width, hidden], zeros, init),
            dropout,
            tokens,
            name: site.to_owned(),
        }
    }

    fn described(&self) -> Vec<DescribedLayer> {
        let name = |part: &str| format!("{}.{part}", self.name);
        let quick = || DescribedLayer::Nonlinearity {
            function: Function::QuickGelu,
        };
        let grid = |at: AttentionGrid| TokenGrid {
            prefix: at.prefix,
            grid: at.grid,
        };
        vec![
            DescribedLayer::dense(&name("down")),
            quick(),
            DescribedLayer::Conv {
                weight: Formula::parameter(name("conv.weight")),
                bias: Formula::parameter(name("conv.bias")),
                tokens: self.tokens.map(grid),
            },
            quick(),
            DescribedLayer::dense(&name("up")),
        ]
    }

    /// # Shapes
    /// Any activation with `D` channels; the result has the same shape.
    fn forward(&self, x: Activation, draws: &Draws) -> Activation {
        let hidden = x.per_position(|x| Gelu::Quick.of(self.down.on_rows(x)));
        let mixed = match hidden {
            Activation::Map(x) => Activation::Map(self.conv.forward(x)),
            Activation::Grid(x) => Activation::Grid(self.conv.channels_last(x)),
            Activation::Tokens(tokens) => Activation::Tokens(tokens.map(|x| self.on_tokens(x))),
            features @ Activation::Features(_) => features,
        };
        mixed.per_position(|x| {
            let hidden = draws.dropout(Gelu::Quick.of(x), self.dropout, &self.name);
            self.up.on_rows(hidden)
        })
    }

    /// # Shapes
    /// `[b, prefix + patches + extras, h]`; the result has the same.
    fn on_tokens(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(AttentionGrid {
            prefix,
            grid: [rows, columns],
            ..
        }) = self.tokens
        else {
            unreachable!("{}: tokens have a grid", self.name)
        };
        let ([b, n, h], patches) = (x.dims(), rows * columns);
        let map = x
            .clone()
            .narrow(1, prefix, patches)
            .reshape([b, rows, columns, h]);
        let mut parts = vec![self.conv.channels_last(map).reshape([b, patches, h])];
        let behind = prefix + patches;
        if prefix > 0 {
            parts.insert(0, self.conv.on_single(x.clone().narrow(1, 0, prefix)));
        }
        if behind < n {
            parts.push(self.conv.on_single(x.narrow(1, behind, n - behind)));
        }
        Tensor::cat(parts, 1)
    }
}

impl Conv {
    /// # Shapes
    /// `[b, h, rows, columns]`; the result has the same.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (weight, bias) = (like(self.weight.val(), &x), like(self.bias.val(), &x));
        conv2d(
            x,
            weight,
            Some(bias),
            ConvOptions::new([1, 1], [1, 1], [1, 1], 1),
        )
    }

    /// # Shapes
    /// `[b, rows, columns, h]`; the result has the same.
    fn channels_last(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x.permute([0, 3, 1, 2])).permute([0, 2, 3, 1])
    }

    /// Every token as a map of one pixel, of which only the kernel's centre sees anything.
    ///
    /// # Shapes
    /// `[b, n, h]`; the result has the same.
    fn on_single(&self, x: Tensor<3>) -> Tensor<3> {
        let centre = self.weight.val().narrow(2, 1, 1).narrow(3, 1, 1);
        let [outputs, inputs, ..] = centre.dims();
        let centre = like(centre.reshape([outputs, inputs]), &x);
        let bias = like(self.bias.val(), &x);
        linear(x, centre, Some(bias))
    }
}

peft_core::register!(
    Method, Convpass,
    name: "convpass",
    summary: "bottlenecks with a convolution over the patches, beside the branches of blocks",
    reference: "Convolutional Bypasses Are Better Vision Transformer Adapters, Jie and Deng, 2022",
    example: "name: convpass\nbottleneck: 8\nscale: 1.0\ndropout: 0.0\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, built, conforms, vit};

    use super::*;

    #[test]
    fn beside_both_branches_it_agrees_with_the_reference() {
        let method = Convpass {
            scale: 0.5,
            ..Convpass::default()
        };
        let rename = |name: &str| name.trim_start_matches("convpass.").to_owned();
        let golden = Golden::fixture("peft/convpass");
        golden.check_training(&*vit(), Box::new(method), rename);
    }

    #[test]
    fn it_conforms() {
        let dropped = Convpass {
            bottleneck: 5,
            scale: 0.3,
            dropout: 0.1,
        };
        conforms(&[Box::new(Convpass::default()), Box::new(dropped)]);
    }

    #[test]
    fn the_formula_counts_both_layers_and_the_kernel() {
        let count = Convpass::default().formula(&*built(&*vit())).unwrap();
        assert_eq!(count, 4 * 2 * (2 * 48 * 8 + 8 + 48 + 9 * 64 + 8));
    }

    #[test]
    fn bad_values_are_refused_by_field() {
        let backbone = built(&*vit());
        let error = |method: Convpass| method.formula(&*backbone).unwrap_err().to_string();
        let hidden = Convpass {
            bottleneck: 0,
            ..Convpass::default()
        };
        assert_eq!(error(hidden), "bottleneck: expected at least 1, got 0");
        let dropout = Convpass {
            dropout: 1.0,
            ..Convpass::default()
        };
        assert_eq!(
            error(dropout),
            "dropout: expected at least 0 and less than 1, got 1"
        );
    }
}
