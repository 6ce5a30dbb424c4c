//! FacT: the changes of all linear layers are one tensor, of which factors train.
//!
//! Reference: "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer", Jie and Deng, 2023,
//! Eqs. 5 to 8.
//!
//! The weights of the blocks are cut into squares of the model's width `D`: three for `qkv`, one for `proj`
//! and one for each `D` of the MLP's width, in `fc1` and `fc2`; `M` in all. The change of square `m` is
//! `s V S_m U` with `U [r, D]` and `V [D, r]` that all share. Each `S_m [r, r]` trains (tensor train, `tt`), or is
//! `sum_k P[m, k] C[k]` with one core `C [r, r, r]` (Tucker, `tk`). `V` starts at zero, so that an adapted
//! model starts as the backbone. Parameters: `2 D r + M r^2`, or `2 D r + r^3 + M r`.
//!
//! Departures: the reference code drops values between the factors with probability 0.1; nothing is dropped
//! here. It also mixes the hidden values of `fc1` and `fc2` across squares in `tk`, where this follows the
//! paper.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::activation::BoundaryShape;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::described::{DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hooks::SiteAct;
use peft_core::low_rank::{Factors, LowRank};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Site, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Train factors of the change of all linear layers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Fact {
    /// The decomposition of the tensor. Default `tt`.
    pub kind: Kind,
    /// Rank `r`, at least 1. Default 16.
    pub rank: usize,
    /// Factor `s` of the change, any finite number; the paper chooses it for each data set. Default 1.
    pub scale: f64,
}

/// The decomposition of the tensor of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A tensor train: each square has a matrix of its own.
    #[default]
    Tt,
    /// Tucker: the matrices of the squares are sums of those of a core.
    Tk,
}

impl Default for Fact {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            rank: 16,
            scale: 1.0,
        }
    }
}

impl Fact {
    /// The width `D`, and the linear layers of the blocks with the number of squares in each.
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<(usize, Vec<(&'a Site, usize)>)> {
        check::at_least_one("rank", self.rank)?;
        check::finite("scale", self.scale)?;
        let spec = backbone.spec();
        let Some(BoundaryShape::Tokens { width, .. }) = spec.boundaries.get(1).map(|at| at.shape)
        else {
            return Err(spec.unfit("fact", "it has maps; expected tokens of one width"));
        };
        let blocks = spec
            .sites
            .iter()
            .filter(|site| (1..=spec.depth).contains(&site.block));
        let mut sites = Vec::new();
        for site in blocks {
            let SiteKind::Linear { inputs, outputs } = site.kind else {
                continue;
            };
            // A layer that is wide on both sides would need a rank above `r`.
            let squares = match (inputs / width, outputs / width) {
                (1, count) | (count, 1) if inputs * outputs == count * width * width => count,
                _ => {
                    let reason = format!(
                        "{} is a {}; expected {width} on one side and a multiple of it on the other",
                        site.name, site.kind
                    );
                    return Err(spec.unfit("fact", reason));
                }
            };
            sites.push((site, squares));
        }
        Ok((width, sites))
    }
}

#[typetag::serde(name = "fact")]
impl AdaptationMethod for Fact {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let (width, sites) = self.sites(backbone)?;
        let r = self.rank;
        let all: usize = sites.iter().map(|(_, squares)| squares).sum();
        let squares = sites.into_iter().map(|(site, count)| {
            let (rows, bound) = match self.kind {
                Kind::Tt => (count * r, 1.0 / r as f32),
                Kind::Tk => (count, 6.0 / (r + all) as f32),
            };
            let values = Distribution::Uniform(bound.sqrt());
            let s = init.param(&format!("{}.s", site.name), [rows, r], values);
            (site.name.clone(), Squares { s })
        });
        let core = (self.kind == Kind::Tk).then(|| {
            let xavier = Distribution::Uniform(3.0f32.sqrt() / r as f32);
            init.param("core", [r, r, r], xavier)
        });
        Ok(Attachment::adapter(FactAdapter {
            squares: squares.collect(),
            core,
            u: init.param("u", [r, width], Distribution::kaiming(width)),
            v: init.param("v", [width, r], Distribution::Zeros),
            scale: self.scale,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let (width, sites) = self.sites(backbone)?;
        let (r, all) = (
            self.rank,
            sites.iter().map(|(_, squares)| squares).sum::<usize>(),
        );
        Ok(match self.kind {
            Kind::Tt => 2 * width * r + all * r * r,
            Kind::Tk => 2 * width * r + r * r * r + all * r,
        })
    }
}

/// The factors of a [`Fact`]: those of each site, and those that all sites share.
#[derive(Module, Debug)]
pub struct FactAdapter {
    squares: BySite<Squares>,
    /// `C [r, r, r]`.
    core: Option<Param<Tensor<3>>>,
    /// `U [r, d]`.
    u: Param<Tensor<2>>,
    /// `V [d, r]`.
    v: Param<Tensor<2>>,
    scale: f64,
}

/// The squares of one site: their matrices above each other, `[squares * r, r]`, or the share of each
/// matrix of the core in them, `[squares, r]`.
#[derive(Module, Debug)]
struct Squares {
    s: Param<Tensor<2>>,
}

impl Adapter for FactAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let (Some(squares), SiteKind::Linear { inputs, outputs }) =
            (self.squares.get(site.name.as_str()), site.kind)
        else {
            return Vec::new();
        };
        let inner = self.inner(squares); // [squares, r, r]
        let (u, v) = (self.u.val(), self.v.val());
        let r = u.dims()[0];
        // The squares lie beside each other in a layer that reads more than `D`, else above each other.
        let factors = if inputs > outputs {
            let a = inner.matmul(u.unsqueeze::<3>()); // [squares, r, d]
            Factors::Linear(a.swap_dims(0, 1).reshape([r, inputs]), v)
        } else {
            let b = v.unsqueeze::<3>().matmul(inner); // [squares, d, r]
            Factors::Linear(u, b.reshape([outputs, r]))
        };
        vec![SiteAct::LowRank(LowRank::new(factors, self.scale))]
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let (Some(squares), SiteKind::Linear { inputs, outputs }) =
            (self.squares.get(site.name.as_str()), site.kind)
        else {
            return Vec::new();
        };
        let [u, v, core] = ["u", "v", "core"].map(Formula::parameter);
        let s = Formula::parameter(format!("{}.s", site.name));
        let [rows, r] = squares.s.dims();
        let inner = match &self.core {
            None => s.reshaped([rows / r, r, r]),
            Some(_) => s.matmul(core.reshaped([r, r * r])).reshaped([rows, r, r]),
        };
        let (a, b) = if inputs > outputs {
            let a = inner.matmul(u).permuted([1, 0, 2]);
            (a.reshaped([r, inputs]), v)
        } else {
            (u, v.matmul(inner).reshaped([outputs, r]))
        };
        vec![DescribedSite::LowRank {
            a,
            b,
            scale: self.scale,
            rows: None,
            magnitude: None,
        }]
    }
}

impl FactAdapter {
    /// # Shapes
    /// `-> [squares, r, r]`.
    fn inner(&self, squares: &Squares) -> Tensor<3> {
        let ([rows, r], s) = (squares.s.dims(), squares.s.val());
        match &self.core {
            None => s.reshape([rows / r, r, r]),
            Some(core) => s
                .matmul(core.val().reshape([r, r * r]))
                .reshape([rows, r, r]),
        }
    }
}

peft_core::register!(
    Method, Fact,
    name: "fact",
    summary: "factors of the change of all linear layers as one tensor, tensor train or Tucker",
    reference: "FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, Jie and Deng, 2023",
    example: "name: fact\nkind: tt\nrank: 16\nscale: 1.0\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, Verdict, built, conforms, resnet, vit};

    use super::*;

    fn fact(kind: Kind) -> Fact {
        Fact {
            kind,
            rank: 4,
            scale: 0.5,
        }
    }

    #[test]
    fn both_decompositions_agree_with_the_reference() {
        for (kind, name) in [(Kind::Tt, "fact_tt"), (Kind::Tk, "fact_tk")] {
            let rename = |name: &str| name.trim_start_matches("fact.").to_owned();
            let golden = Golden::fixture(&format!("peft/{name}"));
            golden.check_training(&*vit(), Box::new(fact(kind)), rename);
        }
    }

    #[test]
    fn it_conforms_and_merges() {
        for verdict in conforms(&[Box::new(fact(Kind::Tt)), Box::new(fact(Kind::Tk))]) {
            let fits = match &verdict {
                Verdict::Conforms { merges } => merges.is_ok(),
                Verdict::Refused(reason) => {
                    // EVA-02's hidden width is no multiple of the model's.
                    let reasons = [
                        "expected tokens of one width",
                        "a multiple of it on the other",
                    ];
                    reasons.iter().any(|known| reason.contains(known))
                }
            };
            assert!(fits, "{verdict:?}");
        }
    }

    #[test]
    fn shared_factors_count_once() {
        let backbone = built(&*vit());
        let count = |kind| fact(kind).formula(&*backbone).unwrap();
        // Each of the 4 blocks has 12 squares.
        assert_eq!(count(Kind::Tt), 2 * 48 * 4 + 48 * 16);
        assert_eq!(count(Kind::Tk), 2 * 48 * 4 + 64 + 48 * 4);
    }

    #[test]
    fn bad_values_and_maps_are_refused_with_the_reason() {
        let error = |method: Fact| method.formula(&*built(&*vit())).unwrap_err().to_string();
        let rank = Fact {
            rank: 0,
            ..Fact::default()
        };
        assert_eq!(error(rank), "rank: expected at least 1, got 0");
        let scale = Fact {
            scale: f64::NAN,
            ..Fact::default()
        };
        assert_eq!(error(scale), "scale: expected a finite number, got NaN");
        let maps = Fact::default().formula(&*built(&*resnet())).unwrap_err();
        assert!(
            maps.to_string()
                .contains("it has maps; expected tokens of one width")
        );
    }
}
