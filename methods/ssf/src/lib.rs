//! SSF: a trained scale and shift after frozen layers.
//!
//! Reference: "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", Lian
//! et al., 2022, Eqs. 3 and 5.
//!
//! `y = gamma * x + beta` per channel on the output of every linear layer, convolution and norm: on a
//! ViT the patch embedding, `norm1`, `qkv`, `proj`, `norm2`, `fc1`, `fc2` and the last norm.
//! Parameters: twice the sum of the sites' output channels, `2 (11 L + 2) D` on a ViT whose MLP is four
//! times as wide. Both fold into a layer that has a bias: `W' = diag(gamma) W` and
//! `b' = gamma * b + beta`. They start as `gamma ~ N(1, 0.02)` and `beta ~ N(0, 0.02)` (standard
//! deviations), so that an adapted model starts near the backbone but not as the backbone.
//!
//! Departure: `init: identity`, which starts as the backbone, is not in the reference.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peft_core::backbone::{Backbone, Init};
use peft_core::described::{DescribedSide, DescribedSite, Formula};
use peft_core::error::Result;
use peft_core::hooks::{Side, SiteAct};
use peft_core::method::{AdaptationMethod, Adapter, Attachment};
use peft_core::plug::BySite;
use peft_core::random::Distribution;
use peft_core::site::{Picked, Site, SiteKind, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scale and shift the outputs of layers, channel by channel.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ssf {
    /// The initial values of scales and shifts. Default `random`.
    pub init: Start,
    /// Sites by suffix (a list) or regular expression over the whole name (a string). Default:
    /// every linear layer, convolution and norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites: Option<Targets>,
}

/// The initial values of scales and shifts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Normal with deviation 0.02 around one and zero, as in the reference code.
    #[default]
    Random,
    /// One and zero, which keeps the backbone's outputs.
    Identity,
}

impl Ssf {
    /// The sites and the number of channels that each writes.
    fn places<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<(&'a Site, usize)>> {
        let spec = backbone.spec();
        let unfit = |reason: String| spec.unfit("ssf", reason);
        let Some(targets) = &self.sites else {
            let place = |site: &'a Site| Some((site, channels(site)?));
            let places: Vec<_> = spec.sites.iter().filter_map(place).collect();
            return if places.is_empty() {
                Err(unfit("it has no linear layer, convolution or norm".into()))
            } else {
                Ok(places)
            };
        };
        let picked = targets.pick(&spec.sites, &spec.name);
        let place = |Picked { site, slice }| match (slice, channels(site)) {
            (Some(slice), _) => Err(unfit(format!(
                "{} is a part of {}; expected a whole layer",
                slice.name, site.name
            ))),
            (None, Some(channels)) => Ok((site, channels)),
            (None, None) => Err(unfit(format!(
                "{} is a {}; expected a linear layer, a convolution or a norm",
                site.name, site.kind
            ))),
        };
        let picked = picked.map_err(|error| error.at("sites"))?;
        picked.into_iter().map(place).collect()
    }
}

/// The number of channels that a layer writes; none for a branch.
fn channels(site: &Site) -> Option<usize> {
    match site.kind {
        SiteKind::Linear { outputs, .. } | SiteKind::Conv { outputs, .. } => Some(outputs),
        SiteKind::Norm { channels } => Some(channels),
        SiteKind::Branch { .. } => None,
    }
}

#[typetag::serde(name = "ssf")]
impl AdaptationMethod for Ssf {
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment> {
        let [scales, shifts] = match self.init {
            Start::Random => [
                Distribution::Normal(1.0, 0.02),
                Distribution::Normal(0.0, 0.02),
            ],
            Start::Identity => [Distribution::Ones, Distribution::Zeros],
        };
        let at_sites = self.places(backbone)?.into_iter().map(|(site, channels)| {
            let param = |part: &str, values| {
                init.param(&format!("{}.{part}", site.name), [channels], values)
            };
            let at_site = ScaleShift {
                scale: param("scale", scales),
                shift: param("shift", shifts),
            };
            (site.name.clone(), at_site)
        });
        Ok(Attachment::adapter(SsfAdapter {
            at_sites: at_sites.collect(),
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let places = self.places(backbone)?;
        Ok(2 * places.iter().map(|(_, channels)| channels).sum::<usize>())
    }

    fn starts_as_backbone(&self) -> bool {
        self.init == Start::Identity
    }
}

/// The scales and shifts of an [`Ssf`].
#[derive(Module, Debug)]
pub struct SsfAdapter {
    at_sites: BySite<ScaleShift>,
}

/// `gamma [c]` and `beta [c]` at one site.
#[derive(Module, Debug)]
struct ScaleShift {
    scale: Param<Tensor<1>>,
    shift: Param<Tensor<1>>,
}

impl Adapter for SsfAdapter {
    fn at_site(&self, site: &Site) -> Vec<SiteAct<'_>> {
        let act = |at: &ScaleShift| SiteAct::ScaleShift {
            on: Side::Output,
            scale: Some(at.scale.val()),
            shift: Some(at.shift.val()),
        };
        let at_site = self.at_sites.get(site.name.as_str());
        at_site.map(act).into_iter().collect()
    }

    fn describe_site(&self, site: &Site) -> Vec<DescribedSite> {
        let name = &site.name;
        let part = |part: &str| Some(Formula::parameter(format!("{name}.{part}")));
        let act = |_| DescribedSite::ScaleShift {
            on: DescribedSide::Output,
            scale: part("scale"),
            shift: part("shift"),
        };
        let at_site = self.at_sites.get(name.as_str());
        at_site.map(act).into_iter().collect()
    }
}

peft_core::register!(
    Method, Ssf,
    name: "ssf",
    summary: "scale and shift of what frozen layers write; folds into their weights",
    reference: "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning, Lian et al., 2022",
    example: "name: ssf\ninit: random\n",
);

#[cfg(test)]
mod tests {
    use peft_backbone_clip as _;
    use peft_backbone_convnext as _;
    use peft_backbone_resnet as _;
    use peft_backbone_swin as _;
    use peft_backbone_vit as _;
    use peft_testing::{Golden, Verdict, built, conforms, vit};

    use super::*;

    fn at(pattern: &str) -> Ssf {
        Ssf {
            sites: Some(Targets::Regex(pattern.to_owned())),
            ..Ssf::default()
        }
    }

    fn identity() -> Ssf {
        Ssf {
            init: Start::Identity,
            ..Ssf::default()
        }
    }

    #[test]
    fn every_layer_agrees_with_the_reference() {
        let rename = |name: &str| {
            let modules = [
                ("patch_embed.proj", "patch_embed"),
                ("attn.qkv", "qkv"),
                ("attn.proj", "attn_out"),
                ("mlp.fc1", "fc1"),
                ("mlp.fc2", "mlp_out"),
            ];
            let name = name.trim_start_matches("ssf.").to_owned();
            modules
                .into_iter()
                .fold(name, |name, (ours, theirs)| name.replace(ours, theirs))
        };
        let method = Box::new(Ssf::default());
        Golden::fixture("peft/ssf").check_training(&*vit(), method, rename);
    }

    #[test]
    fn it_conforms() {
        conforms(&[Box::new(Ssf::default()), Box::new(identity())]);
    }

    /// Queries and values have a bias beside their layer, keys have none: a shift of keys has nowhere to go, and
    /// rotary positions make it count.
    #[test]
    fn a_shift_of_keys_without_a_bias_is_not_merged() {
        let verdicts = conforms(&[Box::new(at(r".*\.attn\.qkv"))]);
        let refused = |verdict: &Verdict| {
            let Verdict::Conforms { merges: Err(why) } = verdict else {
                return false;
            };
            why.contains("blocks.0.attn.key has no bias that could hold a shift")
        };
        assert!(verdicts.iter().any(refused), "{verdicts:?}");
    }

    #[test]
    fn after_norms_it_conforms_and_merges_everywhere() {
        for verdict in conforms(&[Box::new(at(r".*(norm|bn)\d?"))]) {
            let merges = matches!(verdict, Verdict::Conforms { merges: Ok(()) });
            assert!(merges, "{verdict:?}");
        }
    }

    #[test]
    fn the_formula_counts_the_outputs_twice() {
        let backbone = built(&*vit());
        let count = |method: Ssf| method.formula(&*backbone).unwrap();
        assert_eq!(count(Ssf::default()), 2 * (11 * 4 + 2) * 48);
        assert_eq!(count(identity()), 2 * (11 * 4 + 2) * 48);
        assert_eq!(count(at(r".*\.qkv")), 2 * 4 * 3 * 48);
    }

    #[test]
    fn a_part_of_a_layer_and_a_branch_are_refused() {
        let backbone = built(&*vit());
        let error = |method: Ssf| method.formula(&*backbone).unwrap_err().to_string();
        let slice = error(at(r"blocks\.1\.attn\.query"));
        assert!(
            slice.contains("blocks.1.attn.query is a part of blocks.1.attn.qkv"),
            "{slice}"
        );
        let branch = error(at(r"blocks\.1\.mlp"));
        assert!(
            branch.contains("blocks.1.mlp is a branch mlp 48; expected a linear"),
            "{branch}"
        );
        assert!(error(at("conv1")).contains("\"conv1\" matches no site"));
        assert!(error(at("(")).starts_with("sites: "));
        let none = Ssf {
            sites: Some(Targets::Suffixes(Vec::new())),
            ..Ssf::default()
        };
        assert_eq!(error(none), "sites: expected at least one name");
    }
}
