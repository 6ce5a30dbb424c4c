//! The names of weights in a repository, and of the shards that they are cut into.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::repository::is_inside;
use crate::exit::{Failure, config_error};

/// The names that the weights of a repository may have, in the order in which they are looked for.
pub const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
];

/// The files beside the weights that describe how images are prepared.
pub const BESIDE: [&str; 3] = [
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
];

/// The files that an index of shards names, each once.
///
/// # Errors
/// If it cannot be read, is not JSON, or names a file elsewhere.
pub fn shards_of(index: &Path) -> Result<BTreeSet<String>, Failure> {
    let text = fs_err::read_to_string(index).map_err(config_error)?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|e| config_error(format_args!("{}: {e}", index.display())))?;
    let map = value["weight_map"].as_object();
    let names = map
        .into_iter()
        .flatten()
        .filter_map(|(_, file)| file.as_str());
    names
        .map(|name| match is_inside(name) {
            true => Ok(name.to_owned()),
            // The name comes from the network and becomes a path.
            false => Err(config_error(format_args!(
                "{}: expected the name of a shard, got {name:?}",
                index.display()
            ))),
        })
        .collect()
}
