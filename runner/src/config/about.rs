//! Facts about a data set: the key `about` beside its configuration in `configs/datasets/`.

use peft_core::data::{Dataset, Split};
use serde::{Deserialize, Serialize};

use crate::config::sources::Sources;
use crate::train::metrics::Metric;

/// Facts about a published data set. `runner data check` compares them with what is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// The name that its authors gave it.
    pub title: String,
    /// The part of the benchmark that it belongs to: `full-data`, or a group of VTAB.
    pub group: Group,
    /// The number of classes.
    pub classes: usize,
    /// The number of images in each split.
    pub splits: Sizes,
    /// The metric that is reported.
    pub metric: Metric,
    /// The files and folders that must be on disk below the root.
    pub layout: String,
    /// The place to get it from.
    pub source: String,
    /// The terms of use, as its authors state them.
    pub terms: String,
    /// The protocol: how images are resized, and which images train, validate and test.
    pub protocol: String,
    /// The authors, title and year of its paper.
    pub reference: String,
    /// Errors in the paper's table, and how they are known to be errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Where its files come from, for `runner data fetch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Sources>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// A data set with all of its training images.
    FullData,
    /// VTAB-1k, natural: photographs of objects and scenes.
    Natural,
    /// VTAB-1k, specialised: photographs taken with special equipment.
    Specialised,
    /// VTAB-1k, structured: counting, distances and poses.
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

/// The number of images in each split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Images that gradients are computed from.
    pub train: usize,
    /// Images that choices are made on.
    pub validation: usize,
    /// Images that the report is about.
    pub test: usize,
}

impl About {
    /// The facts that an open data set contradicts, one line each.
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
