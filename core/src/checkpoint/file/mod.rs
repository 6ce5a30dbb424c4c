//! A checkpoint of any known format.

mod bytes;
mod shards;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;

use super::entry::{Bytes, Element, Entry};
use super::prefix::{WRAPPERS, without_wrappers};
use super::sets::WeightsSet;
use super::{npz, safetensors, torch};
use crate::error::{Error, Result, listed};
use crate::image_size::ImageSize;
use crate::params::Tensors;
use bytes::{FileBytes, PIECE};

/// A checkpoint of any known format, open and checked.
pub struct Checkpoint {
    path: PathBuf,
    format: &'static str,
    files: Vec<FileBytes>,
    entries: BTreeMap<String, (usize, Entry)>,
    metadata: HashMap<String, String>,
    foreign: BTreeSet<String>,
    /// The sets of weights that the file holds, the one that is read first; none if the format knows
    /// one only.
    sets: Vec<WeightsSet>,
    /// Keys whose values are not tensors, with what they are.
    others: BTreeMap<String, String>,
    /// Keys of the file beside its sets of weights, with what they hold.
    beside: BTreeMap<String, String>,
    /// What was chosen of the file, if not all of it: part of its hash.
    chosen: String,
    /// The size of the images that the weights belong to, as a file beside them states it.
    image_size: Option<ImageSize>,
    remarks: Vec<String>,
}

impl Checkpoint {
    /// Opens a file, or a sharded checkpoint by its `.index.json`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::File`] if it is damaged or of an unknown
    /// format.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_set(path, None)
    }

    /// Opens the part of a file that a configuration names.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; [`Error::File`] with all keys if there is no set of weights under
    /// `key`, or if no name begins with `prefix`.
    pub fn open_part(path: &Path, key: Option<&str>, prefix: Option<&str>) -> Result<Self> {
        Self::open_set(path, key)?.part(prefix)
    }

    /// With the size of the images that the weights belong to, as a file beside them states it: the
    /// number of their positions does not show a grid's aspect.
    pub fn with_image_size(mut self, size: Option<ImageSize>) -> Self {
        self.image_size = size;
        self
    }

    /// The size of the images that the weights belong to, if it is known.
    pub fn image_size(&self) -> Option<ImageSize> {
        self.image_size
    }

    fn part(self, prefix: Option<&str>) -> Result<Self> {
        match prefix {
            Some(prefix) => self.below(prefix),
            None => Ok(self),
        }
    }

    fn open_set(path: &Path, key: Option<&str>) -> Result<Self> {
        if !path.to_string_lossy().ends_with(".index.json") {
            return Self::of(path, FileBytes::map(path)?, key);
        }
        match key {
            Some(key) => Err(one_set(path, key)),
            None => Self::sharded(path),
        }
    }

    /// The tensors whose names begin with `prefix`, under the rest of their names.
    fn below(mut self, prefix: &str) -> Result<Self> {
        let outside = self.entries.keys().filter(|name| !name.starts_with(prefix));
        let outside: Vec<_> = outside.cloned().collect();
        if outside.len() == self.entries.len() {
            let message = format!("no name begins with {prefix:?}: {}", listed(&outside, 6));
            return Err(Error::file(&self.path, message));
        }
        if !outside.is_empty() {
            let (count, names) = (outside.len(), listed(&outside, 6));
            let left =
                format!("{count} keys do not begin with {prefix:?} and are not read: {names}");
            self.remarks.push(left);
        }
        let bare = |name: String| name.strip_prefix(prefix).map(str::to_owned);
        let entries = self.entries.into_iter();
        self.entries = entries
            .filter_map(|(name, entry)| Some((bare(name)?, entry)))
            .collect();
        let others = self.others.into_iter();
        self.others = others
            .filter_map(|(name, what)| Some((bare(name)?, what)))
            .collect();
        self.chosen = format!("{}\n{prefix}", self.chosen);
        Ok(self)
    }

    /// Opens a file that is bundled in the binary.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn bundled(name: &str, content: &'static [u8]) -> Result<Self> {
        Self::bundled_part(name, content, None, None)
    }

    /// Opens a part of a file that is bundled in the binary.
    ///
    /// # Errors
    /// As [`Checkpoint::open_part`].
    pub fn bundled_part(
        name: &str,
        content: &'static [u8],
        key: Option<&str>,
        prefix: Option<&str>,
    ) -> Result<Self> {
        Self::of(Path::new(name), FileBytes::Static(content), key)?.part(prefix)
    }

    fn of(path: &Path, file: FileBytes, key: Option<&str>) -> Result<Self> {
        let bytes: &[u8] = &file;
        let at = |message: String| Error::file(path, message);
        // The content decides; the ending only tells NumPy's zips from PyTorch's.
        let is_zip = bytes.starts_with(b"PK\x03\x04");
        let npz = path.extension().is_some_and(|ending| ending == "npz");
        let (mut metadata, mut foreign) = (HashMap::new(), BTreeSet::new());
        let (mut sets, mut others, mut beside) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let (is_torch, key) = (!npz && is_zip || torch::is_legacy(bytes), key);
        if let Some(key) = key.filter(|_| !is_torch) {
            return Err(one_set(path, key));
        }
        let (mut members, mut unchecked) = (Vec::new(), 0);
        let (format, entries) = if is_zip && npz {
            let (entries, read) = npz::entries(bytes).map_err(at)?;
            members = read;
            ("npz", entries)
        } else if is_torch {
            let contents = torch::contents(bytes, key).map_err(at)?;
            (foreign, others) = (contents.foreign, contents.others);
            beside = contents.beside;
            members = contents.members;
            sets = contents.sets.into_list();
            ("pytorch", contents.entries)
        } else {
            let (entries, own) = safetensors::contents(bytes).map_err(at)?;
            metadata = own;
            ("safetensors", entries)
        };
        for member in &members {
            match member.checked(bytes, PIECE, |range| file.release(range)) {
                Ok(true) => {}
                Ok(false) => unchecked += 1,
                Err(message) => return Err(at(message)),
            }
        }
        let (mut chosen, mut remarks) = (String::new(), Vec::new());
        if unchecked > 0 {
            remarks.push(format!(
                "{unchecked} of the {} parts of the file that are read have no checksum, so that damage to \
                 them cannot be seen",
                members.len()
            ));
        }
        let (entries, unwrapped) = without_wrappers(entries);
        if unwrapped > 0 {
            let wrappers = WRAPPERS.join(" or ");
            remarks.push(format!(
                "{unwrapped} names have {wrappers} in the middle, which is left out"
            ));
        }
        let entries = entries.into_iter().map(|(name, entry)| (name, (0, entry)));
        if let [first, rest @ ..] = &sets[..]
            && !rest.is_empty()
        {
            chosen = first.key.clone();
            let rest: Vec<_> = rest.iter().map(WeightsSet::to_string).collect();
            let rest = listed(&rest, 6);
            remarks.push(format!(
                "the weights are {first}; the file also holds {rest}: `weights: {{path: .., key: ..}}` chooses"
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            format,
            entries: entries.collect(),
            files: vec![file],
            metadata,
            foreign,
            sets,
            others,
            beside,
            chosen,
            image_size: None,
            remarks,
        })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `safetensors`, `pytorch` or `npz`.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// BLAKE3 of the content, in hex; also of the key or prefix if the file holds more than what is
    /// read.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            for start in (0..file.len()).step_by(PIECE) {
                let range = start..file.len().min(start + PIECE);
                hasher.update(&file[range.clone()]);
                // Hashing touches every page; a file may be larger than memory.
                file.release(range);
            }
        }
        hasher.update(self.chosen.as_bytes());
        hasher.finalize().to_hex().to_string()
    }

    /// The metadata of a safetensors file; empty for other formats.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The functions and classes that a pickle names and that have nothing to do with tensors, as
    /// `module.name` in alphabetical order. None of them was called: no reader here calls anything.
    /// Other formats name none.
    pub fn named_functions(&self) -> impl Iterator<Item = &str> {
        self.foreign.iter().map(String::as_str)
    }

    /// The sets of weights that the file holds, the one that is read first. Empty if the format knows one
    /// only.
    pub fn sets(&self) -> &[WeightsSet] {
        &self.sets
    }

    /// The keys beside the tensors whose values are not tensors, with what they are.
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let others = self.others.iter();
        others.map(|(name, what)| (name.as_str(), what.as_str()))
    }

    /// The keys of the file beside its sets of weights, with what they hold.
    pub fn beside(&self) -> impl Iterator<Item = (&str, &str)> {
        let beside = self.beside.iter();
        beside.map(|(name, what)| (name.as_str(), what.as_str()))
    }

    /// Facts about what is read that the user should know.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of the tensor of that name, if there is one.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.entries.get(name)?.1.shape)
    }

    /// The element type of a tensor, as safetensors names it: `F32`, `BF16`, `I64`.
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

    /// Total size of its files in bytes.
    pub fn bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).sum()
    }

    /// The values of a tensor, row-major: floats of any width become f32, integers i64.
    ///
    /// # Errors
    /// [`Error::File`] if there is no tensor of that name.
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

    /// The shape and the values of a tensor in double precision: what a file stores as `f64` loses nothing.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn doubles(&self, name: &str) -> Result<(Vec<usize>, Vec<f64>)> {
        let unknown = || Error::file(&self.path, format!("no tensor is named {name:?}"));
        let (file, entry) = self.entries.get(name).ok_or_else(unknown)?;
        Ok((entry.shape.clone(), entry.doubles(&self.files[*file])))
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

/// The error for a key in a file whose format knows one set of weights.
fn one_set(path: &Path, key: &str) -> Error {
    let message = format!(
        "expected no key, because only PyTorch's files hold several sets of weights under keys, got {key:?}"
    );
    Error::file(path, message)
}

#[cfg(test)]
mod tests;
