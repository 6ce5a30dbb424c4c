//! Compacter: adapters whose weights are sums of Kronecker products, with one factor that all of them share.
//!
//! Reference: "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", Karimi Mahabadi, Henderson and Ruder,
//! 2021, Eqs. 3 to 5.
//!
//! After the attention and after the MLP of a block the output `h` becomes `h + W_u f(W_d h + b_d) + b_u`. Both
//! weights are `sum_i kron(A_i, s_i t_i)` over `i = 1..n`: the matrices `A_i [n, n]` are one parameter for all
//! layers, `s_i` and `t_i` of rank `r` belong to the layer. For `W_d [d, D]` they are `[d / n, r]` and `[r, D / n]`.
//! `t` of `W_u` and the biases start at zero, so that an adapted model starts as the backbone. Compacter++ is
//! `mlp_only`. Parameters: `n^3`, and `2 r (D + d) + d + D` per branch.
//!
//! Departures: the reference code draws `t` of `W_u` like the other factors and trains the norms along. Where a
//! backbone has LayerScale, the bottleneck acts before it. A residual block of convolutions is one branch.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::Activation;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::described::{DescribedLayer, DescribedSite, Formula, Function, Reads};
use peft_core::error::{Error, Result};
use peft_core::hooks::{BranchValues, Draws, SiteAct, like};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Branch, Site, SiteKind};
use peft_ops::{gelu, linear};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Put bottlenecks with shared Kronecker factors after branches.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Compacter {
    /// Hidden width `d`, a multiple of `factors`. Default 24.
    pub bottleneck: usize,
    /// The number `n` of Kronecker products in a weight, a divisor of the widths of all branches. Default 4.
    pub factors: usize,
    /// Rank `r` of the second factor of each product, at least 1. Default 1.
    pub rank: usize,
    /// Whether attention gets none (Compacter++). Default false.
    pub mlp_only: bool,
}

impl Default for Compacter {
    fn default() -> Self {
        Self {
            bottleneck: 24,
            factors: 4,
            rank: 1,
            mlp_only: false,
        }
    }
}

impl Compacter {
    /// The branches with their widths.
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<(&'a Site, usize)>> {
        check::at_least_one("bottleneck", self.bottleneck)?;
        check::at_least_one("factors", self.factors)?;
        check::at_least_one("rank", self.rank)?;
        if !self.bottleneck.is_multiple_of(self.factors) {
            let message = format!(
                "expected a multiple of the {} factors, got {}",
                self.factors, self.bottleneck
            );
            return Err(Error::config("bottleneck", message));
        }
        let spec = backbone.spec();
        let branch = |site: &'a Site| match site.kind {
            SiteKind::Branch { branch, width } => {
                (branch != Branch::Attention || !self.mlp_only).then_some((site, width))
            }
            _ => None,
        };
        let sites: Vec<_> = spec.sites.iter().filter_map(branch).collect();
        if sites.is_empty() {
            let reason = "it has neither an mlp nor a residual branch";
            return Err(spec.unfit("compacter", reason));
        }
        let odd = sites
            .iter()
            .find(|(_, width)| !width.is_multiple_of(self.factors));
        match odd {
            Some((site, width)) => {
                let (name, factors) = (&site.name, self.factors);
                let reason =
                    format!("{name} has {width} channels; expected a multiple of {factors}");
                Err(spec.unfit("compacter", reason))
            }
            None => Ok(sites),
        }
    }
}

#[typetag::serde(name = "compacter")]
impl AdaptationMethod for Compacter {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let sizes = [self.factors, self.rank];
        let bottlenecks = self.sites(backbone)?.into_iter().map(|(site, width)| {
            let layer = |part: &str, shape, starts_at_zero| {
                let name = format!("{}.{part}", site.name);
                Hypercomplex::new(&name, shape, sizes, starts_at_zero, init)
            };
            let bottleneck = Bottleneck {
                down: layer("down", [self.bottleneck, width], false),
                up: layer("up", [width, self.bottleneck], true),
            };
            (site.name.clone(), bottleneck)
        });
        Ok(Attachment::adapter(CompacterAdapter {
            bottlenecks: bottlenecks.collect(),
            rule: init.param("rule", [self.factors; 3], Distribution::Normal(0.0, 0.01)),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let (hidden, rank) = (self.bottleneck, self.rank);
        let branch = |(_, width): &(&Site, usize)| 2 * rank * (width + hidden) + hidden + width;
        let own: usize = self.sites(backbone)?.iter().map(branch).sum();
        Ok(self.factors.pow(3) + own)
    }
}

/// The bottlenecks of a [`Compacter`] by branch, and the factor that they share.
#[derive(Module, Debug)]
pub struct CompacterAdapter {
    bottlenecks: BySite<Bottleneck>,
    /// `A [n, n, n]`.
    rule: Param<Tensor<3>>,
}

impl Adapter for CompacterAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let Some(bottleneck) = self.bottlenecks.get(site.name.as_str()) else {
            return Vec::new();
        };
        let act = move |values: BranchValues, _: &Draws| {
            let delta = bottleneck.forward(values.output.clone(), self.rule.val());
            values.output.plus(delta)
        };
        vec![SiteAct::Branch(Box::new(act))]
    }

    fn products(&self, site: &Site) -> Option<usize> {
        let bottleneck = self.bottlenecks.get(site.name.as_str())?;
        let layers = [&bottleneck.down, &bottleneck.up];
        Some(
            layers
                .map(|layer| layer.shape().iter().product::<usize>())
                .iter()
                .sum(),
        )
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let Some(bottleneck) = self.bottlenecks.get(site.name.as_str()) else {
            return Vec::new();
        };
        let layer =
            |layer: &Hypercomplex, part: &str| layer.described(&format!("{}.{part}", site.name));
        let function = Function::Gelu;
        vec![DescribedSite::Branch {
            reads: Reads::Output,
            layers: vec![
                layer(&bottleneck.down, "down"),
                DescribedLayer::Nonlinearity { function },
                layer(&bottleneck.up, "up"),
            ],
            scale: 1.0,
        }]
    }
}

/// The bottleneck at one branch.
#[derive(Module, Debug)]
struct Bottleneck {
    down: Hypercomplex,
    up: Hypercomplex,
}

impl Bottleneck {
    /// # Shapes
    /// Any activation with `D` channels; the result has the same shape.
    fn forward(&self, x: Activation, rule: Tensor<3>) -> Activation {
        x.per_position(|x| {
            let hidden = gelu(self.down.forward(x, rule.clone())); // [positions, d]
            self.up.forward(hidden, rule)
        })
    }
}

/// A layer whose weight is `sum_i kron(A_i, s_i t_i)`.
#[derive(Module, Debug)]
struct Hypercomplex {
    /// `[n, out / n, r]`.
    s: Param<Tensor<3>>,
    /// `[n, r, in / n]`.
    t: Param<Tensor<3>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl Hypercomplex {
    fn new(
        name: &str,
        [outputs, inputs]: [usize; 2],
        [n, rank]: [usize; 2],
        starts_at_zero: bool,
        init: &Init,
    ) -> Self {
        // Xavier's bound for a matrix of these sides.
        let xavier = |sides: usize| Distribution::Uniform((6.0 / sides as f32).sqrt());
        let (rows, columns) = (outputs / n, inputs / n);
        let values = match starts_at_zero {
            true => Distribution::Zeros,
            false => xavier(rank + columns),
        };
        Self {
            s: init.param(&format!("{name}.s"), [n, rows, rank], xavier(rows + rank)),
            t: init.param(&format!("{name}.t"), [n, rank, columns], values),
            bias: init.param(&format!("{name}.bias"), [outputs], Distribution::Zeros),
        }
    }

    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2] {
        let [n, _, columns] = self.t.lazy_shape().dims();
        [self.bias.lazy_shape().num_elements(), n * columns]
    }

    /// # Shapes
    /// `rule`: `[n, n, n]`; `[positions, in] -> [positions, out]`.
    fn forward(&self, x: Tensor<2>, rule: Tensor<3>) -> Tensor<2> {
        let [outputs, inputs] = self.shape();
        let [n, ..] = rule.dims();
        let (rows, columns) = (outputs / n, inputs / n);
        // Entry (p rows + k, q columns + l) is the sum over i of A_i[p, q] (s_i t_i)[k, l].
        let own = self
            .s
            .val()
            .matmul(self.t.val())
            .reshape([n, rows * columns]);
        let rule = rule.reshape([n, n * n]).transpose();
        let weight = rule.matmul(own).reshape([n, n, rows, columns]); // [p, q, k, l]
        let weight = weight.permute([0, 2, 1, 3]).reshape([outputs, inputs]);
        let (weight, bias) = (like(weight, &x), like(self.bias.val(), &x));
        linear(x, weight, Some(bias))
    }

    fn described(&self, name: &str) -> DescribedLayer {
        let [outputs, inputs] = self.shape();
        let [n, ..] = self.s.lazy_shape().dims::<3>();
        let (rows, columns) = (outputs / n, inputs / n);
        let [s, t, bias] =
            ["s", "t", "bias"].map(|part| Formula::parameter(format!("{name}.{part}")));
        let own = s.matmul(t).reshaped([n, rows * columns]);
        let rule = Formula::parameter("rule")
            .reshaped([n, n * n])
            .permuted([1, 0]);
        let weight = rule.matmul(own).reshaped([n, n, rows, columns]);
        let weight = weight.permuted([0, 2, 1, 3]).reshaped([outputs, inputs]);
        DescribedLayer::Dense { weight, bias }
    }
}

peft_core::register!(
    Method, Compacter,
    name: "compacter",
    summary: "bottlenecks whose weights are sums of Kronecker products with a shared factor",
    reference: "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, Karimi Mahabadi et al., 2021",
    example: "name: compacter\nbottleneck: 24\nfactors: 4\nrank: 1\nmlp_only: false\n",
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
    fn after_both_branches_or_one_it_agrees_with_the_reference() {
        let own = Compacter {
            bottleneck: 8,
            ..Compacter::default()
        };
        let plus = Compacter {
            bottleneck: 6,
            factors: 2,
            rank: 3,
            mlp_only: true,
        };
        for (name, method) in [("compacter", own), ("compacter_mlp", plus)] {
            let rename = |name: &str| name.trim_start_matches("compacter.").to_owned();
            let golden = Golden::fixture(&format!("peft/{name}"));
            golden.check_training(&*vit(), Box::new(method), rename);
        }
    }

    #[test]
    fn it_conforms_and_does_not_merge() {
        let plus = Compacter {
            bottleneck: 6,
            factors: 2,
            rank: 2,
            mlp_only: true,
        };
        for verdict in conforms(&[Box::new(Compacter::default()), Box::new(plus)]) {
            assert!(
                verdict.merges_or_says(&["a branch has no weight"]),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_shared_factor_counts_once() {
        let count = Compacter::default().formula(&*built(&*vit())).unwrap();
        assert_eq!(count, 64 + 4 * 2 * (2 * (48 + 24) + 24 + 48));
    }

    #[test]
    fn bad_values_are_refused_with_the_reason() {
        let error = |method: Compacter| method.formula(&*built(&*vit())).unwrap_err().to_string();
        let hidden = Compacter {
            bottleneck: 10,
            ..Compacter::default()
        };
        assert_eq!(
            error(hidden),
            "bottleneck: expected a multiple of the 4 factors, got 10"
        );
        let factors = Compacter {
            bottleneck: 10,
            factors: 5,
            ..Compacter::default()
        };
        assert!(error(factors).contains("blocks.0.attn has 48 channels; expected a multiple of 5"));
    }
}
