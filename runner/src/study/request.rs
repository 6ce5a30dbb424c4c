//! The request to a study: its settings, its files, and the device that it runs on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::checkpoint::Checkpoint;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use crate::config::find::{self, Found};
use crate::config::resolve::unknown_field_hint;
use crate::config::set::set;
use crate::device::ComputeDevice;
use crate::exit::{At, Failure, config_error};

/// Files of tensors that take the place of a study's own data.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Activations of one network, or of two.
    pub features: Vec<PathBuf>,
    /// Attention weights.
    pub attention: Option<PathBuf>,
    /// Tensors of a small model.
    pub tensors: Option<PathBuf>,
    /// Logits and labels.
    pub logits: Option<PathBuf>,
}

impl Files {
    /// The flags of the files that are given.
    pub fn given(&self) -> Vec<&'static str> {
        let flags = [
            ("features", !self.features.is_empty()),
            ("attention", self.attention.is_some()),
            ("tensors", self.tensors.is_some()),
            ("logits", self.logits.is_some()),
        ];
        let given = flags.into_iter().filter(|(_, given)| *given);
        given.map(|(flag, _)| flag).collect()
    }
}

/// The request to a study.
pub struct Request<'a> {
    /// The study's name.
    pub study: &'static str,
    /// The configuration: a path, or a name under `configs/`.
    pub config: Option<&'a str>,
    /// The shipped configuration that takes its place where none is given.
    pub default: Option<&'a str>,
    /// Overrides, each `field=value`.
    pub set: &'a [String],
    /// Files in the place of the study's own data.
    pub files: &'a Files,
    /// Whether only the plan is wanted.
    pub dry_run: bool,
    /// The folder of all runs.
    pub runs: &'a Path,
    /// The folder of the prefix cache's files.
    pub cache: &'a Path,
    /// The device.
    pub device: &'a ComputeDevice,
    /// Set to stop after the current step.
    pub interrupt: Arc<AtomicBool>,
}

impl Request<'_> {
    /// The settings as a document, and the name of its file: the configuration with its overrides.
    ///
    /// # Errors
    /// If there is no such file, it belongs to another study, or an override is wrong.
    pub fn document(&self) -> Result<(String, Value), Failure> {
        let (place, stem, mut value) = match self.config.or(self.default) {
            None => {
                let empty = Value::Mapping(Mapping::new());
                ("--set".to_owned(), self.study.to_owned(), empty)
            }
            Some(name) => {
                let Found {
                    origin,
                    stem,
                    value,
                } = find::find(name)?;
                (origin, stem, value)
            }
        };
        let Value::Mapping(map) = &mut value else {
            let message = format!("{place}: expected a mapping with the study's settings");
            return Err(config_error(message));
        };
        if let Some(of) = map.remove("study")
            && of.as_str() != Some(self.study)
        {
            let of = of.as_str().unwrap_or("another study");
            let message = format!(
                "{place}: study: expected {}, got a file of {of}",
                self.study
            );
            return Err(config_error(message));
        }
        for text in self.set {
            set(&mut value, text)?;
        }
        Ok((stem, value))
    }

    /// The typed settings.
    ///
    /// # Errors
    /// As [`document`](Self::document), or the dotted path of a field that is wrong.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let (origin, value) = self.document()?;
        typed(value, &origin)
    }
}

/// Takes the keys of a study out of the document of a comparison.
pub fn taken(document: &mut Value, keys: &[&str]) -> Value {
    let mut own = Mapping::new();
    if let Value::Mapping(map) = document {
        for key in keys {
            if let Some(value) = map.remove(*key) {
                own.insert((*key).into(), value);
            }
        }
    }
    Value::Mapping(own)
}

/// Settings of a document.
///
/// # Errors
/// The dotted path of a field that is wrong.
pub fn typed<T: DeserializeOwned>(value: Value, origin: &str) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let message = e.into_inner().to_string();
        let hint = unknown_field_hint(&message);
        config_error(match path.as_str() {
            "." => format!("{origin}: {message}{hint}"),
            path => format!("{origin}: {path}: {message}{hint}"),
        })
    })
}

/// A tensor in double precision.
pub struct Doubles {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f64>,
}

/// A file of tensors.
pub struct TensorFile(Checkpoint);

impl TensorFile {
    /// Opens a file of tensors.
    ///
    /// # Errors
    /// If it does not exist or cannot be read.
    pub fn open(flag: &str, path: &Path) -> Result<Self, Failure> {
        Checkpoint::open(path).map(Self).at(flag)
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.names()
    }

    /// The file's path, for messages.
    pub fn path(&self) -> std::path::Display<'_> {
        self.0.path().display()
    }

    /// A tensor.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn get(&self, name: &str) -> Result<Doubles, Failure> {
        let (shape, values) = self.0.doubles(name).map_err(config_error)?;
        Ok(Doubles { shape, values })
    }

    /// A tensor of that shape.
    ///
    /// # Errors
    /// If there is none of that name, or it has another shape.
    pub fn shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, Failure> {
        let found = self.get(name)?;
        if found.shape == shape {
            return Ok(found.values);
        }
        let message = format!(
            "{}: {name}: expected {shape:?}, got {:?}",
            self.path(),
            found.shape
        );
        Err(config_error(message))
    }

    /// The tensors `stem.0`, `stem.1`, .. in the order of their numbers.
    ///
    /// # Errors
    /// If there is none.
    pub fn numbered(&self, stem: &str) -> Result<Vec<(usize, String)>, Failure> {
        let number = |name: &str| name.strip_prefix(stem)?.strip_prefix('.')?.parse().ok();
        let names = self.names();
        let mut found: Vec<(usize, String)> = names
            .filter_map(|name| Some((number(name)?, name.to_owned())))
            .collect();
        found.sort();
        if found.is_empty() {
            let message = format!(
                "{}: expected tensors {stem}.0, {stem}.1, .., found none",
                self.path()
            );
            return Err(config_error(message));
        }
        Ok(found)
    }
}
