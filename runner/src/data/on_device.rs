//! Tables on the device that trains. A batch is gathered there, and no value is copied from the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::config::cache::ValueType;
use crate::data::table::Table;

/// Bytes that are copied to the device at a time, so that the copy needs no second table in memory.
const CHUNK: usize = 64 << 20;

/// The rows of a split, `[rows, values]`.
#[derive(Debug)]
pub struct DeviceTable {
    rows: Tensor<2>,
    /// The rows that have no value, and why.
    missing: BTreeMap<usize, String>,
    bytes: usize,
}

impl DeviceTable {
    /// Copies a table to the device.
    pub fn new(table: &Table, values: ValueType, device: &Device) -> Self {
        let dtype = match values {
            ValueType::F32 => DType::F32,
            ValueType::F16 => DType::F16,
            ValueType::Bf16 => DType::BF16,
        };
        let (bytes, width) = (table.bytes(), table.row_bytes() / values.bytes());
        let count = bytes.len() / table.row_bytes();
        let mut rows = Tensor::zeros([count, width], (device, dtype));
        // The tensor has its final size from the start and is filled in place: concatenating the chunks would
        // need twice the room on the device.
        let step = (CHUNK / table.row_bytes()).max(1);
        for start in (0..count).step_by(step) {
            let end = (start + step).min(count);
            let part = &bytes[start * table.row_bytes()..end * table.row_bytes()];
            let part = TensorData::from_bytes_vec(part.to_vec(), [end - start, width], dtype);
            let part = Tensor::from_data(part, (device, dtype));
            rows = rows.slice_assign([start..end, 0..width], part);
        }
        Self {
            rows,
            missing: table.missing().clone(),
            bytes: bytes.len(),
        }
    }

    /// Why a row has no value, if it has none.
    pub fn missing(&self, row: usize) -> Option<&str> {
        self.missing.get(&row).map(String::as_str)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Rows of several splits in the given order, each by the index of its split and its place in the split's
/// table.
///
/// # Shapes
/// `[places, values]`.
pub fn gather(
    splits: &[Arc<DeviceTable>],
    places: &[(usize, usize)],
    device: &Device,
) -> Tensor<2> {
    let indices = |places: &[usize]| {
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let count = places.len();
        Tensor::<1, Int>::from_data(TensorData::new(places, [count]), device)
    };
    // One selection for each split, and where its rows belong in the batch.
    let (mut parts, mut order) = (Vec::new(), Vec::new());
    for (which, split) in splits.iter().enumerate() {
        let of_split = places
            .iter()
            .enumerate()
            .filter(|(_, (of, _))| *of == which);
        let (targets, rows): (Vec<usize>, Vec<usize>) =
            of_split.map(|(target, (_, row))| (target, *row)).unzip();
        if !rows.is_empty() {
            parts.push(split.rows.clone().select(0, indices(&rows)));
            order.extend(targets);
        }
    }
    // The rows of a single split are in order already.
    if parts.len() == 1 {
        return parts.remove(0);
    }
    // A second selection undoes the sorting by split: its indices are the inverse of `order`.
    let mut from = vec![0; order.len()];
    for (source, target) in order.into_iter().enumerate() {
        from[target] = source;
    }
    Tensor::cat(parts, 0).select(0, indices(&from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::table::{Shape, Writer};

    /// A table whose rows hold their number and its negative. The second row is missing.
    fn table(first: usize, rows: usize, values: ValueType, device: &Device) -> Arc<DeviceTable> {
        let shape = Shape {
            rows,
            row_bytes: 2 * values.bytes(),
        };
        let mut writer = Writer::memory(shape).unwrap();
        let mut bytes = Vec::new();
        for row in first..first + rows {
            values.write(&[row as f32, -(row as f32)], &mut bytes);
            match row - first {
                1 => writer.skip("damaged").unwrap(),
                _ => writer.push(&bytes).unwrap(),
            }
        }
        Arc::new(DeviceTable::new(&writer.finish().unwrap(), values, device))
    }

    #[test]
    fn rows_of_several_splits_come_in_the_order_of_their_places() {
        let device = Device::flex();
        for values in [ValueType::F32, ValueType::F16, ValueType::Bf16] {
            let splits = [table(0, 5, values, &device), table(10, 3, values, &device)];
            assert_eq!(splits[0].missing(1), Some("damaged"));
            assert_eq!(splits[0].missing(2), None);
            assert_eq!(splits[1].bytes(), 3 * 2 * values.bytes());
            let places = [(1, 2), (0, 4), (1, 0), (0, 0), (0, 4)];
            let got = gather(&splits, &places, &device)
                .cast(DType::F32)
                .into_data();
            let got: Vec<f32> = got.iter().collect();
            assert_eq!(
                got,
                [12.0, -12.0, 4.0, -4.0, 10.0, -10.0, 0.0, 0.0, 4.0, -4.0]
            );
            let one = gather(&splits[..1], &[(0, 3)], &device)
                .cast(DType::F32)
                .into_data();
            assert_eq!(one.iter::<f32>().collect::<Vec<_>>(), [3.0, -3.0]);
        }
    }
}
