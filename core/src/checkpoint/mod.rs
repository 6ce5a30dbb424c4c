//! Checkpoints as they are published: safetensors (one file, or several with an index), PyTorch's
//! `.pth`, `.pt` and `.bin`, NumPy's `.npz`.
//!
//! Files are mapped into memory and tensors decoded one at a time. Nothing in a file is run, and
//! every size that it claims is held against the bytes that are there.

mod load;
mod npz;
mod pickle;
mod recognise;
mod torch;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::params::Tensors;

pub use load::{CheckpointHead, Loaded, Survey, load_backbone};
pub use recognise::{Recognised, Shapes, recognise};

/// A checkpoint of any known format, open and checked.
pub struct Checkpoint {
    path: PathBuf,
    format: &'static str,
    files: Vec<FileBytes>,
    entries: BTreeMap<String, (usize, Entry)>,
    metadata: HashMap<String, String>,
}

/// Bytes that are hashed at once.
const HASHED: usize = 16 << 20;

/// A file's bytes: mapped into memory, or inside the binary.
enum FileBytes {
    Map(memmap2::Mmap),
    Static(&'static [u8]),
}

impl FileBytes {
    /// Maps a file.
    fn map(path: &Path) -> Result<Self> {
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

impl FileBytes {
    /// Says that these bytes are not needed soon: mapped pages that were read count as this
    /// process's memory until then.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Map(map) = self {
            // SAFETY: the map is of a file, never written: a page that is read again is the same.
            let advised = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            // Only memory is at stake, which stays as it is where the advice is not taken.
            drop(advised);
        }
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

/// Where a tensor's values are.
#[derive(Clone, Debug)]
struct Entry {
    element: Element,
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    /// First element.
    offset: usize,
    bytes: Bytes,
}

/// Bytes of a file, or what was decompressed from it.
#[derive(Clone, Debug)]
enum Bytes {
    In(Range<usize>),
    Own(Arc<[u8]>),
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// Byte.
    U8,
    /// Truth value, a byte.
    Bool,
}

impl Element {
    /// Bytes of one.
    fn width(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

impl Checkpoint {
    /// Opens a file, or a sharded checkpoint by its `.index.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::File`] if it is not whole or of no known format.
    pub fn open(path: &Path) -> Result<Self> {
        if path.to_string_lossy().ends_with(".index.json") {
            return Self::sharded(path);
        }
        Self::of(path, FileBytes::map(path)?)
    }

    /// A file that is inside the binary.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn bundled(name: &str, content: &'static [u8]) -> Result<Self> {
        Self::of(Path::new(name), FileBytes::Static(content))
    }

    fn of(path: &Path, file: FileBytes) -> Result<Self> {
        let bytes: &[u8] = &file;
        let at = |message: String| Error::file(path, message);
        let is_zip = bytes.starts_with(b"PK\x03\x04");
        let npz = path.extension().is_some_and(|ending| ending == "npz");
        let mut metadata = HashMap::new();
        let (format, entries) = if is_zip && npz {
            ("npz", npz::entries(bytes).map_err(at)?)
        } else if is_zip || torch::is_legacy(bytes) {
            ("pytorch", torch::entries(bytes).map_err(at)?)
        } else {
            let (entries, own) = safetensors(bytes).map_err(at)?;
            metadata = own;
            ("safetensors", entries)
        };
        let entries = entries.into_iter().map(|(name, entry)| (name, (0, entry)));
        Ok(Self {
            path: path.to_owned(),
            format,
            entries: entries.collect(),
            files: vec![file],
            metadata,
        })
    }

    /// The files that an index names, beside it.
    fn sharded(path: &Path) -> Result<Self> {
        let at = |message: String| Error::file(path, message);
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let index: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| at(format!("expected JSON: {e}")))?;
        let map = index["weight_map"].as_object();
        let map = map.ok_or_else(|| at("expected a weight_map of tensors to files".to_owned()))?;
        let mut shards: BTreeMap<&str, Self> = BTreeMap::new();
        for file in map.values() {
            let name = file.as_str().unwrap_or_default();
            let plain = Path::new(name).file_name().is_some_and(|own| own == name);
            if !plain {
                return Err(at(format!(
                    "expected the name of a file beside it, got {file}"
                )));
            }
            if !shards.contains_key(name) {
                shards.insert(name, Self::open(&path.with_file_name(name))?);
            }
        }
        let (mut files, mut entries, mut format) = (Vec::new(), BTreeMap::new(), "safetensors");
        for (file, shard) in shards {
            format = shard.format;
            for (name, (_, entry)) in shard.entries {
                if map.get(&name).and_then(|own| own.as_str()) != Some(file) {
                    return Err(at(format!(
                        "{file} holds {name}, which the index does not say"
                    )));
                }
                entries.insert(name, (files.len(), entry));
            }
            files.extend(shard.files);
        }
        match map.keys().find(|name| !entries.contains_key(*name)) {
            Some(name) => Err(at(format!("{} lacks {name}", map[name]))),
            None => Ok(Self {
                path: path.to_owned(),
                format,
                files,
                entries,
                metadata: HashMap::new(),
            }),
        }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `safetensors`, `pytorch` or `npz`.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// BLAKE3 of the content, in hex.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            for start in (0..file.len()).step_by(HASHED) {
                let range = start..file.len().min(start + HASHED);
                hasher.update(&file[range.clone()]);
                file.release(range);
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// What a safetensors file says of itself; nothing for other formats.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.entries.get(name)?.1.shape)
    }

    /// Elements of a tensor, as safetensors calls them: `F32`, `BF16`, `I64`.
    pub fn dtype(&self, name: &str) -> Option<&'static str> {
        Some(match self.entries.get(name)?.1.element {
            Element::F64 => "F64",
            Element::F32 => "F32",
            Element::F16 => "F16",
            Element::BF16 => "BF16",
            Element::I64 => "I64",
            Element::I32 => "I32",
            Element::I16 => "I16",
            Element::I8 => "I8",
            Element::U8 => "U8",
            Element::Bool => "BOOL",
        })
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).sum()
    }

    /// One tensor, row-major: floats of any width become f32, integers i64.
    ///
    /// # Errors
    /// [`Error::File`] if it is not there.
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let (file, entry) = self
            .entries
            .get(name)
            .ok_or_else(|| Error::file(&self.path, format!("no tensor is named {name:?}")))?;
        let file = &self.files[*file];
        let data = entry.data(file);
        if let Bytes::In(range) = &entry.bytes {
            file.release(range.clone());
        }
        Ok(data)
    }

    /// All tensors.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn tensors(&self) -> Result<Tensors> {
        let all = self.entries.keys();
        all.map(|name| Ok((name.clone(), self.tensor(name)?)))
            .collect()
    }
}

impl Entry {
    fn data(&self, file: &[u8]) -> TensorData {
        let bytes = self.bytes.of(file);
        let floats = match self.element {
            Element::F64 => self.decode(bytes, |b| f64::from_le_bytes(b) as f32),
            Element::F32 => self.decode(bytes, f32::from_le_bytes),
            Element::F16 => self.decode(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Element::BF16 => self.decode(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => {
                let integers = match self.element {
                    Element::I64 => self.decode(bytes, i64::from_le_bytes),
                    Element::I32 => self.decode(bytes, |b| i64::from(i32::from_le_bytes(b))),
                    Element::I16 => self.decode(bytes, |b| i64::from(i16::from_le_bytes(b))),
                    Element::I8 => self.decode(bytes, |b| i64::from(i8::from_le_bytes(b))),
                    _ => self.decode(bytes, |b| i64::from(u8::from_le_bytes(b))),
                };
                return TensorData::new(integers, self.shape.clone());
            }
        };
        TensorData::new(floats, self.shape.clone())
    }

    fn decode<const N: usize, T>(&self, bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
        let (elements, _) = bytes.as_chunks::<N>();
        let count = self.shape.iter().product::<usize>();
        let mut dense = 1;
        let contiguous = self.shape.iter().zip(&self.strides).rev().all(|(n, s)| {
            let fits = *n == 1 || *s == dense;
            dense *= n;
            fits
        });
        if contiguous {
            let own = elements.iter().skip(self.offset).take(count);
            return own.map(|element| value(*element)).collect();
        }
        let mut index = vec![0; self.shape.len()];
        (0..count)
            .map(|_| {
                let steps = index.iter().zip(&self.strides);
                let at = self.offset + steps.map(|(i, stride)| i * stride).sum::<usize>();
                for axis in (0..index.len()).rev() {
                    index[axis] += 1;
                    if index[axis] < self.shape[axis] {
                        break;
                    }
                    index[axis] = 0;
                }
                value(elements[at])
            })
            .collect()
    }
}

/// Tensors by name, and what the file says of itself.
type Contents = (BTreeMap<String, Entry>, HashMap<String, String>);

fn safetensors(bytes: &[u8]) -> Result<Contents, String> {
    if bytes.is_empty() {
        return Err("expected a checkpoint, the file is empty".to_owned());
    }
    // Holds offsets and lengths against the bytes.
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| {
        format!(
            "expected a whole safetensors file, got {} bytes that are none ({e}): truncated, or \
             another format",
            bytes.len()
        )
    })?;
    if let Some(name) = repeated(&bytes[8..8 + header]) {
        return Err(format!("its header names {name:?} twice"));
    }
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        let element = match info.dtype {
            Dtype::F64 => Element::F64,
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::BF16,
            Dtype::I64 => Element::I64,
            Dtype::I32 => Element::I32,
            Dtype::I16 => Element::I16,
            Dtype::I8 => Element::I8,
            Dtype::U8 => Element::U8,
            Dtype::BOOL => Element::Bool,
            other => return Err(format!("{name}: elements of type {other:?} are not read")),
        };
        let mut strides = vec![1; info.shape.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * info.shape[axis];
        }
        // Behind the header and its eight bytes of length.
        let base = header + 8;
        let (start, end) = info.data_offsets;
        let entry = Entry {
            element,
            shape: info.shape.clone(),
            strides,
            offset: 0,
            bytes: Bytes::In(base + start..base + end),
        };
        entries.insert(name, entry);
    }
    Ok((entries, metadata.metadata().clone().unwrap_or_default()))
}

/// A name that stands twice in a header, of which a map would keep the last.
fn repeated(header: &[u8]) -> Option<String> {
    struct Names(Option<String>);
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a map")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            mut self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut seen = std::collections::BTreeSet::new();
            while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if !seen.insert(name.clone()) {
                    self.0 = Some(name);
                }
            }
            Ok(self.0)
        }
    }
    let mut header = serde_json::Deserializer::from_slice(header);
    serde::Deserializer::deserialize_map(&mut header, Names(None)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(header: &str, bytes: usize) -> Result<Checkpoint> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let length = (header.len() as u64).to_le_bytes();
        let content = [&length[..], header.as_bytes(), &vec![0; bytes]].concat();
        std::fs::write(&path, content).unwrap();
        Checkpoint::open(&path)
    }

    #[test]
    fn a_header_is_held_against_the_file() {
        let entry = |start: usize, end: usize| {
            format!(r#"{{"dtype": "F32", "shape": [1], "data_offsets": [{start}, {end}]}}"#)
        };
        let (first, second) = (entry(0, 4), entry(4, 8));
        let good = format!(r#"{{"a": {first}, "b": {second}}}"#);
        assert_eq!(opened(&good, 8).unwrap().names().count(), 2);
        let twice = format!(r#"{{"a": {second}, "b": {first}, "a": {second}}}"#);
        let overlapping = format!(r#"{{"a": {first}, "b": {}}}"#, entry(2, 6));
        let huge = r#"{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}"#;
        for (header, expected) in [
            (twice.as_str(), "\"a\" twice"),
            (&overlapping, "expected a whole safetensors file"),
            (huge, "expected a whole safetensors file"),
        ] {
            let error = opened(header, 8).err().unwrap().to_string();
            assert!(error.contains(expected), "{header}: {error}");
        }
    }
}
