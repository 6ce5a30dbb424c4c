//! The `head:` of an experiment: how features become logits.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Features to logits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum HeadConfig {
    /// A linear layer, trained in every row of a comparison.
    Linear {
        /// Where its first values come from.
        #[serde(default)]
        from: HeadFrom,
    },
    /// Similarity to a text for each class, frozen: CLIP's zero-shot classifier.
    Text {
        /// Text embeddings `[classes, features]` in a safetensors file; the names of the classes
        /// in the order of the rows are a JSON list under `classes` in its metadata, else the rows
        /// are the data set's classes in order.
        embeddings: PathBuf,
        /// The tensor in the file. Default: the only one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tensor: Option<String>,
        /// What cosines are multiplied by. Default 100, CLIP's trained temperature.
        #[serde(default = "default_scale")]
        scale: f64,
    },
}

fn default_scale() -> f64 {
    100.0
}

impl HeadConfig {
    /// Whether its first values are drawn from the seed.
    pub fn is_new(&self) -> bool {
        matches!(
            self,
            Self::Linear {
                from: HeadFrom::New
            }
        )
    }
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self::Linear {
            from: HeadFrom::New,
        }
    }
}

/// Where a linear head's first values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadFrom {
    /// Drawn from the seed; a head in the checkpoint is dropped, and that is said.
    #[default]
    New,
    /// The checkpoint's; its number of classes must be the data set's.
    Checkpoint,
}
