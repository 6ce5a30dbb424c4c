//! The settings in which an entry of a comparison differs from the rest.

use std::collections::BTreeMap;

use serde_yaml::Value;

/// Values by the dotted path of a field of an experiment.
pub type Fields = BTreeMap<String, Value>;
