//! A fact of a network, as configurations and files state it.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// Facts of a network under the names of configurations' fields, which are timm's.
pub type Facts = Map<String, Value>;

/// A fact that a file beside the weights states.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The field of a configuration that it is about, for example `num_heads`.
    pub name: String,
    /// Its value in that field's terms.
    pub value: Value,
    /// The file.
    pub path: PathBuf,
    /// What the file calls it, for example `vision_config.num_attention_heads`.
    pub field: String,
    /// Whether the file only implies it: by the name of an architecture, or because its library leaves
    /// a default out.
    pub implied: bool,
}
