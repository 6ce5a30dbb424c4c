//! Norm tuning: of the backbone only the weights and biases of the normalisation layers train.
//!
//! References: "Training BatchNorm and Only BatchNorm", Frankle, Schwab and Morcos, 2021; norm-tuning
//! of "Visual Prompting Reimagined: The Power of Activation Prompts", 2026 (arXiv 2604.06440).
//!
//! `y = gamma (x - mean) / sqrt(var + eps) + beta` with `gamma` and `beta` trained in place.
//! Parameters: twice the channels of every norm, `(4 L + 2) D` on a ViT; half of that with `gamma` or
//! `beta` alone. BatchNorm layers of which either trains use and update batch statistics, unless
//! configured otherwise.
//!
//! The second paper's count for ViT-L (0.06 M) fits `gamma` alone, that for ResNet-101 (0.13 M) both.

use std::collections::BTreeSet;

use peft_core::backbone::{Backbone, Init};
use peft_core::error::{Error, Result};
use peft_core::hf_peft::{HfPeft, Imported, check_targets, exactly};
use peft_core::layout::Layout;
use peft_core::method::{AdaptationMethod, Attachment, Statistics, Tuned};
use peft_core::params::{self, Tensors};
use peft_core::site::{Site, SiteKind, Targets};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Train the norms.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NormTune {
    /// Norms by suffix (a list) or regular expression over the whole name (a string). Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sites: Option<Targets>,
    /// The parameters of each norm that train: `weight` (`gamma`), `bias` (`beta`), or both. Default both.
    #[serde(skip_serializing_if = "are_all")]
    pub parts: Vec<Part>,
    /// The statistics with which tuned BatchNorm layers normalise while training. Default `batch`.
    pub statistics: Statistics,
}

/// A parameter of a norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// `gamma`.
    Weight,
    /// `beta`.
    Bias,
}

impl Part {
    const ALL: [Self; 2] = [Self::Weight, Self::Bias];

    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
        }
    }
}

/// Whether these are the default, which is not written, so that the hashes of older trials stay.
fn are_all(parts: &[Part]) -> bool {
    parts == Part::ALL
}

impl Default for NormTune {
    fn default() -> Self {
        Self {
            sites: None,
            parts: Part::ALL.to_vec(),
            statistics: Statistics::Batch,
        }
    }
}

impl NormTune {
    /// The norms with their channels.
    fn norms<'a>(&self, backbone: &'a dyn Backbone) -> Result<Vec<(&'a Site, usize)>> {
        self.check()?;
        let spec = backbone.spec();
        let unfit = |reason: String| spec.unfit("norm-tune", reason);
        let channels = |site: &Site| match site.kind {
            SiteKind::Norm { channels } => Some(channels),
            _ => None,
        };
        let Some(targets) = &self.sites else {
            let norms = spec.sites.iter().filter_map(|s| Some((s, channels(s)?)));
            let norms: Vec<_> = norms.collect();
            return if norms.is_empty() {
                Err(unfit("it has no norm".to_owned()))
            } else {
                Ok(norms)
            };
        };
        let picked = targets
            .pick(&spec.sites, &spec.name)
            .map_err(|e| e.at("sites"))?;
        let norm = |picked: peft_core::site::Picked<'a>| match channels(picked.site) {
            Some(channels) => Ok((picked.site, channels)),
            None => Err(unfit(format!(
                "{} is a {}; expected a norm",
                picked.name(),
                picked.site.kind
            ))),
        };
        picked.into_iter().map(norm).collect()
    }

    fn check(&self) -> Result<()> {
        match self.parts[..] {
            [_] => Ok(()),
            [first, second] if first != second => Ok(()),
            _ => {
                let message = "expected weight, bias, or both, each once";
                Err(Error::config("parts", message))
            }
        }
    }

    fn trains(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

#[typetag::serde(name = "norm-tune")]
impl AdaptationMethod for NormTune {
    fn attach(&self, backbone: &dyn Backbone, _: &Init) -> Result<Attachment> {
        let mut names = BTreeSet::new();
        for (site, _) in self.norms(backbone)? {
            let of = |part: &Part| format!("{}.{}", site.name, part.name());
            names.extend(self.parts.iter().map(of));
        }
        Ok(Attachment::tuned(Tuned {
            names,
            statistics: self.statistics,
            ..Tuned::default()
        }))
    }

    fn formula(&self, backbone: &dyn Backbone) -> Result<usize> {
        let norms = self.norms(backbone)?.into_iter();
        let channels: usize = norms.map(|(_, channels)| channels).sum();
        Ok(self.parts.len() * channels)
    }
}

/// The part of HF PEFT's names that marks tuned parameters.
const LN_TUNING: &str = "ln_tuning_layers";

fn write(
    method: &NormTune,
    backbone: &dyn Backbone,
    layout: &Layout,
    values: &Tensors,
) -> Result<HfPeft> {
    let mut folder = HfPeft::default();
    let mut modules = Vec::new();
    for (site, _) in method.norms(backbone)? {
        if params::value(backbone, &format!("{}.running_mean", site.name)).is_some() {
            return Err(Error::Unfit {
                method: "norm-tune in HF PEFT's form".to_owned(),
                backbone: backbone.spec().name.clone(),
                reason: format!("{} keeps running statistics", site.name),
            });
        }
        let module = layout.theirs(&site.name)?;
        for part in Part::ALL {
            let own = format!("{}.{}", site.name, part.name());
            let data = match method.trains(part) {
                true => values.get(&format!("backbone.{own}")).cloned(),
                // PEFT holds copies of whole norms, so that the part which is frozen goes along.
                false => params::value(backbone, &own),
            };
            if let Some(data) = data {
                let name = format!("{module}.{LN_TUNING}.{}", part.name());
                folder.tensors.insert(name, data);
            }
        }
        modules.push(module);
    }
    let config = [
        ("peft_type", "LN_TUNING".into()),
        ("target_modules", exactly(&modules).into()),
    ];
    let named = config.map(|(name, value)| (name.to_owned(), value));
    folder.config = named.into_iter().collect();
    Ok(folder)
}

fn read(given: &HfPeft, backbone: &dyn Backbone, layout: &Layout) -> Result<Imported> {
    given.refuse_all_but(&[])?;
    let spec = backbone.spec();
    let (mut names, mut modules) = (BTreeSet::new(), BTreeSet::new());
    let mut tensors = Tensors::new();
    for (key, data) in &given.tensors {
        let unknown =
            |what: &str| Error::config("adapter_model.safetensors", format!("{key}: {what}"));
        let (module, part) = key
            .split_once(&format!(".{LN_TUNING}."))
            .ok_or_else(|| unknown("expected a tuned norm"))?;
        let name = layout.ours(module)?;
        if !matches!(
            spec.site(&name).map(|site| site.kind),
            Some(SiteKind::Norm { .. })
        ) {
            return Err(unknown(&format!("{} has no norm {name}", spec.name)));
        }
        tensors.insert(format!("backbone.{name}.{part}"), data.clone());
        names.insert(name);
        modules.insert(module.to_owned());
    }
    let norms = spec.sites.iter();
    let norms = norms.filter(|site| matches!(site.kind, SiteKind::Norm { .. }));
    let all: Vec<String> = norms.filter_map(|s| layout.theirs(&s.name).ok()).collect();
    let remarks = check_targets(given, &modules, &all, &spec.name)?;
    let method = json!({
        "name": "norm-tune",
        "sites": exactly(&names),
        "statistics": "running",
    });
    Ok(Imported {
        methods: vec![method],
        tensors,
        head_delta: None,
        remarks,
    })
}

peft_core::register!(
    Method, NormTune,
    name: "norm-tune",
    summary: "train weight and bias of the norms, or one of them",
    reference: "Training BatchNorm and Only BatchNorm, Frankle, Schwab and Morcos, 2021",
    example: "name: norm-tune\nstatistics: batch\n# parts: [weight]\n# sites: [norm1, norm2]\n",
    hf_peft: { peft_type: "LN_TUNING", read: read, write: write },
);

#[cfg(test)]
mod tests;
