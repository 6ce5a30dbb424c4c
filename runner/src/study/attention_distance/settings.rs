//! The claim, the settings and the results of the study of attention distances.

use peft_core::data::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::distance::Layer;
use crate::study::claim::Claim;

pub const CLAIM: Claim = Claim {
    id: "falls-then-rises",
    source: "Fig. 5B, Sec. 4.1, 4.2",
    claim: "on ViT-L/16 the average attention distance of the heads goes down from layer 1 to 12 and slightly up beyond 15",
};

/// The settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The network, a name in `configs/backbones` or the fields of a backbone.
    #[schemars(with = "serde_json::Value")]
    pub backbone: Option<Value>,
    /// Further networks on which the claim is tried too: in miniature, other pretrainings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<serde_json::Value>")]
    pub again: Vec<Value>,
    /// The data set, a name in `configs/datasets` or its fields.
    #[schemars(with = "serde_json::Value")]
    pub dataset: Option<Value>,
    /// The split whose images are taken in order. Default: test.
    #[schemars(with = "String")]
    pub split: Option<Split>,
    /// The number of images, at least 1. Default: all of the split.
    pub images: Option<usize>,
    /// Images of a forward pass, at least 1. Default: 16.
    pub batch: Option<usize>,
    /// The seed of random weights, where the network has none.
    pub seed: u64,
    /// Rows and columns of patches in a file of weights.
    pub grid: Option<[usize; 2]>,
    /// Pixels of a patch in a file of weights.
    pub patch: Option<usize>,
    /// Tokens before the patches in a file of weights. Default: 0.
    pub prefix: usize,
}

impl Settings {
    /// The settings of every network, each as if it were the only one.
    pub fn networks(&self) -> Vec<Self> {
        let alone = Self {
            again: Vec::new(),
            ..self.clone()
        };
        let with = |backbone: &Value| Self {
            backbone: Some(backbone.clone()),
            ..alone.clone()
        };
        let again: Vec<Self> = self.again.iter().map(with).collect();
        [alone].into_iter().chain(again).collect()
    }
}

/// The distances of all layers.
pub struct Found {
    pub layers: Vec<Layer>,
    pub uniform: f64,
    pub title: String,
    pub images: usize,
    pub windows: bool,
}
