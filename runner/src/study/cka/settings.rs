//! The claim, the settings and the results of the study of similarity.

use peft_core::data::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::study::claim::Claim;

pub const CLAIM: Claim = Claim {
    id: "deep-cnn-middle-vit",
    source: "Fig. 5A, Sec. 4.1",
    claim: "the deep features of ResNet-101 are most similar to the middle layers of ViT-L/16",
};

/// The settings.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The first network, a name in `configs/backbones` or the fields of a backbone: the rows.
    #[schemars(with = "serde_json::Value")]
    pub backbone: Option<Value>,
    /// The second network: the columns. Default: the first one again.
    #[schemars(with = "serde_json::Value")]
    pub other: Option<Value>,
    /// Further pairs of networks on which the claim is tried too: in miniature, other pretrainings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<Pair>,
    /// The data set, a name in `configs/datasets` or its fields.
    #[schemars(with = "serde_json::Value")]
    pub dataset: Option<Value>,
    /// The split whose images are taken in order. Default: test.
    #[schemars(with = "String")]
    pub split: Option<Split>,
    /// The number of images. Default: all of the split.
    pub images: Option<usize>,
    /// The number of images of a batch, at least 4. Default: all images in one batch.
    pub batch: Option<usize>,
    /// Which CKA: `minibatch`, or `plain` for the biased one over all images too.
    pub kind: Kind,
    /// The seed of random weights, where a network has none.
    pub seed: u64,
}

/// Two networks that are compared.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The first network.
    #[schemars(with = "serde_json::Value")]
    pub backbone: Value,
    /// The second network. Default: the first one again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Value>")]
    pub other: Option<Value>,
}

impl Settings {
    /// The settings of every pair of networks, each as if it were the only one.
    pub fn pairs(&self) -> Vec<Self> {
        let alone = Self {
            again: Vec::new(),
            ..self.clone()
        };
        let with = |pair: &Pair| Self {
            backbone: Some(pair.backbone.clone()),
            other: pair.other.clone(),
            ..alone.clone()
        };
        let again: Vec<Self> = self.again.iter().map(with).collect();
        [alone].into_iter().chain(again).collect()
    }
}

/// Which CKA is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// From the unbiased HSIC, summed over batches.
    #[default]
    Minibatch,
    /// That, and the biased one over all images at once.
    Plain,
}

/// One of the two networks.
#[derive(Clone, Debug)]
pub struct Side {
    /// The names of its boundaries.
    pub names: Vec<String>,
    /// The title of the network in tables and figures.
    pub title: String,
    /// Whether its activations are feature maps or tokens; none if that is unknown.
    pub kind: Option<Layers>,
    /// Its number of blocks.
    pub depth: usize,
}

/// The kind of a network's activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    Maps,
    Tokens,
}

/// The similarities of all pairs of boundaries.
pub struct Similarity {
    pub sides: [Side; 2],
    pub cka: Vec<Vec<Option<f64>>>,
    pub plain: Option<Vec<Vec<Option<f64>>>>,
    pub batch: usize,
    pub used: usize,
}
