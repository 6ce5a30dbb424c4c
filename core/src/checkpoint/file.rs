//! A checkpoint of any known format.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;

use super::entry::{Bytes, Element, Entry};
use super::sets::WeightsSet;
use super::{npz, safetensors, torch};
use crate::error::{Error, Result, listed};
use crate::params::Tensors;

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
    remarks: Vec<String>,
}

/// Number of bytes that are hashed at once.
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
        // An empty file cannot be mapped.
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
    /// Tells the system that these bytes are not needed soon. Mapped pages that were read otherwise count
    /// as memory of this process.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Map(map) = self {
            // SAFETY: the map is backed by a file and never written, so a page that is dropped is read
            // again with the same content.
            let advised = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            // Without effect if the system does not take the advice; the content is the same either way.
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
        let (format, entries) = if is_zip && npz {
            ("npz", npz::entries(bytes).map_err(at)?)
        } else if is_torch {
            let contents = torch::contents(bytes, key).map_err(at)?;
            (foreign, others) = (contents.foreign, contents.others);
            beside = contents.beside;
            sets = contents.sets.into_list();
            ("pytorch", contents.entries)
        } else {
            let (entries, own) = safetensors::contents(bytes).map_err(at)?;
            metadata = own;
            ("safetensors", entries)
        };
        let (mut chosen, mut remarks) = (String::new(), Vec::new());
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
            remarks,
        })
    }

    /// Opens the files that an index names; they lie beside it.
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
            // An index must not lead to files elsewhere on the disk.
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
        let (mut foreign, mut others) = (BTreeSet::new(), BTreeMap::new());
        for (file, shard) in shards {
            format = shard.format;
            foreign.extend(shard.foreign);
            others.extend(shard.others);
            for (name, (_, entry)) in shard.entries {
                if map.get(&name).and_then(|own| own.as_str()) != Some(file) {
                    return Err(at(format!(
                        "{file} holds {name}, which the index does not list"
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
                foreign,
                sets: Vec::new(),
                others,
                beside: BTreeMap::new(),
                chosen: String::new(),
                remarks: Vec::new(),
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

    /// BLAKE3 of the content, in hex; also of the key or prefix if the file holds more than what is
    /// read.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            for start in (0..file.len()).step_by(HASHED) {
                let range = start..file.len().min(start + HASHED);
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

/// The modules that PyTorch puts around others in the middle of a model: `torch.compile` of a block,
/// sharding, activation checkpointing.
const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// The entries without wrappers in the middle of their names, and how many there were; unchanged if two
/// names would be the same.
fn without_wrappers(entries: BTreeMap<String, Entry>) -> (BTreeMap<String, Entry>, usize) {
    // What all names begin with, and the part after it, are left for the search of a prefix. The names
    // are sorted, so the first and the last have nothing in common that the others lack.
    let (first, last) = (entries.first_key_value(), entries.last_key_value());
    let ends = first.zip(last).map(|((first, _), (last, _))| {
        let pairs = first.bytes().zip(last.bytes());
        let same = pairs.take_while(|(a, b)| a == b).count();
        first.as_bytes()[..same]
            .iter()
            .rposition(|byte| *byte == b'.')
    });
    let start = ends.flatten().map_or(0, |dot| dot + 1);
    let bare = |name: &String| {
        let parts = name[start..].split('.').enumerate();
        let own = parts.filter(|(place, part)| *place == 0 || !WRAPPERS.contains(part));
        let own: Vec<_> = own.map(|(_, part)| part).collect();
        format!("{}{}", &name[..start], own.join("."))
    };
    let wrapped = entries.keys().filter(|name| bare(name) != **name).count();
    let renamed = entries.iter().map(|(name, entry)| (bare(name), entry));
    let renamed: BTreeMap<_, _> = renamed.collect();
    if wrapped == 0 || renamed.len() < entries.len() {
        return (entries, 0);
    }
    let renamed = renamed.into_iter();
    let owned = renamed.map(|(name, entry)| (name, entry.clone()));
    (owned.collect(), wrapped)
}

/// The error for a key in a file whose format knows one set of weights.
fn one_set(path: &Path, key: &str) -> Error {
    let message = format!(
        "expected no key, because only PyTorch's files hold several sets of weights under keys, got {key:?}"
    );
    Error::file(path, message)
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

    /// `{"w": tensor, "x": posix.system("true")}` as `torch.save` would write it.
    const NAMES_A_FUNCTION: &[u8] = b"}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(\
        (X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ\
        K\0K\x01\x85K\x01\x85\x89NtR\
        X\x01\0\0\0xcposix\nsystem\nX\x04\0\0\0true\x85Ru.";

    #[test]
    fn a_pickle_that_names_a_function_is_read_without_calling_it_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pth");
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
        let stored = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        for (name, bytes) in [
            ("model/data.pkl", NAMES_A_FUNCTION),
            ("model/data/0", &2.5f32.to_le_bytes()),
        ] {
            archive.start_file(name, stored).unwrap();
            std::io::Write::write_all(&mut archive, bytes).unwrap();
        }
        archive.finish().unwrap();
        let file = Checkpoint::open(&path).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["w"]);
        assert_eq!(crate::params::floats(file.tensor("w").unwrap()), [2.5]);
        assert_eq!(file.named_functions().collect::<Vec<_>>(), ["posix.system"]);
    }

    #[test]
    fn a_header_is_checked_against_the_file() {
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
            (&overlapping, "expected a safetensors file"),
            (huge, "expected a safetensors file"),
        ] {
            let error = opened(header, 8).err().unwrap().to_string();
            assert!(error.contains(expected), "{header}: {error}");
        }
    }
}
