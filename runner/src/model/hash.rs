//! The hash of a trial: equal hashes mean equal results.

use std::path::PathBuf;

use peft_core::DatasetConfig;
use peft_core::data::Transform;

use crate::config::experiment::Experiment;
use crate::config::head::HeadConfig;
use crate::exit::{Failure, config_error};
use crate::model::adapter::Adapter;
use crate::model::base::Base;
use crate::model::head::text_embeddings;

/// Hashes of the files that an experiment names by path. A file that is moved or copied leaves the
/// trial's hash as it is; a changed one does not.
pub struct Content {
    /// The weights file; none for random weights.
    pub weights: Option<String>,
    data: String,
    embeddings: Option<String>,
    adapter: Option<String>,
}

impl Content {
    /// The content of what `experiment` names, opened already where it is large.
    ///
    /// # Errors
    /// If the text embeddings cannot be read.
    pub fn of(
        experiment: &Experiment,
        base: &Base,
        data: &str,
        adapter: Option<&Adapter>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            weights: base.weights_hash.clone(),
            data: data.to_owned(),
            embeddings: match &experiment.head {
                HeadConfig::Linear { .. } | HeadConfig::LabelMapping { .. } => None,
                HeadConfig::Text { embeddings, .. } => Some(text_embeddings(embeddings)?.hash()),
            },
            adapter: adapter.map(Adapter::hash),
        })
    }

    /// The hash of everything that changes results: the resolved experiment without its name, with files
    /// by content. Device, threads, output folder, the place of the prefix cache and trackers are not part of
    /// it.
    ///
    /// # Errors
    /// If the experiment cannot be written as JSON.
    pub fn hash(&self, experiment: &Experiment) -> Result<String, Failure> {
        let mut value = serde_json::to_value(experiment)
            .map_err(|e| config_error(format!("the experiment cannot be written: {e}")))?;
        if let Some(map) = value.as_object_mut() {
            for place in ["name", "prefix_cache", "cache_budget_gib", "tensorboard"] {
                map.remove(place);
            }
        }
        value["backbone"]["weights"] = self.weights.as_deref().into();
        if let Some(embeddings) = &self.embeddings {
            value["head"]["embeddings"] = embeddings.as_str().into();
        }
        if let Some(adapter) = &self.adapter {
            value["adapter"] = adapter.as_str().into();
        }
        value["dataset"] = without_paths(&*experiment.dataset);
        value["dataset"]["content"] = self.data.as_str().into();
        let hash = blake3::hash(value.to_string().as_bytes());
        Ok(hash.to_hex().to_string())
    }
}

/// A data set's configuration without its paths: a moved folder is the same data.
fn without_paths(config: &dyn DatasetConfig) -> serde_json::Value {
    let mut config = dyn_clone::clone_box(config);
    for path in config.paths_mut() {
        *path = PathBuf::new();
    }
    // What the format does by itself makes no other trial where it is stated.
    if config.transform() == config.protocol() {
        config.set_transform(Transform::default());
    }
    serde_json::to_value(config).unwrap_or_default()
}
