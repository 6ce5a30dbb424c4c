//! A trained model as data: where its adapters act, what they do there, and how its head reads the features. A
//! program that has the frozen backbone computes the same logits from it and from the values that it names.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::adapter_file;
use crate::described::{DescribedBoundary, DescribedSite};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::mapped_head::MAPPING;
use crate::model::Model;
use crate::params::{self, ParamInfo, Tensors, floats};
use crate::site::SiteKind;

/// Everything about a model but its values. Names are canonical, as in an adapter file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The names of the blocks in their order; boundary `l` is the input of the `l`-th.
    pub blocks: Vec<String>,
    /// The boundaries where something acts, in their order.
    pub boundaries: Vec<AtBoundary>,
    /// The sites where something acts, in the order of the forward pass.
    pub sites: Vec<AtSite>,
    /// The head.
    pub head: DescribedHead,
    /// The root of the mean square of some frozen parameters, by which a program tells whether it has the same weights.
    pub fingerprint: Vec<Fingerprint>,
}

/// The acts at a boundary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AtBoundary {
    /// Its index, `0..=L+1`.
    pub index: usize,
    /// The acts in their order.
    pub acts: Vec<OfAdapter<DescribedBoundary>>,
}

/// The acts at a site.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AtSite {
    /// Its name.
    pub name: String,
    /// Its kind with its sizes.
    pub kind: SiteKind,
    /// The acts in their order.
    pub acts: Vec<OfAdapter<DescribedSite>>,
}

/// An act and the adapter that it is a part of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OfAdapter<T> {
    /// The adapter's name.
    pub adapter: String,
    /// The act.
    pub does: T,
}

/// A head as data; values are names.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum DescribedHead {
    /// `features W^T + b`.
    Linear {
        /// `[classes, features]`.
        weight: String,
        /// `[classes]`.
        bias: String,
    },
    /// `scale cos(features, W)`.
    Text {
        /// `[classes, features]`.
        weight: String,
        /// The factor.
        scale: f64,
    },
    /// The mean of the logits of the source classes that stand for each target class.
    LabelMapping {
        /// `[sources, features]`.
        weight: String,
        /// `[sources]`.
        bias: String,
        /// `[targets, k]`, indices of sources.
        mapping: String,
    },
}

/// A number by which the values of a parameter can be told from others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fingerprint {
    /// The parameter's name in the backbone.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The root of the mean of the squares.
    pub rms: f64,
}

/// The largest number of parameters in a fingerprint.
const FINGERPRINT: usize = 6;

impl Description {
    /// Describes a model. Returns the values that its formulas name and that its adapter file lacks, too: frozen
    /// heads and constants of adapters.
    ///
    /// # Errors
    /// [`Error::Unfoldable`] for an adapter that does not describe what it does.
    pub fn of(model: &Model) -> Result<(Self, Tensors)> {
        model.refuse_side(
            "export",
            "a side network is not a formula at boundaries and sites",
        )?;
        let spec = model.spec();
        let mut named = BTreeSet::new();
        let mut boundaries = Vec::new();
        for place in &spec.boundaries {
            let acts = model.adapters.iter().filter_map(|(name, adapter)| {
                adapter.at_boundary(place.index)?;
                let described = adapter.describe_boundary(place.index);
                Some(described.map_or_else(
                    || Err(undescribed(name, place)),
                    |mut act| {
                        act.names(&mut |own| canonical(name, own, &mut named));
                        Ok(of_adapter(name, act))
                    },
                ))
            });
            let acts = acts.collect::<Result<Vec<_>>>()?;
            if !acts.is_empty() {
                let index = place.index;
                boundaries.push(AtBoundary { index, acts });
            }
        }
        let mut sites = Vec::new();
        for site in &spec.sites {
            let mut acts = Vec::new();
            for (name, adapter) in model.adapters.iter() {
                let described = adapter.describe_site(site);
                // A method describes all of its acts or none.
                if described.is_empty() != adapter.at_site(site).is_empty() {
                    return Err(undescribed(name, &site.name));
                }
                for mut act in described {
                    act.names(&mut |own| canonical(name, own, &mut named));
                    acts.push(of_adapter(name, act));
                }
            }
            if !acts.is_empty() {
                let (name, kind) = (site.name.clone(), site.kind);
                sites.push(AtSite { name, kind, acts });
            }
        }
        let head = DescribedHead::of(&model.head, &mut named);
        let saved = adapter_file::tensors(model);
        let lacks =
            |info: &ParamInfo| named.contains(&info.name) && !saved.contains_key(&info.name);
        let description = Self {
            blocks: spec.block_names(),
            boundaries,
            sites,
            head,
            fingerprint: fingerprint(model),
        };
        Ok((description, params::read(model, lacks)))
    }
}

/// Puts the adapter's name before that of a parameter.
fn canonical(adapter: &str, own: &mut String, named: &mut BTreeSet<String>) {
    *own = format!("{adapter}.{own}");
    named.insert(own.clone());
}

fn of_adapter<T>(name: &str, does: T) -> OfAdapter<T> {
    let adapter = name.to_owned();
    OfAdapter { adapter, does }
}

fn undescribed(adapter: &str, place: &dyn std::fmt::Display) -> Error {
    Error::Unfoldable {
        what: "export",
        reason: format!("{adapter} does not describe as data what it does at {place}"),
    }
}

impl DescribedHead {
    fn of(head: &Head, named: &mut BTreeSet<String>) -> Self {
        let mut name = |name: &str| {
            named.insert(name.to_owned());
            name.to_owned()
        };
        let weight = name("head.weight");
        match head {
            Head::Linear(_) => Self::Linear {
                weight,
                bias: name("head.bias"),
            },
            Head::Text(head) => Self::Text {
                weight,
                scale: head.scale(),
            },
            Head::Mapped(_) => Self::LabelMapping {
                weight,
                bias: name("head.bias"),
                mapping: name(MAPPING),
            },
        }
    }
}

/// Some frozen parameters, from the first to the last.
fn fingerprint(model: &Model) -> Vec<Fingerprint> {
    let own = |info: &ParamInfo| info.name.starts_with("backbone.") && !info.buffer;
    let mut frozen = params::infos(model);
    frozen.retain(|info| own(info) && !model.trains(&info.name) && info.shape.len() > 1);
    let step = frozen.len().div_ceil(FINGERPRINT).max(1);
    let chosen: BTreeSet<&str> = frozen
        .iter()
        .step_by(step)
        .map(|i| i.name.as_str())
        .collect();
    let values = params::read(model, |info| chosen.contains(info.name.as_str()));
    let one = |(name, data): (String, burn::tensor::TensorData)| {
        let shape = data.shape().to_vec();
        let values = floats(data);
        let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        Fingerprint {
            name: name.trim_start_matches("backbone.").to_owned(),
            shape,
            rms: (squares / values.len() as f64).sqrt(),
        }
    };
    values.into_iter().map(one).collect()
}
