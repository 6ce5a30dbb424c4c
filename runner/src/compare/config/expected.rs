//! Published scores of a method, beside which the report prints ours.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Published scores of a method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// The publication: authors, year and table.
    pub source: String,
    /// The label of the backbone that they were measured on. Default: the only one of the comparison.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<String>,
    /// The scores in percent, by the label of the data set.
    pub scores: BTreeMap<String, f64>,
}

impl Expected {
    /// The label of the backbone, among those of the comparison; none if there are several and none is named.
    pub fn backbone<'a>(&'a self, backbones: &[&'a String]) -> Option<&'a String> {
        match (&self.backbone, backbones) {
            (Some(label), _) => Some(label),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    /// Checks everything but the labels of the data sets, which are the keys of `scores`.
    ///
    /// # Errors
    /// The mistake, in words that follow the place.
    pub(super) fn check(&self, backbones: &[&String]) -> Result<(), String> {
        if self.source.trim().is_empty() {
            return Err("source: expected where the scores were published".to_owned());
        }
        match self.backbone(backbones) {
            None => {
                return Err(
                    "backbone: expected a label, because the comparison has several".to_owned(),
                );
            }
            Some(label) if !backbones.contains(&label) => {
                return Err(format!("backbone: unknown label {label:?}"));
            }
            Some(_) => {}
        }
        let outside = |(_, score): &(&String, &f64)| !(0.0..=100.0).contains(*score);
        match self.scores.iter().find(outside) {
            Some((label, score)) => Err(format!(
                "scores.{label}: expected a percentage, got {score}"
            )),
            None => Ok(()),
        }
    }
}
