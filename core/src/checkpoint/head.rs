//! The classification head of a checkpoint.

use burn::tensor::TensorData;

/// A head that came with a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointHead {
    /// `[classes, features]`.
    pub weight: TensorData,
    /// `[classes]`.
    pub bias: TensorData,
}
