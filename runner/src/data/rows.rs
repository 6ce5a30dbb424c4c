//! The rows of a cache, which a loader reads instead of images.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::activation::BoundaryShape;
use peft_core::backbone::Cut;
use peft_core::{Tapped, TappedShape};
use rayon::prelude::*;

use crate::config::cache::ValueType;
use crate::data::on_device::{DeviceTable, gather};
use crate::data::table::Table;

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The pixels of the resized image, `[h, w, 3]`, before random changes.
    Pixels,
    /// An activation, or several.
    Values(ValueType),
}

impl Encoding {
    /// Bytes per value.
    pub fn bytes(self) -> usize {
        match self {
            Self::Pixels => 1,
            Self::Values(values) => values.bytes(),
        }
    }
}

/// The rows that stand in for the images of a loader.
#[derive(Clone)]
pub struct Rows {
    /// The cut at which the model takes over.
    pub cut: Cut,
    /// The shape of a decoded row.
    pub shape: TappedShape,
    /// How many rows there are for each image, changed differently.
    pub views: usize,
    /// What each row holds.
    pub encoding: Encoding,
    /// The rows themselves.
    pub tables: Tables,
}

/// One table for each split of the loader. A table holds all rows of the first view, then those of the next.
#[derive(Clone)]
pub enum Tables {
    /// In memory or in memory-mapped files.
    Host(Vec<Arc<Table>>),
    /// On the device that trains.
    Device(Vec<Arc<DeviceTable>>),
}

/// A row of [`Rows`].
pub enum Row<'a> {
    /// `[h, w, 3]`, before random changes.
    Pixels(&'a [u8]),
    /// An encoded activation.
    Values(ValueType, &'a [u8]),
    /// Activations that are gathered for a whole batch.
    Gathered,
}

impl Rows {
    /// A row of the table of a split, the `which`-th of the loader.
    ///
    /// # Errors
    /// Why the row has no value.
    pub fn get(&self, which: usize, row: usize) -> Result<Row<'_>, &str> {
        let table = match &self.tables {
            Tables::Host(tables) => &tables[which],
            Tables::Device(tables) => {
                return tables[which].missing(row).map_or(Ok(Row::Gathered), Err);
            }
        };
        let missing = || table.missing().get(&row).map_or("", String::as_str);
        let bytes = table.row(row).ok_or_else(missing)?;
        Ok(match self.encoding {
            Encoding::Pixels => Row::Pixels(bytes),
            Encoding::Values(_) if self.are_gathered() => Row::Gathered,
            Encoding::Values(values) => Row::Values(values, bytes),
        })
    }

    /// The activation of a batch from its decoded rows, one after the other.
    pub fn activation(&self, values: Vec<f32>, device: &Device) -> Tapped {
        let width = self.shape.elements();
        let shape = [values.len() / width, width];
        let rows = Tensor::from_data(TensorData::new(values, shape), device);
        self.shape.of_rows(rows)
    }

    /// Whether a batch is gathered as a whole once it is needed: on the device, or on the host if a row holds
    /// activations at several cuts. Several batches of those at once would take more memory than what trains on them.
    pub fn are_gathered(&self) -> bool {
        matches!(self.tables, Tables::Device(_)) || self.shape.shapes().len() > 1
    }

    /// The rows of a batch, each by the index of its split and its place in the split's table.
    pub fn gather(&self, places: &[(usize, usize)], device: &Device) -> Tapped {
        let (tables, values) = match (&self.tables, self.encoding) {
            (Tables::Device(tables), _) => {
                return self.shape.of_rows(gather(tables, places, device));
            }
            (Tables::Host(tables), Encoding::Values(values)) => (tables, values),
            (Tables::Host(_), Encoding::Pixels) => unreachable!("pixels are decoded one by one"),
        };
        let mut start = 0;
        let tap = |shape: &BoundaryShape| {
            let width = shape.elements();
            let mut all = vec![0.0; places.len() * width];
            let own = start * values.bytes()..(start + width) * values.bytes();
            all.par_chunks_mut(width)
                .zip(places)
                .for_each(|(out, &(which, row))| match tables[which].row(row) {
                    Some(bytes) => values.read(&bytes[own.clone()], out),
                    None => unreachable!("a batch has only rows with a value"),
                });
            start += width;
            shape.activation(all, device)
        };
        self.shape.shapes().iter().map(tap).collect()
    }
}
