//! A batch, on the host and on the device.

use std::ops::Range;

use burn::tensor::Device;
use peft_core::Tapped;
use peft_core::backbone::Cut;

use crate::data::targets::Targets;

/// The images of one forward pass, or what a frozen prefix made of them, and their labels.
#[derive(Clone)]
pub struct Batch {
    /// The activation at cut `from`, or those that a side network reads if it takes over there; at cut 0 the
    /// normalised images `[b, 3, h, w]`.
    pub x: Tapped,
    /// The cut at which the model takes over.
    pub from: Cut,
    /// Their labels.
    pub targets: Targets,
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
    /// The share that each image has in its own target.
    pub lambda: Vec<f32>,
    /// The labels of their partners.
    pub partners: Targets,
}

impl Batch {
    /// The images `rows` alone, on `device`.
    pub fn rows(self, rows: Range<usize>, device: &Device) -> Self {
        let of = |values: Vec<usize>| match values.is_empty() {
            true => values,
            false => values[rows.clone()].to_vec(),
        };
        Self {
            x: self.x.rows(rows.clone(), device),
            from: self.from,
            targets: self.targets.rows(rows.clone()),
            groups: of(self.groups),
            places: of(self.places),
            mixed: self.mixed.map(|Mixed { lambda, partners }| Mixed {
                lambda: lambda[rows.clone()].to_vec(),
                partners: partners.rows(rows.clone()),
            }),
        }
    }
}

/// A batch that is not on the device yet.
pub struct HostBatch {
    /// What [`Batch::x`] is made of.
    pub values: HostValues,
    /// As [`Batch::targets`].
    pub targets: Targets,
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
