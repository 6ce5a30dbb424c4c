//! A comparison as its YAML says it: rows, columns, seeds, what all trials share, and what is tuned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use peft_core::error::nearest;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use super::search::{Search, Space};
use crate::config::experiment::Experiment;
use crate::config::find::{self, Found};
use crate::config::resolve;
use crate::exit::{Failure, config_error};

/// Values by the dotted path of a field of an experiment.
pub type Fields = BTreeMap<String, Value>;

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

/// Fields of the recipe that a search sets or counts by.
const PROTOCOL: [&str; 5] = [
    "recipe.epochs",
    "recipe.train_on",
    "recipe.select",
    "recipe.stop_after",
    "recipe.patience",
];

/// What an entry sets is its own business only: nothing under another part of the table.
fn check_fields(key: &str, label: &str, fields: &Fields, others: &[&str]) -> Result<(), String> {
    let foreign = |field: &&String| {
        let part = field.split('.').next().unwrap_or_default();
        others.contains(&part)
    };
    match fields.keys().find(foreign) {
        Some(field) => Err(format!("{key}: {label}: {field} is not for it to set")),
        None => Ok(()),
    }
}

impl Comparison {
    /// Reads the YAML called `config`, a path or a name under `configs/`, with `--set` overrides.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn read(config: &str, overrides: &[String]) -> Result<Self, Failure> {
        let Found {
            origin,
            stem,
            mut value,
        } = find::find(config)?;
        for text in overrides {
            resolve::set(&mut value, text)?;
        }
        let at = |failure: Failure| failure.within(&origin);
        let Value::Mapping(map) = &mut value else {
            let expected = "expected a mapping with trial, seeds, backbones, datasets and methods";
            return Err(at(config_error(expected)));
        };
        map.entry("name".into()).or_insert(stem.into());
        extend(map, EXTENSIONS).map_err(at)?;
        spell_out(map).map_err(at)?;
        let comparison: Self = serde_path_to_error::deserialize(value).map_err(|e| {
            let path = e.path().to_string();
            at(config_error(format!("{path}: {}", e.into_inner())))
        })?;
        comparison.check().map_err(|e| at(config_error(e)))?;
        Ok(comparison)
    }

    fn check(&self) -> Result<(), String> {
        if let Some(key) = FILLED.iter().find(|key| self.trial.contains_key(**key)) {
            return Err(format!("trial.{key}: it is filled in for every trial"));
        }
        let parts: Vec<_> = Path::new(&self.name).components().collect();
        if !matches!(parts[..], [Component::Normal(_)]) {
            let name = &self.name;
            return Err(format!("name: expected the name of a folder, got {name:?}"));
        }
        if self.seeds.is_empty() {
            return Err("seeds: expected at least one".to_owned());
        }
        let distinct: BTreeSet<_> = self.seeds.iter().collect();
        if distinct.len() < self.seeds.len() {
            return Err("seeds: one is listed twice".to_owned());
        }
        let labels = [
            ("backbones", self.backbone_labels()),
            ("datasets", self.datasets.iter().map(|d| &d.label).collect()),
            ("methods", self.method_labels()),
        ];
        for (key, labels) in &labels {
            let mut seen = BTreeSet::new();
            if labels.is_empty() {
                return Err(format!("{key}: expected at least one"));
            }
            if labels.iter().any(|label| label.trim().is_empty()) {
                return Err(format!("{key}: a label is empty"));
            }
            if let Some(twice) = labels.iter().find(|label| !seen.insert(**label)) {
                return Err(format!("{key}: {twice:?} is there twice: give one a label"));
            }
        }
        if let Some(baseline) = &self.baseline {
            known("baseline", baseline, &self.method_labels())?;
        }
        for entry in &self.backbones {
            let own = ["name", "method", "dataset", "seed"];
            check_fields("backbones", &entry.label, &entry.set, &own)?;
        }
        for entry in &self.datasets {
            let own = ["name", "method", "backbone", "seed"];
            check_fields("datasets", &entry.label, &entry.set, &own)?;
        }
        for entry in &self.methods {
            let own = ["name", "backbone", "dataset", "seed"];
            for fields in [&entry.set].into_iter().chain(entry.on.values()) {
                check_fields("methods", &entry.label, fields, &own)?;
            }
        }
        let places: Vec<&String> = labels[0].1.iter().chain(&labels[1].1).copied().collect();
        for method in &self.methods {
            let at = |key: &str| format!("methods: {}: {key}", method.label);
            for place in method.on.keys() {
                known(&at("on"), place, &places)?;
            }
            for backbone in method.backbones.iter().flatten() {
                known(&at("backbones"), backbone, &labels[0].1)?;
            }
            if self.search.is_none() && !method.tune.is_empty() {
                return Err(format!("{}: there is no search", at("tune")));
            }
            for (field, space) in &method.tune {
                let at = format!("{}.{field}", at("tune"));
                if !["method.", "recipe.", "head."]
                    .iter()
                    .any(|part| field.starts_with(part))
                {
                    return Err(format!("{at}: expected a field of method, recipe or head"));
                }
                if PROTOCOL.contains(&field.as_str()) {
                    return Err(format!("{at}: the search itself decides that"));
                }
                space.check(self.search).map_err(|e| format!("{at}: {e}"))?;
            }
        }
        self.search.map_or(Ok(()), Search::check)
    }

    fn backbone_labels(&self) -> Vec<&String> {
        self.backbones.iter().map(|entry| &entry.label).collect()
    }

    fn method_labels(&self) -> Vec<&String> {
        self.methods.iter().map(|entry| &entry.label).collect()
    }

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

/// How many files an `extends` may lead through.
const EXTENSIONS: usize = 8;

/// Replaces `extends: NAME` by the keys of that comparison that are not given.
fn extend(map: &mut Mapping, left: usize) -> Result<(), Failure> {
    let Some(base) = map.remove("extends") else {
        return Ok(());
    };
    let Value::String(name) = base else {
        return Err(config_error("extends: expected a name"));
    };
    if left == 0 {
        let message = format!("extends: {name}: more than {EXTENSIONS} files, or in a circle");
        return Err(config_error(message));
    }
    let found = match find::in_room("compare", &name) {
        Some(found) => found?,
        None if Path::new(&name).is_file() => find::find(&name)?,
        None => {
            let known = find::names("compare/").join(", ");
            let message = format!("extends: {name}: no such comparison or file; there are {known}");
            return Err(config_error(message));
        }
    };
    let Value::Mapping(mut base) = found.value else {
        let message = format!("extends: {}: expected a mapping", found.origin);
        return Err(config_error(message));
    };
    extend(&mut base, left - 1)?;
    for (key, value) in base {
        if !map.contains_key(&key) {
            map.insert(key, value);
        }
    }
    Ok(())
}

/// Names alone become entries, groups of data sets become one list, and labels are filled in.
fn spell_out(map: &mut Mapping) -> Result<(), Failure> {
    if let Some(Value::Mapping(groups)) = map.get("datasets") {
        let mut all = Vec::new();
        for (group, members) in groups {
            let Value::Sequence(members) = members else {
                let group = group.as_str().unwrap_or_default();
                let message = format!("datasets.{group}: expected a list of data sets");
                return Err(config_error(message));
            };
            for member in members {
                let mut entry = entry(member);
                if let Value::Mapping(entry) = &mut entry {
                    entry.entry("group".into()).or_insert(group.clone());
                }
                all.push(entry);
            }
        }
        map.insert("datasets".into(), Value::Sequence(all));
    }
    for key in ["backbones", "datasets", "methods"] {
        let Some(Value::Sequence(items)) = map.get_mut(key) else {
            continue;
        };
        for item in items {
            *item = entry(item);
            let Value::Mapping(entry) = item else {
                continue;
            };
            let Some(component) = entry.get("use").cloned() else {
                continue;
            };
            let label = label(&component, key == "datasets");
            entry.entry("label".into()).or_insert(label.into());
            if let (Value::String(name), "datasets", false) =
                (&component, key, entry.contains_key("group"))
                && let (_, Some(about)) = Experiment::read_dataset(name, &[])?
            {
                entry.insert("group".into(), about.group.to_string().into());
            }
        }
    }
    Ok(())
}

fn entry(item: &Value) -> Value {
    match item {
        Value::String(_) => Value::Mapping(Mapping::from_iter([("use".into(), item.clone())])),
        item => item.clone(),
    }
}

fn label(component: &Value, last_part: bool) -> String {
    match component {
        Value::String(name) if last_part => name.rsplit('/').next().unwrap_or(name).to_owned(),
        Value::String(name) => name.clone(),
        Value::Sequence(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| label(part, last_part)).collect();
            parts.join("+")
        }
        component => {
            let name = component.get("name").and_then(Value::as_str);
            name.unwrap_or_default().to_owned()
        }
    }
}

fn known(at: &str, label: &str, labels: &[&String]) -> Result<(), String> {
    if labels.iter().any(|other| *other == label) {
        return Ok(());
    }
    let all: Vec<&str> = labels.iter().map(|label| label.as_str()).collect();
    let hint = match nearest(label, all.iter().copied()) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    let all = all.join(", ");
    Err(format!(
        "{at}: unknown label {label:?}{hint} There are: {all}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
trial: {recipe: micro}
seeds: [0, 1]
backbones: [vit-micro, {use: resnet-micro, set: {recipe.batch_size: 16}}]
datasets:
  natural: [mini-vtab/natural-digits]
  structured: [{use: mini-vtab/structured-scenes-count, label: count}]
methods:
  - linear-probe
  - use: {name: ap}
    label: AP
    set: {recipe.optimizer.lr: 0.1}
    on: {resnet-micro: {method.boundaries: [-3]}, count: {recipe.epochs: 2}}
";

    fn parse(text: &str) -> Result<Comparison, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("small.yaml");
        std::fs::write(&path, text).unwrap();
        let read = Comparison::read(path.to_str().unwrap(), &[]);
        read.map_err(|failure| failure.error.to_string())
    }

    #[test]
    fn names_alone_are_entries_and_groups_are_lists() {
        let comparison = parse(SMALL).unwrap();
        assert_eq!(comparison.name, "small");
        let labels: Vec<_> = comparison.datasets.iter().map(|d| &d.label[..]).collect();
        assert_eq!(labels, ["natural-digits", "count"]);
        assert_eq!(comparison.datasets[1].group.as_deref(), Some("structured"));
        assert_eq!(comparison.method_labels(), ["linear-probe", "AP"]);
        let of_catalogue = parse(&SMALL.replace("[mini-vtab/natural-digits]", "[vtab-1k/dtd]"));
        let of_catalogue = of_catalogue.unwrap();
        assert_eq!(of_catalogue.datasets[0].group.as_deref(), Some("natural"));
    }

    #[test]
    fn what_is_not_given_is_of_the_extended_comparison() {
        let comparison = parse("{extends: mini-table1, seeds: [7]}").unwrap();
        assert_eq!(comparison.name, "small");
        assert_eq!((comparison.seeds, comparison.datasets.len()), (vec![7], 6));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("circle.yaml");
        std::fs::write(&path, format!("extends: {}", path.display())).unwrap();
        let circle = Comparison::read(path.to_str().unwrap(), &[]);
        let circle = circle.unwrap_err().error.to_string();
        assert!(circle.contains("or in a circle"), "{circle}");
    }

    #[test]
    fn every_shipped_comparison_parses() {
        let names = find::names("compare/");
        assert!(names.len() > 15, "{names:?}");
        for name in names {
            let read = Comparison::read(&name, &[]).map_err(|f| f.error);
            let comparison = read.unwrap_or_else(|e| panic!("{name}: {e:#}"));
            for method in &comparison.methods {
                for backbone in &comparison.backbones {
                    let dataset = &comparison.datasets[0];
                    let cell = comparison.experiment(method, backbone, dataset, 0);
                    cell.unwrap_or_else(|f| panic!("{name}: {}: {:#}", method.label, f.error));
                }
            }
        }
    }

    #[test]
    fn the_later_setting_wins() {
        let comparison = parse(SMALL).unwrap();
        let cell = |method: usize, backbone: usize, dataset: usize| {
            let (m, b) = (&comparison.methods[method], &comparison.backbones[backbone]);
            let experiment = comparison.experiment(m, b, &comparison.datasets[dataset], 7);
            let experiment = experiment.map_err(|f| f.error).unwrap();
            serde_json::to_value(experiment).unwrap()
        };
        let plain = cell(0, 0, 0);
        assert_eq!(plain["recipe"]["batch_size"], 32);
        assert_eq!(plain["seed"], 7);
        let ap = cell(1, 1, 1);
        assert_eq!(ap["recipe"]["batch_size"], 16);
        assert_eq!(ap["recipe"]["epochs"], 2);
        assert_eq!(ap["recipe"]["optimizer"]["lr"], 0.1);
        assert_eq!(ap["method"]["boundaries"], serde_json::json!([-3]));
        assert_ne!(
            cell(1, 0, 0)["method"]["boundaries"],
            ap["method"]["boundaries"]
        );
    }

    #[test]
    fn every_mistake_names_its_place() {
        let cases = [
            ("seeds: [0, 1]", "seeds: []", "seeds: expected at least one"),
            (
                "seeds: [0, 1]",
                "seeds: [1, 1]",
                "seeds: one is listed twice",
            ),
            (
                "{recipe: micro}",
                "{seed: 3}",
                "trial.seed: it is filled in",
            ),
            (
                "label: AP",
                "label: linear-probe",
                "is there twice: give one a label",
            ),
            (
                "on: {resnet",
                "on: {resnte",
                "did you mean \"resnet-micro\"?",
            ),
            ("label: AP", "labl: AP", "unknown field `labl`"),
            (
                "label: AP",
                "tune: {recipe.optimizer.lr: {values: [1]}}",
                "there is no search",
            ),
            (
                "trial:",
                "baseline: lora\ntrial:",
                "baseline: unknown label \"lora\"",
            ),
            (
                "trial:",
                "name: ../up\ntrial:",
                "name: expected the name of a folder",
            ),
            ("label: AP", "label: ' '", "methods: a label is empty"),
            (
                "trial:",
                "extends: lost\ntrial:",
                "lost: no such comparison or file; there are",
            ),
            (
                "set: {recipe.optimizer.lr: 0.1}",
                "set: {dataset: digits}",
                "methods: AP: dataset is not for it to set",
            ),
        ];
        for (old, new, expected) in cases {
            let message = parse(&SMALL.replace(old, new)).unwrap_err();
            assert!(message.contains(expected), "{new}: {message}");
        }
    }
}
