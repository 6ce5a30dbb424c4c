//! The `head:` of an experiment: how features become logits.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The head that turns features into logits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum HeadConfig {
    /// A linear layer, trained in every row of a comparison.
    Linear {
        /// The source of its initial values.
        #[serde(default)]
        from: HeadFrom,
    },
    /// Similarity to a text for each class, frozen: CLIP's zero-shot classifier.
    Text {
        /// A safetensors file of text embeddings `[classes, features]`. Its metadata may hold the classes'
        /// names in the order of the rows, as a JSON list under `classes`; without them the rows are the
        /// data set's classes in order.
        embeddings: PathBuf,
        /// The name of the tensor in the file. Default: the only tensor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tensor: Option<String>,
        /// The factor of the cosines. Default: 100, CLIP's trained temperature.
        #[serde(default = "default_scale")]
        scale: f64,
    },
}

fn default_scale() -> f64 {
    100.0
}

impl HeadConfig {
    /// Whether its initial values are drawn from the seed.
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

/// The source of a linear head's initial values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadFrom {
    /// They are drawn from the seed. A head in the checkpoint is dropped, with a message.
    #[default]
    New,
    /// They are those of the checkpoint's head, which must have as many classes as the data set.
    Checkpoint,
}
