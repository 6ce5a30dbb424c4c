//! Writes safetensors files atomically. [`crate::checkpoint`] reads them, like any other checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::files::{self, write_atomically};
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

/// Encodes tensors and metadata as the bytes of a safetensors file.
///
/// # Errors
/// A message if a tensor has an element type that is not supported.
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

/// Writes a safetensors file that does not fit into memory: the shapes are known first, the values of
/// all tensors are appended piece by piece. The file appears once it is complete.
pub struct Writer {
    path: PathBuf,
    file: NamedTempFile,
    /// Offset of the next value of each tensor, and of its end.
    places: BTreeMap<String, (u64, u64)>,
}

impl Writer {
    /// Begins a file with f32 tensors and i64 tensors of these shapes.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn create(
        path: &Path,
        floats: &BTreeMap<String, Vec<usize>>,
        integers: &BTreeMap<String, Vec<usize>>,
    ) -> Result<Self> {
        let (mut header, mut places, mut end) = (serde_json::Map::new(), BTreeMap::new(), 0);
        let columns = [("F32", 4, floats), ("I64", 8, integers)];
        // The wider elements come first, which aligns all tensors.
        for (dtype, width, shapes) in columns.into_iter().rev() {
            for (name, shape) in shapes {
                let start = end;
                end += width * shape.iter().product::<usize>() as u64;
                let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
                header.insert(name.clone(), entry);
                places.insert(name.clone(), (start, end));
            }
        }
        let mut header = serde_json::Value::Object(header).to_string();
        // Spaces pad the header, as the format allows, so that tensors begin at a multiple of
        // eight.
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let base = 8 + header.len() as u64;
        for (start, end) in places.values_mut() {
            (*start, *end) = (base + *start, base + *end);
        }
        let mut file = files::begin(path)?;
        let write = |file: &mut NamedTempFile| -> std::io::Result<()> {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            // The length is set at once, so that the values of all tensors can be written in any
            // order.
            file.as_file().set_len(base + end)
        };
        write(&mut file).map_err(Error::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            places,
        })
    }

    /// Appends values to a tensor, as little-endian bytes.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, for a full disk, say; [`Error::File`] if there is no such tensor or
    /// if it is full.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        let Some((next, _)) = self
            .places
            .get_mut(name)
            .filter(|(next, end)| next.checked_add(length).is_some_and(|after| after <= *end))
        else {
            let message = format!("{name}: {length} bytes exceed the size of the tensor");
            return Err(Error::file(&self.path, message));
        };
        let start = SeekFrom::Start(*next);
        *next += length;
        let file = &mut self.file;
        let written = file.seek(start).and_then(|_| file.write_all(bytes));
        written.map_err(Error::io(&self.path))
    }

    /// Moves the finished file to its path.
    ///
    /// # Errors
    /// [`Error::File`] if a tensor is not complete, [`Error::Io`] with the path.
    pub fn finish(self) -> Result<()> {
        let short = self.places.iter().find(|(_, (next, end))| next < end);
        if let Some((name, (next, end))) = short {
            let message = format!("{name}: {} bytes are missing", end - next);
            return Err(Error::file(&self.path, message));
        }
        files::finish(self.file, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn a_file_appears_once_all_its_tensors_are_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("grown.safetensors");
        let floats = BTreeMap::from([("b".to_owned(), vec![2, 2]), ("a".to_owned(), vec![2])]);
        let integers = BTreeMap::from([("labels".to_owned(), vec![2])]);
        let mut writer = Writer::create(&path, &floats, &integers).unwrap();
        for row in [1.0f32, 2.0] {
            writer.append("a", &row.to_le_bytes()).unwrap();
            let pair = [row.to_le_bytes(), (-row).to_le_bytes()].concat();
            writer.append("b", &pair).unwrap();
            assert!(!path.exists());
            let label = (row as i64).to_le_bytes();
            writer.append("labels", &label).unwrap();
        }
        assert!(writer.append("a", &[0; 4]).is_err());
        writer.finish().unwrap();
        let file = Checkpoint::open(&path).unwrap();
        let values = |name: &str| crate::params::floats(file.tensor(name).unwrap());
        assert_eq!(values("a"), [1.0, 2.0]);
        assert_eq!(values("b"), [1.0, -1.0, 2.0, -2.0]);
        assert_eq!(
            file.tensor("labels").unwrap().as_slice::<i64>().unwrap(),
            [1, 2]
        );

        let writer = Writer::create(&path, &floats, &integers).unwrap();
        let error = writer.finish().unwrap_err().to_string();
        assert!(error.contains("a: 8 bytes are missing"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
