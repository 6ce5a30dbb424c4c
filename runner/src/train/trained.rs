//! What a training yields.

use peft_core::Model;
use peft_core::params::Tensors;

use crate::cache::Cost;
use crate::data::held_out::Settled;
use crate::train::checkpoint::Progress;

/// A trained model, and how its training went.
pub struct Trained {
    /// The model of the selected epoch, on the plain device.
    pub model: Model,
    /// The values that were trained, by name.
    pub tensors: Tensors,
    /// The history of the training, epoch by epoch.
    pub progress: Progress,
    /// The selected epoch, an index into the history.
    pub selected: usize,
    /// Time and memory that the prefix cache took.
    pub cache: Cost,
}

/// A trained model has its epoch. Candidates of a search yield their progress only, so that none of
/// them can read the test split.
impl Settled for Trained {}
