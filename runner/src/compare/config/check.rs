//! Checks of a comparison before anything is opened.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use peft_core::error::alternatives;

use super::{Comparison, FILLED, MethodEntry};
use crate::compare::fields::Fields;
use crate::compare::search::Search;

/// The fields of the recipe that a search sets itself or counts by.
const PROTOCOL: [&str; 5] = [
    "recipe.epochs",
    "recipe.train_on",
    "recipe.select",
    "recipe.stop_after",
    "recipe.patience",
];

/// The parts of an experiment that may be tuned.
const TUNABLE: [&str; 3] = ["method.", "recipe.", "head."];

impl Comparison {
    /// Checks everything that the types leave open.
    ///
    /// # Errors
    /// The first mistake, with its key.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(key) = FILLED.iter().find(|key| self.trial.contains_key(**key)) {
            return Err(format!(
                "trial.{key}: the comparison sets it for every trial"
            ));
        }
        let parts: Vec<_> = Path::new(&self.name).components().collect();
        if !matches!(parts[..], [Component::Normal(_)]) {
            let name = &self.name;
            return Err(format!("name: expected the name of a folder, got {name:?}"));
        }
        self.check_seeds()?;
        let methods = self.method_labels();
        check_labels("backbones", &self.backbone_labels())?;
        check_labels("datasets", &self.dataset_labels())?;
        check_labels("methods", &methods)?;
        if let Some(baseline) = &self.baseline {
            known("baseline", baseline, &methods)?;
        }
        self.check_settings()?;
        for method in &self.methods {
            self.check_places(method)?;
            self.check_spaces(method)?;
        }
        self.search.map_or(Ok(()), Search::check)
    }

    fn check_seeds(&self) -> Result<(), String> {
        let distinct: BTreeSet<_> = self.seeds.iter().collect();
        match self.seeds.len() {
            0 => Err("seeds: expected at least one".to_owned()),
            count if distinct.len() < count => Err("seeds: one is listed twice".to_owned()),
            _ => Ok(()),
        }
    }

    /// Checks that entries set fields of their own part and of what all share, but none of another
    /// part.
    fn check_settings(&self) -> Result<(), String> {
        for entry in &self.backbones {
            let others = ["name", "method", "dataset", "seed"];
            check_fields("backbones", &entry.label, &entry.set, &others)?;
        }
        for entry in &self.datasets {
            let others = ["name", "method", "backbone", "seed"];
            check_fields("datasets", &entry.label, &entry.set, &others)?;
        }
        for entry in &self.methods {
            let others = ["name", "backbone", "dataset", "seed"];
            for fields in [&entry.set].into_iter().chain(entry.on.values()) {
                check_fields("methods", &entry.label, fields, &others)?;
            }
        }
        Ok(())
    }

    /// Checks that the labels in a method are those of backbones and data sets.
    fn check_places(&self, method: &MethodEntry) -> Result<(), String> {
        let backbones = self.backbone_labels();
        let mut places = backbones.clone();
        places.extend(self.dataset_labels());
        let at = |key: &str| format!("methods: {}: {key}", method.label);
        for place in method.on.keys() {
            known(&at("on"), place, &places)?;
        }
        for backbone in method.backbones.iter().flatten() {
            known(&at("backbones"), backbone, &backbones)?;
        }
        if let Some(expected) = &method.expected {
            let at = at("expected");
            let datasets = self.dataset_labels();
            for dataset in expected.scores.keys() {
                known(&format!("{at}.scores"), dataset, &datasets)?;
            }
            let checked = expected.check(&backbones);
            checked.map_err(|e| format!("{at}.{e}"))?;
        }
        Ok(())
    }

    /// Checks that the search can tune the fields that a method tunes.
    fn check_spaces(&self, method: &MethodEntry) -> Result<(), String> {
        let at = format!("methods: {}: tune", method.label);
        if self.search.is_none() && !method.tune.is_empty() {
            return Err(format!("{at}: there is no search"));
        }
        for (field, space) in &method.tune {
            let at = format!("{at}.{field}");
            if !TUNABLE.iter().any(|part| field.starts_with(part)) {
                return Err(format!("{at}: expected a field of method, recipe or head"));
            }
            if PROTOCOL.contains(&field.as_str()) {
                return Err(format!("{at}: the search itself decides that"));
            }
            space.check(self.search).map_err(|e| format!("{at}: {e}"))?;
        }
        Ok(())
    }

    fn backbone_labels(&self) -> Vec<&String> {
        self.backbones.iter().map(|entry| &entry.label).collect()
    }

    fn dataset_labels(&self) -> Vec<&String> {
        self.datasets.iter().map(|entry| &entry.label).collect()
    }

    pub(super) fn method_labels(&self) -> Vec<&String> {
        self.methods.iter().map(|entry| &entry.label).collect()
    }
}

fn check_labels(key: &str, labels: &[&String]) -> Result<(), String> {
    if labels.is_empty() {
        return Err(format!("{key}: expected at least one"));
    }
    if labels.iter().any(|label| label.trim().is_empty()) {
        return Err(format!("{key}: a label is empty"));
    }
    let mut seen = BTreeSet::new();
    match labels.iter().find(|label| !seen.insert(**label)) {
        Some(twice) => Err(format!(
            "{key}: {twice:?} is listed twice; give one of them another label"
        )),
        None => Ok(()),
    }
}

fn check_fields(key: &str, label: &str, fields: &Fields, others: &[&str]) -> Result<(), String> {
    // A data set that set a method would make its column incomparable with the others.
    let foreign = |field: &&String| {
        let part = field.split('.').next().unwrap_or_default();
        others.contains(&part)
    };
    match fields.keys().find(foreign) {
        Some(field) => Err(format!("{key}: {label}: {field} cannot be set here")),
        None => Ok(()),
    }
}

/// Checks that a label exists; the message offers the nearest one.
fn known(at: &str, label: &str, labels: &[&String]) -> Result<(), String> {
    if labels.iter().any(|other| *other == label) {
        return Ok(());
    }
    let hint = alternatives(label, labels.iter().map(|label| label.as_str()));
    Err(format!("{at}: unknown label {label:?}{hint}"))
}
