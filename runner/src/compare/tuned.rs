//! A search that the trials of a cell share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::search::{Search, Space};

/// A search that all seeds of a cell share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The name of its folder, below that of the comparison.
    pub folder: String,
    /// The kind of search.
    pub search: Search,
    /// The values that each field may take, by dotted path.
    pub spaces: BTreeMap<String, Space>,
    /// The seed of all candidates.
    pub seed: u64,
}
