//! Parameters that are rows of a larger one in a library's files.

use burn::tensor::TensorData;
use peft_core::params::floats;

/// The rows of part `part` of `parts` equal ones.
///
/// # Shapes
/// `[parts rows, ..] -> [rows, ..]`.
pub(super) fn part(data: TensorData, parts: usize, part: usize) -> TensorData {
    span(data, parts, part, 1)
}

/// The rows of the `count` parts from `first` on, of `parts` equal ones. A value that cannot be cut so is left
/// as it is, and has the wrong shape.
///
/// # Shapes
/// `[parts rows, ..] -> [count rows, ..]`.
pub(super) fn span(data: TensorData, parts: usize, first: usize, count: usize) -> TensorData {
    let mut shape = data.shape().to_vec();
    let Some(rows) = shape.first().filter(|rows| rows.is_multiple_of(parts)) else {
        return data;
    };
    let rows = rows / parts;
    let row: usize = shape[1..].iter().product();
    shape[0] = count * rows;
    let values = floats(data);
    let own = &values[first * rows * row..(first + count) * rows * row];
    TensorData::new(own.to_vec(), shape)
}
