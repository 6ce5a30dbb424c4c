//! Batches, before and after they are on the device.

use burn::tensor::{Int, Tensor};
use peft_core::Activation;
use peft_core::backbone::Cut;

/// Images, or what a frozen prefix made of them, and labels of one forward pass.
#[derive(Clone)]
pub struct Batch {
    /// The activation at cut `from`; at 0 images `[b, 3, h, w]`, normalised.
    pub x: Activation,
    /// Where the model goes on.
    pub from: Cut,
    /// `[b]`.
    pub labels: Tensor<1, Int>,
    /// The same labels on the host.
    pub targets: Vec<usize>,
    /// The images' groups, if the data set has any.
    pub groups: Vec<usize>,
    /// The images' places in the loader.
    pub places: Vec<usize>,
    /// `[b]`, if image `i` is mixed with image `b - 1 - i`: its own part in its target.
    pub lambda: Option<Tensor<1>>,
}

/// What a batch is made of on the device.
#[derive(Debug, PartialEq)]
pub enum HostValues {
    /// Images or activations, one after the other.
    Values(Vec<f32>),
    /// Rows that are there already, by split and place.
    Rows(Vec<(usize, usize)>),
}

/// A batch that is not on the device yet.
pub struct HostBatch {
    pub values: HostValues,
    pub targets: Vec<usize>,
    pub groups: Vec<usize>,
    pub places: Vec<usize>,
    pub lambda: Option<Vec<f32>>,
}
