//! RepAdapter: a linear bottleneck before frozen linear layers, which merges into them.
//!
//! Reference: "Towards Efficient Visual Adaption via Structural Re-parameterization", Luo et al., 2023, Eqs.
//! 4 to 8.
//!
//! `x' = x + s (W_u (W_d x + b_d) + b_u)` is what `qkv` and `fc1` read, with `W_d [h, D]` and `W_u [D, h]` in `g`
//! groups: each group of outputs reads `h / g` of the hidden values. There is no nonlinearity, so that
//! `W (x') + b` is one layer. `W_d` is drawn Xavier-uniform and the rest starts at zero: an adapted model
//! starts as the backbone. Parameters: `h D + h + h D / g + D` per site.
//!
//! Departure: the reference code drops hidden values with probability 0.1; nothing is dropped here.

use burn::module::Module;
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::check;
use peft_core::described::{DescribedSide, DescribedSite, Formula};
use peft_core::error::{Error, Result};
use peft_core::hooks::{Side, SiteAct};
use peft_core::layers::Dense;
use peft_core::low_rank::{Factors, LowRank};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Picked, Site, SiteKind, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Put linear bottlenecks before linear layers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepAdapter {
    /// Hidden width `h`, a multiple of `groups`. Default 8.
    pub bottleneck: usize,
    /// Groups `g` of the second layer, at least 1, which divide the width of the sites. Default 2.
    pub groups: usize,
    /// Factor `s` of the bottleneck, any finite number. Default 1.
    pub scale: f64,
    /// Sites by suffix (a list) or regular expression over the whole name (a string). Default:
    /// `[qkv, fc1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Default for RepAdapter {
    fn default() -> Self {
        Self {
            bottleneck: 8,
            groups: 2,
            scale: 1.0,
            targets: None,
        }
    }
}

impl RepAdapter {
    /// The sites and the width that each reads.
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<(&'a Site, usize)>> {
        check::at_least_one("groups", self.groups)?;
        check::at_least_one("bottleneck", self.bottleneck)?;
        check::finite("scale", self.scale)?;
        if !self.bottleneck.is_multiple_of(self.groups) {
            let (groups, got) = (self.groups, self.bottleneck);
            let message = format!("expected a multiple of the {groups} groups, got {got}");
            return Err(Error::config("bottleneck", message));
        }
        let spec = backbone.spec();
        let layers = || Targets::Suffixes(vec!["qkv".to_owned(), "fc1".to_owned()]);
        let targets = self.targets.clone().unwrap_or_else(layers);
        let place = |Picked { site, slice }| match (slice, site.kind) {
            (None, SiteKind::Linear { inputs, .. }) if inputs.is_multiple_of(self.groups) => {
                Ok((site, inputs))
            }
            (None, SiteKind::Linear { inputs, .. }) => Err(format!(
                "{} reads {inputs} values; expected a multiple of the {} groups",
                site.name, self.groups
            )),
            (None, kind) => Err(format!(
                "{} is a {kind}; expected a linear layer",
                site.name
            )),
            (Some(slice), _) => Err(format!(
                "{} is a part of {}; expected a whole layer",
                slice.name, site.name
            )),
        };
        let picked = targets
            .pick(&spec.sites, &spec.name)?
            .into_iter()
            .map(place);
        let places: Result<Vec<_>, String> = picked.collect();
        places.map_err(|reason| spec.unfit("rep-adapter", reason))
    }
}

#[typetag::serde(name = "rep-adapter")]
impl AdaptationMethod for RepAdapter {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let hidden = self.bottleneck;
        let bottlenecks = self.sites(backbone)?.into_iter().map(|(site, width)| {
            let name = |part: &str| format!("{}.{part}", site.name);
            let zeros = Distribution::Zeros;
            let xavier = Distribution::Uniform((6.0 / (width + hidden) as f32).sqrt());
            let bottleneck = Bottleneck {
                down: Dense::new(&name("down"), [hidden, width], xavier, init),
                // Of a group, since each reads its own part of the hidden values.
                up: Dense::new(&name("up"), [width, hidden / self.groups], zeros, init),
            };
            (site.name.clone(), bottleneck)
        });
        Ok(Attachment::adapter(RepAdapters {
            bottlenecks: bottlenecks.collect(),
            groups: self.groups,
            scale: self.scale,
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let hidden = self.bottleneck;
        let count = |(_, width): &(&Site, usize)| {
            hidden * width + hidden + hidden * width / self.groups + width
        };
        Ok(self.sites(backbone)?.iter().map(count).sum())
    }
}

/// The bottlenecks of a [`RepAdapter`].
#[derive(Module, Debug)]
pub struct RepAdapters {
    bottlenecks: BySite<Bottleneck>,
    groups: usize,
    scale: f64,
}

/// `W_d`, `b_d`, `W_u` and `b_u` at one site.
#[derive(Module, Debug)]
struct Bottleneck {
    down: Dense,
    up: Dense,
}

impl Adapter for RepAdapters {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let Some(Bottleneck { down, up }) = self.bottlenecks.get(site.name.as_str()) else {
            return Vec::new();
        };
        let dense = block_diagonal(up.weight.val(), self.groups);
        let through = dense
            .clone()
            .matmul(down.bias.val().unsqueeze_dim(1))
            .squeeze_dim(1); // [d]
        let path = LowRank::new(Factors::Linear(down.weight.val(), dense), self.scale);
        let shift = (through + up.bias.val()) * self.scale;
        vec![
            SiteAct::InputLowRank(path),
            SiteAct::ScaleShift {
                on: Side::Input,
                scale: None,
                shift: Some(shift),
            },
        ]
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let Some(Bottleneck { up, .. }) = self.bottlenecks.get(site.name.as_str()) else {
            return Vec::new();
        };
        let part = |part: &str| Formula::parameter(format!("{}.{part}", site.name));
        let [outputs, each] = up.weight.dims();
        let groups = part("up.weight").reshaped([self.groups, outputs / self.groups, each]);
        let dense = Formula::BlockDiagonal {
            of: Box::new(groups),
        };
        let shift = dense
            .clone()
            .matmul(part("down.bias"))
            .plus(part("up.bias"));
        vec![
            DescribedSite::InputLowRank {
                a: part("down.weight"),
                b: dense,
                scale: self.scale,
            },
            DescribedSite::ScaleShift {
                on: DescribedSide::Input,
                scale: None,
                shift: Some(shift.scaled(self.scale)),
            },
        ]
    }
}

/// The dense matrix of a grouped layer.
///
/// # Shapes
/// `[out, in / groups] -> [out, in]`.
fn block_diagonal(weight: Tensor<2>, groups: usize) -> Tensor<2> {
    let [outputs, each] = weight.dims();
    let rows = outputs / groups;
    let device = weight.device();
    let block = |group: usize| {
        let zeros = |count: usize| Tensor::<2>::zeros([rows, count * each], &device);
        let own = weight.clone().narrow(0, group * rows, rows);
        Tensor::cat(vec![zeros(group), own, zeros(groups - 1 - group)], 1)
    };
    Tensor::cat((0..groups).map(block).collect(), 0)
}

peft_core::register!(
    Method, RepAdapter,
    name: "rep-adapter",
    summary: "grouped linear bottlenecks before frozen linear layers; they merge into them",
    reference: "Towards Efficient Visual Adaption via Structural Re-parameterization, Luo et al., 2023",
    example: "name: rep-adapter\nbottleneck: 8\ngroups: 2\nscale: 1.0\n",
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
    fn before_qkv_and_fc1_it_agrees_with_the_reference() {
        let method = RepAdapter {
            scale: 0.5,
            ..RepAdapter::default()
        };
        let rename = |name: &str| name.trim_start_matches("rep-adapter.").to_owned();
        let golden = Golden::fixture("peft/rep_adapter");
        golden.check_training(&*vit(), Box::new(method), rename);
    }

    #[test]
    fn it_conforms_and_merges() {
        let other = RepAdapter {
            bottleneck: 6,
            groups: 3,
            scale: 0.3,
            targets: Some(Targets::Suffixes(vec!["fc2".to_owned()])),
        };
        for verdict in conforms(&[Box::new(RepAdapter::default()), Box::new(other)]) {
            // A variety of Swin has no bias at `qkv`, and one of ConvNeXt has convolutions in its MLPs.
            let reasons = [
                "expected a linear layer",
                "matches no site",
                "of the 3 groups",
                "no bias that could hold a shift",
            ];
            assert!(verdict.merges_or_says(&reasons), "{verdict:?}");
        }
    }

    #[test]
    fn the_formula_counts_the_groups() {
        let count = RepAdapter::default().formula(&*built(&*vit())).unwrap();
        assert_eq!(count, 4 * 2 * (8 * 48 + 8 + 4 * 48 + 48));
    }

    #[test]
    fn bad_values_and_sites_are_refused_with_the_reason() {
        let backbone = built(&*vit());
        let error = |method: RepAdapter| method.formula(&*backbone).unwrap_err().to_string();
        let odd = RepAdapter {
            bottleneck: 7,
            ..RepAdapter::default()
        };
        assert_eq!(
            error(odd),
            "bottleneck: expected a multiple of the 2 groups, got 7"
        );
        let at = |target: &str| RepAdapter {
            bottleneck: 5,
            groups: 5,
            targets: Some(Targets::Suffixes(vec![target.to_owned()])),
            ..RepAdapter::default()
        };
        let width = "blocks.0.mlp.fc1 reads 48 values; expected a multiple of the 5 groups";
        assert!(error(at("fc1")).contains(width));
        let norm = "blocks.0.norm1 is a norm 48; expected a linear layer";
        assert!(error(at("norm1")).contains(norm));
        let part = "blocks.0.attn.key is a part of blocks.0.attn.qkv; expected a whole layer";
        assert!(error(at("key")).contains(part));
    }
}
