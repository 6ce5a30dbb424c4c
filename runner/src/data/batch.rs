//! A batch, on the host and on the device.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor};
use peft_core::Tapped;
use peft_core::backbone::Cut;

/// The images of one forward pass, or what a frozen prefix made of them, and their labels.
#[derive(Clone)]
pub struct Batch {
    /// The activation at cut `from`, or those that a side network reads if it takes over there; at cut 0 the
    /// normalised images `[b, 3, h, w]`.
    pub x: Tapped,
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
    /// The images that are mixed into these, if any are.
    pub mixed: Option<Mixed>,
}

/// What images are mixed with.
#[derive(Clone)]
pub struct Mixed {
    /// `[b]`: the share that an image has in its own target.
    pub lambda: Tensor<1>,
    /// `[b]`: the labels of its partners.
    pub partners: Tensor<1, Int>,
}

impl Batch {
    /// The images `rows` alone, on `device`.
    pub fn rows(self, rows: Range<usize>, device: &Device) -> Self {
        let (first, count) = (rows.start, rows.len());
        let of = |values: Vec<usize>| match values.is_empty() {
            true => values,
            false => values[rows.clone()].to_vec(),
        };
        Self {
            x: self.x.rows(rows.clone(), device),
            from: self.from,
            labels: self.labels.narrow(0, first, count).to_device(device),
            targets: of(self.targets),
            groups: of(self.groups),
            places: of(self.places),
            mixed: self.mixed.map(|Mixed { lambda, partners }| Mixed {
                lambda: lambda.narrow(0, first, count).to_device(device),
                partners: partners.narrow(0, first, count).to_device(device),
            }),
        }
    }
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
    /// The share that an image has in its own target, if image `i` is mixed with image `b - 1 - i`.
    pub lambda: Option<Vec<f32>>,
}

/// What the activation of a batch is made of.
#[derive(Debug, PartialEq)]
pub enum HostValues {
    /// The values of all images or activations, one after the other.
    Values(Vec<f32>),
    /// Rows that are gathered on the device, each by the index of its split and its place in the split's
    /// table.
    Rows(Vec<(usize, usize)>),
}
