//! Writing safetensors, whole or not at all. Reading them, as any other checkpoint, is
//! [`crate::checkpoint`]'s.

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

/// A safetensors file whose tensors grow side by side, for more than memory holds: their shapes are
/// known first, their values come piece by piece. It is there once it is whole.
pub struct Writer {
    path: PathBuf,
    file: NamedTempFile,
    /// Where each tensor goes on, and where it ends.
    places: BTreeMap<String, (u64, u64)>,
}

impl Writer {
    /// Begins a file of f32 tensors of these shapes, and of i64 ones.
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
        // Wide elements first, so that all are aligned.
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
        header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
        let base = 8 + header.len() as u64;
        for (start, end) in places.values_mut() {
            (*start, *end) = (base + *start, base + *end);
        }
        let mut file = files::begin(path)?;
        let write = |file: &mut NamedTempFile| -> std::io::Result<()> {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            file.as_file().set_len(base + end)
        };
        write(&mut file).map_err(Error::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            places,
        })
    }

    /// The next values of a tensor, little-endian.
    ///
    /// # Errors
    /// [`Error::Io`] with the path: a full disk; [`Error::File`] if there is no such tensor or it is
    /// full.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let length = bytes.len() as u64;
        let Some((next, _)) = self
            .places
            .get_mut(name)
            .filter(|(next, end)| next.checked_add(length).is_some_and(|after| after <= *end))
        else {
            let message = format!("{name}: {length} bytes more than were said");
            return Err(Error::file(&self.path, message));
        };
        let start = SeekFrom::Start(*next);
        *next += length;
        let file = &mut self.file;
        let written = file.seek(start).and_then(|_| file.write_all(bytes));
        written.map_err(Error::io(&self.path))
    }

    /// Makes the file appear.
    ///
    /// # Errors
    /// [`Error::File`] if a tensor is not full, [`Error::Io`] with the path.
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
    fn tensors_that_grow_side_by_side_are_a_file_once_they_are_whole() {
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
