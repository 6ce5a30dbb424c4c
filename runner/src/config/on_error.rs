//! The option `on_error`: what happens to an image that cannot be read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to an image that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The run ends with an error that names it.
    #[default]
    Fail,
    /// It is left out of its batch, reported once and counted.
    Skip,
}
