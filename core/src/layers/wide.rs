//! Features in single precision, whatever type a backbone computes in.

use burn::tensor::{DType, Tensor};

/// Casts features to f32 from a narrower type.
///
/// # Shapes
/// `[b, features]`; the result has the same.
pub fn wide(features: Tensor<2>) -> Tensor<2> {
    match features.dtype() {
        DType::F32 | DType::F64 => features,
        _ => features.cast(DType::F32),
    }
}
