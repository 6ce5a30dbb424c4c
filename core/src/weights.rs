//! Checkpoints in safetensors: read by memory map, loaded strictly, written whole.
//!
//! Every key is consumed and every parameter filled, or loading fails and lists both sets: silent
//! partial loads are the most reported failure of this field.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::params::Tensors;

/// A safetensors file, mapped into memory (or inside the binary) and checked.
pub struct WeightsFile {
    path: PathBuf,
    bytes: FileBytes,
}

/// A file's bytes: mapped into memory, or inside the binary.
pub(crate) enum FileBytes {
    Map(memmap2::Mmap),
    Static(&'static [u8]),
}

impl FileBytes {
    /// Maps a file.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Err(Error::file(
                path,
                "expected a checkpoint, the file is empty",
            ));
        }
        // SAFETY: the map is read only; a file that another process truncates while it is mapped
        // would raise SIGBUS, as with every reader of mapped checkpoints.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self::Map(map))
    }
}

impl std::ops::Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl WeightsFile {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::File`] if it is truncated or no safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        Self::checked(path, FileBytes::map(path)?)
    }

    /// A file that is inside the binary.
    ///
    /// # Errors
    /// As [`WeightsFile::open`].
    pub fn bundled(name: &str, content: &'static [u8]) -> Result<Self> {
        Self::checked(Path::new(name), FileBytes::Static(content))
    }

    fn checked(path: &Path, bytes: FileBytes) -> Result<Self> {
        let opened = Self {
            path: path.to_owned(),
            bytes,
        };
        opened.view()?;
        Ok(opened)
    }

    /// BLAKE3 of the content, in hex.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bytes);
        hasher.finalize().to_hex().to_string()
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn view(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|e| {
            Error::file(
                &self.path,
                format!(
                    "expected a whole safetensors file, got {} bytes that are none ({e}): \
                     truncated, or another format",
                    self.bytes.len()
                ),
            )
        })
    }

    /// Names and shapes.
    ///
    /// # Errors
    /// As [`WeightsFile::open`].
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let view = self.view()?;
        let shapes = view
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec()));
        Ok(shapes.collect())
    }

    /// The file's own metadata.
    ///
    /// # Errors
    /// As [`WeightsFile::open`].
    pub fn metadata(&self) -> Result<HashMap<String, String>> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes)
            .map_err(|e| Error::file(&self.path, e.to_string()))?;
        Ok(metadata.metadata().clone().unwrap_or_default())
    }

    /// One tensor; floats of any width become f32, integers i64.
    ///
    /// # Errors
    /// [`Error::File`] if it is not there or not of a known type.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let view = self.view()?;
        let tensor = view
            .tensor(name)
            .map_err(|_| Error::file(&self.path, format!("no tensor is named {name:?}")))?;
        decode(&tensor).ok_or_else(|| {
            let message = format!(
                "{name}: expected a float or integer tensor, got {:?}",
                tensor.dtype()
            );
            Error::file(&self.path, message)
        })
    }

    /// All tensors.
    ///
    /// # Errors
    /// As [`WeightsFile::tensor`].
    pub fn tensors(&self) -> Result<Tensors> {
        let names = self.shapes()?.into_keys();
        names
            .map(|name| self.tensor(&name).map(|data| (name, data)))
            .collect()
    }
}

fn decode(tensor: &TensorView) -> Option<TensorData> {
    fn floats<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| value(*chunk)).collect()
    }
    fn integers<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Vec<i64> {
        let (chunks, _) = bytes.as_chunks::<N>();
        chunks.iter().map(|chunk| value(*chunk)).collect()
    }
    let (bytes, shape) = (tensor.data(), tensor.shape().to_vec());
    let floats = match tensor.dtype() {
        Dtype::F32 => floats(bytes, f32::from_le_bytes),
        Dtype::F64 => floats(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => floats(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => floats(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::I64 => return Some(TensorData::new(integers(bytes, i64::from_le_bytes), shape)),
        Dtype::I32 => {
            let values = integers(bytes, |b| i64::from(i32::from_le_bytes(b)));
            return Some(TensorData::new(values, shape));
        }
        Dtype::U8 => {
            let values = integers(bytes, |b| i64::from(u8::from_le_bytes(b)));
            return Some(TensorData::new(values, shape));
        }
        _ => return None,
    };
    Some(TensorData::new(floats, shape))
}

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
