//! (IA)^3 rescaling: one trained factor for each output channel of frozen layers.
//!
//! Reference: "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
//! Learning", Liu et al., 2022, Sec. 3.3.
//!
//! `y_c = l_c (W x + b)_c`, one `l` for all inputs and positions. Parameters: the sum of the
//! outputs of the sites. `l` starts at one, so that an adapted model starts as the backbone.
//!
//! Departure: the paper rescales keys, values and the MLP's hidden activation after its
//! nonlinearity. Here the whole of `qkv` is rescaled, including the queries, and `fc1` before the
//! nonlinearity; on a backbone that lacks either, every convolution is.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, BackboneSpec, Init};
use peft_core::error::Result;
use peft_core::hooks::{Side, SiteAct};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Picked, Site, SiteKind, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rescale the outputs of linear layers and convolutions.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ia3 {
    /// Sites by suffix (a list) or regular expression over the whole name (a string). Default:
    /// `[qkv, fc1]` where both exist, else every convolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
}

impl Ia3 {
    /// The sites and the number of channels that each writes.
    fn sites<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<(&'a Site, usize)>> {
        let spec = backbone.spec();
        let picked = match &self.targets {
            Some(targets) => targets.pick(&spec.sites, &spec.name)?,
            None => default_sites(spec),
        };
        let unfit = |reason: String| spec.unfit("ia3", reason);
        if picked.is_empty() {
            return Err(unfit(
                "it has neither qkv and fc1 nor a convolution".to_owned(),
            ));
        }
        picked
            .iter()
            .map(|picked| Ok((picked.site, outputs(picked).map_err(unfit)?)))
            .collect()
    }
}

fn default_sites(spec: &BackboneSpec) -> Vec<Picked<'_>> {
    let layers = Targets::Suffixes(vec!["qkv".to_owned(), "fc1".to_owned()]);
    let is_conv = |site: &&Site| matches!(site.kind, SiteKind::Conv { .. });
    let whole = |site| Picked { site, slice: None };
    layers
        .pick(&spec.sites, &spec.name)
        .unwrap_or_else(|_| spec.sites.iter().filter(is_conv).map(whole).collect())
}

/// The number of channels that a selected site writes, or why it cannot be rescaled.
fn outputs(picked: &Picked) -> Result<usize, String> {
    let (name, site) = (picked.name(), picked.site);
    match (picked.slice, site.kind) {
        (None, SiteKind::Linear { outputs, .. } | SiteKind::Conv { outputs, .. }) => Ok(outputs),
        (None, kind) => Err(format!(
            "{name} is a {kind}; expected a linear layer or a convolution"
        )),
        (Some(_), _) => Err(format!(
            "{name} is a part of {}; expected a whole layer",
            site.name
        )),
    }
}

#[typetag::serde(name = "ia3")]
impl AdaptationMethod for Ia3 {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let factors = self.sites(backbone)?.into_iter().map(|(site, outputs)| {
            let l = init.param(&format!("{}.l", site.name), [outputs], Distribution::Ones);
            (site.name.clone(), Factors { l })
        });
        Ok(Attachment::adapter(Ia3Adapter {
            factors: factors.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let sites = self.sites(backbone)?;
        Ok(sites.iter().map(|(_, outputs)| outputs).sum())
    }
}

/// The factors of an [`Ia3`], by site.
#[derive(Module, Debug)]
pub struct Ia3Adapter {
    factors: BySite<Factors>,
}

/// `l [outputs]` at one site.
#[derive(Module, Debug)]
struct Factors {
    l: Param<Tensor<1>>,
}

impl Adapter for Ia3Adapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let scale = |factors: &Factors| SiteAct::ScaleShift {
            on: Side::Output,
            scale: Some(factors.l.val()),
            shift: None,
        };
        self.factors
            .get(site.name.as_str())
            .map(scale)
            .into_iter()
            .collect()
    }
}

peft_core::register!(
    Method, Ia3,
    name: "ia3",
    summary: "one trained factor for each output channel of frozen layers",
    reference: "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper, Liu et al., 2022",
    example: "name: ia3\n",
);
