//! A comparison as its YAML says it: rows, columns, seeds, what all trials share, and what is tuned.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::fields::Fields;
use super::search::{Search, Space};
use crate::config::experiment::Experiment;
use crate::config::resolve;
use crate::exit::Failure;

mod check;
mod read;

#[cfg(test)]
mod tests;

/// Methods on backbones and data sets under identical settings.
///
/// `extends: NAME` takes the keys that are not given from another comparison. A trial is made of `trial`,
/// then of what `set` says of its data set, its backbone and its method,
/// then of its method's `on`; the later one wins.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The folder below `--runs`. Default: the YAML file's name.
    pub name: String,
    /// Said above the tables.
    #[serde(default)]
    pub description: String,
    /// What all trials share: the fields of an experiment (recipe, head, metric, prefix_cache, ..)
    /// without backbone, method, dataset, seed and name.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub trial: Mapping,
    /// Seeds of initial values, order and dropout: every cell is trained with each.
    pub seeds: Vec<u64>,
    /// A table for each.
    pub backbones: Vec<BackboneEntry>,
    /// The columns. A mapping from groups to lists of data sets sets their group.
    pub datasets: Vec<DatasetEntry>,
    /// The rows.
    pub methods: Vec<MethodEntry>,
    /// The label of the method that the others are held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// How what the methods tune is chosen on validation. With it, every trial is trained again on
    /// training and validation images together, for the number of epochs that validation chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A backbone of a comparison; its name alone is enough.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackboneEntry {
    /// A name in `configs/backbones`, or a backbone's fields.
    #[serde(rename = "use")]
    #[schemars(with = "serde_json::Value")]
    pub component: Value,
    /// How it is called in tables. Default: its name.
    pub label: String,
    /// What its trials set otherwise than others, by dotted path.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub set: Fields,
}

/// A data set of a comparison; its name alone is enough.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetEntry {
    /// A name in `configs/datasets`, or a data set's fields.
    #[serde(rename = "use")]
    #[schemars(with = "serde_json::Value")]
    pub component: Value,
    /// How it is called in tables. Default: its name without what stands before the last `/`.
    pub label: String,
    /// The group whose mean it belongs to. Default: the catalogue's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What its trials set otherwise than others, by dotted path.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub set: Fields,
}

/// A method of a comparison; its name alone is enough.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodEntry {
    /// A name in `configs/peft`, of which only the method is taken, a method's fields, or a list.
    #[serde(rename = "use")]
    #[schemars(with = "serde_json::Value")]
    pub component: Value,
    /// How it is called in tables. Default: its name.
    pub label: String,
    /// What its trials set otherwise than others, by dotted path: declared in every report.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub set: Fields,
    /// The same on some backbones or data sets only, by their label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, serde_json::Value>>")]
    pub on: BTreeMap<String, Fields>,
    /// The labels of the backbones that it is trained on. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbones: Option<Vec<String>>,
    /// What is chosen by `search`, by dotted path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tune: BTreeMap<String, Space>,
}

/// The keys of an experiment that a comparison fills in.
pub const FILLED: [&str; 5] = ["name", "backbone", "method", "dataset", "seed"];

impl Comparison {
    /// The experiment of a cell.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn experiment(
        &self,
        method: &MethodEntry,
        backbone: &BackboneEntry,
        dataset: &DatasetEntry,
        seed: u64,
    ) -> Result<Experiment, Failure> {
        let mut document = self.trial.clone();
        let parts = [
            ("name", self.name.clone().into()),
            ("backbone", backbone.component.clone()),
            ("method", method.component.clone()),
            ("dataset", dataset.component.clone()),
            ("seed", seed.into()),
        ];
        for (key, value) in parts {
            document.insert(key.into(), value);
        }
        let mut document = Value::Mapping(document);
        let declared = method.declared(backbone, dataset);
        let fields = dataset.set.iter().chain(&backbone.set).chain(declared);
        for (path, value) in fields {
            resolve::assign(&mut document, path, value.clone())?;
        }
        Experiment::resolved(document)
    }
}

impl MethodEntry {
    /// Whether it is compared on this backbone.
    pub fn takes(&self, backbone: &BackboneEntry) -> bool {
        let listed = |labels: &Vec<String>| labels.contains(&backbone.label);
        self.backbones.as_ref().is_none_or(listed)
    }

    /// What it sets otherwise than others, in the order in which it is set.
    pub fn declared<'a>(
        &'a self,
        backbone: &BackboneEntry,
        dataset: &DatasetEntry,
    ) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        let on = |label: &str| self.on.get(label).into_iter().flatten();
        self.set
            .iter()
            .chain(on(&backbone.label))
            .chain(on(&dataset.label))
    }
}
