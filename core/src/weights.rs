//! Writing safetensors, whole or not at all. Reading them, as any other checkpoint, is
//! [`crate::checkpoint`]'s.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::params::Tensors;

/// Writes f32, i64 and u8 tensors as safetensors, atomically.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write(path: &Path, tensors: &Tensors, metadata: HashMap<String, String>) -> Result<()> {
    write_atomically(
        path,
        &to_bytes(tensors, metadata).map_err(|e| Error::file(path, e))?,
    )
}

/// Tensors and metadata as the bytes of a safetensors file.
///
/// # Errors
/// A message if a tensor has a type that the format lacks.
pub fn to_bytes(tensors: &Tensors, metadata: HashMap<String, String>) -> Result<Vec<u8>, String> {
    let views = tensors
        .iter()
        .map(|(name, data)| {
            let dtype = match data.dtype() {
                DType::F32 => Dtype::F32,
                DType::I64 => Dtype::I64,
                DType::U8 => Dtype::U8,
                DType::BF16 => Dtype::BF16,
                DType::F16 => Dtype::F16,
                other => return Err(format!("{name}: {other:?} is not written")),
            };
            TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
                .map(|view| (name.clone(), view))
                .map_err(|e| format!("{name}: {e}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(|e| e.to_string())
}
