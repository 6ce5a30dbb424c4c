//! Rows on the device that trains: a batch is gathered there, and no value is copied from the host.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::config::cache::ValueType;
use crate::data::table::Table;

/// Bytes that are copied to the device at a time.
const CHUNK: usize = 64 << 20;

/// The rows of a split, `[rows, values]`.
#[derive(Debug)]
pub struct Resident {
    rows: Tensor<2>,
    /// Rows that have no value, and why.
    missing: BTreeMap<usize, String>,
    bytes: usize,
}

impl Resident {
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

    /// Why a row has no value.
    pub fn missing(&self, row: usize) -> Option<&str> {
        self.missing.get(&row).map(String::as_str)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Rows of several splits, each given by its split and its place there, in order.
///
/// # Shapes
/// `[places, values]`.
pub fn gather(splits: &[Arc<Resident>], places: &[(usize, usize)], device: &Device) -> Tensor<2> {
    let indices = |places: &[usize]| {
        let places: Vec<i64> = places.iter().map(|&place| place as i64).collect();
        let count = places.len();
        Tensor::<1, Int>::from_data(TensorData::new(places, [count]), device)
    };
    let mut parts = Vec::new();
    // Where each row of the parts, one after the other, belongs.
    let mut order = Vec::new();
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
    if parts.len() == 1 {
        return parts.remove(0);
    }
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

    /// Rows whose two values are their number and its negative, the second one missing.
    fn resident(first: usize, rows: usize, values: ValueType, device: &Device) -> Arc<Resident> {
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
        Arc::new(Resident::new(&writer.finish().unwrap(), values, device))
    }

    #[test]
    fn rows_of_several_splits_come_in_the_order_in_which_they_are_asked_for() {
        let device = Device::flex();
        for values in [ValueType::F32, ValueType::F16, ValueType::Bf16] {
            let splits = [
                resident(0, 5, values, &device),
                resident(10, 3, values, &device),
            ];
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
