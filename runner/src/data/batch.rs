//! A batch, on the host and on the device.

use burn::tensor::{Int, Tensor};
use peft_core::Activation;
use peft_core::backbone::Cut;

/// The images of one forward pass, or what a frozen prefix made of them, and their labels.
#[derive(Clone)]
pub struct Batch {
    /// The activation at cut `from`; at cut 0 the normalised images `[b, 3, h, w]`.
    pub x: Activation,
    /// The cut at which the model takes over.
    pub from: Cut,
    /// `[b]`.
    pub labels: Tensor<1, Int>,
    /// The same labels on the host.
    pub targets: Vec<usize>,
    /// The groups of the images; empty if the data set has no groups.
    pub groups: Vec<usize>,
    /// The places of the images in the loader.
    pub places: Vec<usize>,
    /// `[b]`: the share that an image has in its own target, if image `i` is mixed with image `b - 1 - i`.
    pub lambda: Option<Tensor<1>>,
}

/// A batch that is not on the device yet.
pub struct HostBatch {
    /// What [`Batch::x`] is made of.
    pub values: HostValues,
    /// As [`Batch::targets`].
    pub targets: Vec<usize>,
    /// As [`Batch::groups`].
    pub groups: Vec<usize>,
    /// As [`Batch::places`].
    pub places: Vec<usize>,
    /// As [`Batch::lambda`].
    pub lambda: Option<Vec<f32>>,
}

/// What the activation of a batch is made of.
#[derive(Debug, PartialEq)]
pub enum HostValues {
    /// The values of all images or activations, one after the other.
    Values(Vec<f32>),
    /// Rows that are on the device already, each by the index of its split and its place in the split's
    /// table.
    Rows(Vec<(usize, usize)>),
}
