//! The rows of a cache that stand in for the images of a loader.

use std::sync::Arc;

use burn::tensor::Device;
use peft_core::Activation;
use peft_core::activation::BoundaryShape;
use peft_core::backbone::Cut;

use crate::config::cache::ValueType;
use crate::data::on_device::{Resident, gather};
use crate::data::table::Table;

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Pixels of the resized image, `[h, w, 3]`, before random changes.
    Pixels,
    /// An activation.
    Values(ValueType),
}

impl Encoding {
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
    /// Where the model goes on.
    pub cut: Cut,
    /// Of a row, decoded.
    pub shape: BoundaryShape,
    /// How many times each image is there, changed differently.
    pub views: usize,
    pub encoding: Encoding,
    pub tables: Tables,
}

/// One a split.
#[derive(Clone)]
pub enum Tables {
    Host(Vec<Arc<Table>>),
    Device(Vec<Arc<Resident>>),
}

/// A row of [`Rows`].
pub enum Row<'a> {
    /// `[h, w, 3]`, before random changes.
    Pixels(&'a [u8]),
    /// An activation, and what its values are kept as.
    Values(ValueType, &'a [u8]),
    /// An activation that is on the device already.
    Resident,
}

impl Rows {
    /// A row of the table of a split.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn get(&self, which: usize, row: usize) -> Result<Row<'_>, &str> {
        let table = match &self.tables {
            Tables::Host(tables) => &tables[which],
            Tables::Device(residents) => {
                return residents[which].missing(row).map_or(Ok(Row::Resident), Err);
            }
        };
        let missing = || table.missing().get(&row).map_or("", String::as_str);
        let bytes = table.row(row).ok_or_else(missing)?;
        Ok(match self.encoding {
            Encoding::Pixels => Row::Pixels(bytes),
            Encoding::Values(values) => Row::Values(values, bytes),
        })
    }

    /// Whether its rows are on the device.
    pub fn is_resident(&self) -> bool {
        matches!(self.tables, Tables::Device(_))
    }

    /// Rows by split and place there, if they are on the device.
    pub fn gather(&self, places: &[(usize, usize)], device: &Device) -> Option<Activation> {
        let Tables::Device(residents) = &self.tables else {
            return None;
        };
        Some(self.shape.of_rows(gather(residents, places, device)))
    }
}
