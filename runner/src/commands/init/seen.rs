//! A data set that was recognised, and what recognising any kind of them needs.

use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use crate::exit::{Failure, config_error};

/// A data set that was recognised.
pub struct Seen {
    /// The kind of data, in words.
    pub kind: &'static str,
    /// Its configuration.
    pub dataset: Value,
    /// Remarks for the reader of the YAML, one line each.
    pub remarks: Vec<String>,
}

impl Seen {
    /// A data set of a format, with its root.
    pub fn new(kind: &'static str, format: &str, root: &Path) -> Self {
        let root = root.display().to_string();
        let fields = [("name", format.to_owned()), ("root", root)];
        let fields = fields.map(|(key, value)| (Value::from(key), Value::from(value)));
        Self {
            kind,
            dataset: Value::Mapping(Mapping::from_iter(fields)),
            remarks: Vec::new(),
        }
    }

    /// Adds a field.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Value::Mapping(fields) = &mut self.dataset {
            fields.insert(key.into(), value.into());
        }
        self
    }

    /// Adds a remark.
    pub fn remark(mut self, line: impl Into<String>) -> Self {
        self.remarks.push(line.into());
        self
    }
}

/// The part of each class that tests where the data do not say which images do.
pub const TEST_PART: f64 = 0.2;

/// Names of columns of labels, the usual ones first.
pub const LABELS: [&str; 12] = [
    "label",
    "labels",
    "class",
    "class_id",
    "classid",
    "category",
    "target",
    "species",
    "y",
    "fine_label",
    "diagnosis",
    "dx",
];

/// The extension of a file, in lower case.
pub fn extension(path: &Path) -> String {
    let extension = path.extension().unwrap_or_default();
    extension.to_string_lossy().to_lowercase()
}

/// The files right in a folder, sorted; hidden ones are left out.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    entries(folder, |path| path.is_file())
}

/// The folders right in a folder, sorted; hidden ones are left out.
pub fn folders(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    entries(folder, |path| path.is_dir())
}

fn entries(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).map_err(config_error)? {
        let entry = entry.map_err(config_error)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
