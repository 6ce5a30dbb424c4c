//! The rows of a cache, which a loader reads instead of images.

use std::sync::Arc;

use burn::tensor::Device;
use peft_core::Activation;
use peft_core::activation::BoundaryShape;
use peft_core::backbone::Cut;

use crate::config::cache::ValueType;
use crate::data::on_device::{DeviceTable, gather};
use crate::data::table::Table;

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// The pixels of the resized image, `[h, w, 3]`, before random changes.
    Pixels,
    /// An activation.
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
    pub shape: BoundaryShape,
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
    /// An activation whose values are on the device and not needed here.
    OnDevice,
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
                return tables[which].missing(row).map_or(Ok(Row::OnDevice), Err);
            }
        };
        let missing = || table.missing().get(&row).map_or("", String::as_str);
        let bytes = table.row(row).ok_or_else(missing)?;
        Ok(match self.encoding {
            Encoding::Pixels => Row::Pixels(bytes),
            Encoding::Values(values) => Row::Values(values, bytes),
        })
    }

    /// Whether the rows are on the device.
    pub fn are_on_device(&self) -> bool {
        matches!(self.tables, Tables::Device(_))
    }

    /// The rows of a batch, each by the index of its split and its place in the split's table; `None` if
    /// they are not on the device.
    pub fn gather(&self, places: &[(usize, usize)], device: &Device) -> Option<Activation> {
        let Tables::Device(tables) = &self.tables else {
            return None;
        };
        Some(self.shape.of_rows(gather(tables, places, device)))
    }
}
