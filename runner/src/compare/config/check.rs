//! What a comparison must hold before anything is opened.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use peft_core::error::nearest;

use super::{Comparison, FILLED};
use crate::compare::fields::Fields;
use crate::compare::search::Search;

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
    pub(super) fn check(&self) -> Result<(), String> {
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

    pub(super) fn method_labels(&self) -> Vec<&String> {
        self.methods.iter().map(|entry| &entry.label).collect()
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
