//! One training step: its random numbers, and the buffers that it updates.

use std::cell::RefCell;

use burn::tensor::Tensor;

/// One training step: the seed of its random numbers and the buffers that it updates.
///
/// A step is a pure function of model, batch and step number; updates are returned, not written.
#[derive(Debug)]
pub struct Step {
    pub(crate) seed: u64,
    pub(crate) number: u64,
    pub(crate) part: usize,
    pub(crate) updates: RefCell<Vec<(String, Tensor<1>)>>,
    pub(crate) batch_statistics: bool,
}

impl Step {
    /// Step `number` of a run with `seed`, accumulation part `part`; `batch_statistics` for tuned
    /// BatchNorm layers.
    pub fn new(seed: u64, number: u64, part: usize, batch_statistics: bool) -> Self {
        Self {
            seed,
            number,
            part,
            updates: RefCell::default(),
            batch_statistics,
        }
    }

    /// The buffers' new values by canonical name, once the forward pass has run.
    pub fn into_updates(self) -> Vec<(String, Tensor<1>)> {
        self.updates.into_inner()
    }
}
