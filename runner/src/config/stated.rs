//! Which fields of the backbone's input a YAML states itself. They win over the protocol of the data set,
//! which wins over what comes with the weights: a file of `configs/backbones` and one beside the weights.

use std::collections::BTreeSet;

use peft_core::DatasetConfig;
use peft_core::source::Source;
use serde_yaml::Value;

use crate::config::find;

/// The fields about which the protocol of a data set and a backbone may differ.
const FIELDS: [&str; 3] = ["crop_mode", "crop_pct", "interpolation"];

/// The fields that a document states about the input, before names in it are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// The fields of the backbone.
    backbone: BTreeSet<&'static str>,
    /// The fields of the data set's `transform`, which win over the backbone's.
    transform: BTreeSet<&'static str>,
}

impl Stated {
    /// Reads the fields that an experiment's document states.
    pub fn of(document: &Value) -> Self {
        let mut stated = Self::default();
        stated.set("backbone", document.get("backbone"));
        stated.set("dataset", document.get("dataset"));
        stated
    }

    /// Reads the fields that `--set` and the YAML called `config` state. The YAML may be an experiment or a
    /// backbone alone.
    /// A file of `configs/backbones` describes a checkpoint, and states nothing.
    pub fn of_config(config: &str, overrides: &[String]) -> Self {
        let mut stated = match find::in_room("backbones", config) {
            Some(_) => Self::default(),
            None => match find::find(config) {
                Ok(found) if found.origin.starts_with("configs/backbones/") => Self::default(),
                Ok(found) if found.value.get("backbone").is_some() => Self::of(&found.value),
                Ok(found) => {
                    let mut stated = Self::default();
                    stated.set("backbone", Some(&found.value));
                    stated
                }
                // Reading it is an error elsewhere.
                Err(_) => Self::default(),
            },
        };
        stated.add_all(overrides);
        stated
    }

    /// Adds what `--set` states.
    pub fn add_all(&mut self, overrides: &[String]) {
        for text in overrides {
            if let Some((path, value)) = text.split_once('=') {
                let value = serde_yaml::from_str(value).unwrap_or(Value::Null);
                self.set(path, Some(&value));
            }
        }
    }

    /// Adds the value at a dotted path.
    pub fn set(&mut self, path: &str, value: Option<&Value>) {
        let keys = |value: Option<&Value>| {
            let has = |field: &&str| value.is_some_and(|value| value.get(*field).is_some());
            FIELDS.into_iter().filter(has).collect()
        };
        let parts: Vec<&str> = path.split('.').collect();
        let field = |name: &str| FIELDS.into_iter().find(|field| *field == name);
        match parts[..] {
            ["backbone"] => self.backbone = keys(value),
            ["backbone", name] => self.backbone.extend(field(name)),
            ["dataset"] => self.transform = keys(value.and_then(|value| value.get("transform"))),
            ["dataset", "transform"] => self.transform = keys(value),
            ["dataset", "transform", name] => self.transform.extend(field(name)),
            _ => {}
        }
    }

    /// Writes what the backbone's fields state over the protocol of a data set.
    pub fn override_transform(&self, dataset: &mut dyn DatasetConfig, backbone: &Source) {
        let mut transform = dataset.transform();
        for field in self.backbone.difference(&self.transform) {
            // Where the protocol states nothing, the backbone's value stands anyway.
            match *field {
                "crop_mode" if transform.crop_mode.is_some() => {
                    transform.crop_mode = backbone.crop_mode;
                }
                "crop_pct" if transform.crop_pct.is_some() => {
                    transform.crop_pct = backbone.crop_pct;
                }
                "interpolation" if transform.interpolation.is_some() => {
                    transform.interpolation = backbone.interpolation;
                }
                _ => {}
            }
        }
        if transform != dataset.transform() {
            dataset.set_transform(transform);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::experiment::Experiment;

    /// The input of an experiment, without the mean and the deviation.
    fn input(overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        let experiment = Experiment::read("peft/linear-probe.yaml", &overrides).unwrap();
        let own = experiment.backbone.input().unwrap();
        let input = experiment.dataset.transform().over(own).to_string();
        input.split(", mean").next().unwrap().to_owned()
    }

    #[test]
    fn a_yaml_wins_over_the_protocol_and_that_over_the_weights() {
        let svhn = "dataset=vtab-1k/svhn";
        for (overrides, expected) in [
            (&[svhn][..], "32 x 32, bicubic, crop 1 (squash)"),
            (&["dataset=cub200"], "32 x 32, bicubic, crop 0.875 (center)"),
            (&["dataset=eurosat"], "32 x 32, bicubic, crop 1 (squash)"),
            // What is set before the name of a data set or after it is stated all the same.
            (
                &["backbone.crop_pct=0.8", svhn],
                "32 x 32, bicubic, crop 0.8 (squash)",
            ),
            (
                &[svhn, "backbone.crop_mode=center"],
                "32 x 32, bicubic, crop 1 (center)",
            ),
            (
                &[
                    svhn,
                    "backbone.crop_pct=0.8",
                    "dataset.transform.crop_pct=0.5",
                ],
                "32 x 32, bicubic, crop 0.5 (squash)",
            ),
            (
                &["dataset.transform={interpolation: bilinear}"],
                "32 x 32, bilinear, crop 1 (center)",
            ),
            // Another file takes the place of what was stated.
            (
                &["backbone.crop_pct=0.8", "backbone=resnet-micro", svhn],
                "64 x 64, bilinear, crop 1 (squash)",
            ),
            (
                &["backbone={extends: resnet-micro, crop_pct: 0.7}", svhn],
                "64 x 64, bilinear, crop 0.7 (squash)",
            ),
        ] {
            assert_eq!(input(overrides), expected, "{overrides:?}");
        }
    }

    #[test]
    fn a_shipped_backbone_states_nothing() {
        let stated = |config: &str, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|o| (*o).to_owned()).collect();
            Stated::of_config(config, &set).backbone.len()
        };
        assert_eq!(stated("backbones/vit-micro.yaml", &[]), 0);
        assert_eq!(stated("vit-micro", &[]), 0);
        assert_eq!(stated("vit-micro", &["backbone.crop_pct=0.5"]), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.yaml");
        std::fs::write(&path, "name: vit\ncrop_pct: 0.5\ncrop_mode: squash\n").unwrap();
        assert_eq!(stated(path.to_str().unwrap(), &[]), 2);
    }
}
