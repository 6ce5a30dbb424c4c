//! A comparison as its YAML describes it: methods, backbones, data sets, seeds, the settings that all
//! trials share, and what is tuned.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use self::expected::Expected;
use super::fields::Fields;
use super::search::{Search, Space};
use crate::config::experiment::Experiment;
use crate::config::set::assign;
use crate::config::stated::Stated;
use crate::exit::Failure;

mod check;
mod expected;
mod read;

#[cfg(test)]
mod tests;

/// Methods on backbones and data sets under identical settings.
///
/// `extends: NAME` takes the keys that are missing here from another comparison. The settings of a
/// trial are `trial`, then the `set` of its data set, of its backbone and of its method, then its
/// method's `on`; a later one wins.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// The name of the folder below `--runs`. Default: the name of the YAML file.
    pub name: String,
    /// Text above the tables.
    #[serde(default)]
    pub description: String,
    /// The settings that all trials share: the fields of an experiment (recipe, head, metric,
    /// prefix_cache, ..) without backbone, method, dataset, seed and name.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub trial: Mapping,
    /// The seeds of initial values, order and dropout. Every cell is trained with each of them.
    pub seeds: Vec<u64>,
    /// The backbones. The report has a section for each.
    pub backbones: Vec<BackboneEntry>,
    /// The data sets: the columns of the tables. A mapping from groups to lists assigns a group to each.
    pub datasets: Vec<DatasetEntry>,
    /// The methods: the rows of the tables.
    pub methods: Vec<MethodEntry>,
    /// The label of the method that the others are compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// The search that chooses tuned values on validation. Every trial is then trained on the images that
    /// its `retrain` names, by default on training and validation images together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A backbone of a comparison. Its name alone is enough.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackboneEntry {
    /// A name in `configs/backbones`, or the fields of a backbone.
    #[serde(rename = "use")]
    #[schemars(with = "serde_json::Value")]
    pub component: Value,
    /// Its label in tables. Default: its name.
    pub label: String,
    /// Settings of its trials that differ from those of the others, by dotted path.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub set: Fields,
}

/// A data set of a comparison. Its name alone is enough.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetEntry {
    /// A name in `configs/datasets`, or the fields of a data set.
    #[serde(rename = "use")]
    #[schemars(with = "serde_json::Value")]
    pub component: Value,
    /// Its label in tables. Default: the part of its name after the last `/`.
    pub label: String,
    /// The group in whose mean it counts. Default: the group in the catalogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Settings of its trials that differ from those of the others, by dotted path.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub set: Fields,
}

/// A method of a comparison. Its name alone is enough.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodEntry {
    /// A name in `configs/peft`, of which only the method is taken, the fields of a method, or a list.
    #[serde(rename = "use")]
    #[schemars(with = "serde_json::Value")]
    pub component: Value,
    /// Its label in tables. Default: its name.
    pub label: String,
    /// Settings of its trials that differ from those of the others, by dotted path. Every report declares
    /// them.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub set: Fields,
    /// More settings that apply on some backbones or data sets only, by their label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, serde_json::Value>>")]
    pub on: BTreeMap<String, Fields>,
    /// The labels of the backbones on which it is trained. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbones: Option<Vec<String>>,
    /// The values among which `search` chooses, by dotted path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tune: BTreeMap<String, Space>,
    /// Published scores, beside which the report prints those of this comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
}

/// The keys of an experiment that a comparison sets for every trial.
pub const FILLED: [&str; 5] = ["name", "backbone", "method", "dataset", "seed"];

impl Comparison {
    /// Makes the experiment of a cell with a seed.
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
        // Settings are applied to the document, not to the typed experiment, so that they may
        // replace a whole component.
        let mut document = Value::Mapping(document);
        let mut stated = Stated::of(&document);
        let declared = method.declared(backbone, dataset);
        let fields = dataset.set.iter().chain(&backbone.set).chain(declared);
        for (path, value) in fields {
            stated.set(path, Some(value));
            assign(&mut document, path, value.clone())?;
        }
        Experiment::resolved(document, &stated)
    }
}

impl MethodEntry {
    /// Whether the method is trained on this backbone.
    pub fn takes(&self, backbone: &BackboneEntry) -> bool {
        let listed = |labels: &Vec<String>| labels.contains(&backbone.label);
        self.backbones.as_ref().is_none_or(listed)
    }

    /// Returns the settings in which the method differs from the others, in the order in which they
    /// apply.
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
