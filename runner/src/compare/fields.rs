//! What an entry of a comparison sets otherwise than the rest.

use std::collections::BTreeMap;

use serde_yaml::Value;

/// Values by the dotted path of a field of an experiment.
pub type Fields = BTreeMap<String, Value>;
