//! What is known of a data set: the key `about` beside its configuration in `configs/datasets/`.

use peft_core::data::{Dataset, Split};
use serde::{Deserialize, Serialize};

use crate::train::metrics::Metric;

/// Facts of a published data set, held against what is on disk by `runner data check`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Its makers' name.
    pub title: String,
    /// `full-data`, or a group of VTAB.
    pub group: Group,
    /// Number of classes.
    pub classes: usize,
    /// Images of each split.
    pub splits: Sizes,
    /// What is reported.
    pub metric: Metric,
    /// What must be on disk below the root.
    pub layout: String,
    /// Where to get it.
    pub source: String,
    /// Under what terms, as stated by its makers.
    pub terms: String,
    /// How images are resized, and what trains, validates and tests.
    pub protocol: String,
    /// Authors, title, year.
    pub reference: String,
    /// Slips of the paper's table, and how it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
}

/// Which part of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// All training images.
    FullData,
    /// VTAB: photographs of things.
    Natural,
    /// VTAB: photographs by special equipment.
    Specialised,
    /// VTAB: counting, distances, poses.
    Structured,
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FullData => "full data",
            Self::Natural => "natural",
            Self::Specialised => "specialised",
            Self::Structured => "structured",
        })
    }
}

/// Images of each split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// What gradients see.
    pub train: usize,
    /// What choices see.
    pub validation: usize,
    /// What the report sees.
    pub test: usize,
}

impl About {
    /// What of the facts an open data set does not show, a line each.
    pub fn differences(&self, dataset: &dyn Dataset) -> Vec<String> {
        let mut lines = Vec::new();
        let mut expect = |what: &str, expected: usize, got: usize| {
            if expected != got {
                lines.push(format!("{what}: expected {expected}, got {got}"));
            }
        };
        expect("classes", self.classes, dataset.classes().len());
        let Sizes {
            train,
            validation,
            test,
        } = self.splits;
        for (split, expected) in Split::ALL.into_iter().zip([train, validation, test]) {
            expect(&format!("{split} images"), expected, dataset.len(split));
        }
        lines
    }
}
