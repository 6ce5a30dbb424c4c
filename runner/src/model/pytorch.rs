//! The folder in which a trained adapter goes to PyTorch, and from which it comes back.
//!
//! | file | content |
//! |---|---|
//! | `adapter.safetensors` | what was trained, head included: the run's own adapter file |
//! | `constants.safetensors` | what the formulas of the configuration name besides, such as VeRA's frozen pair; only if there is any |
//! | `config.json` | [`PyTorch`] and the model's [`Description`] |
//! | `README.md` | the model card |
//!
//! The Python package in `python/` applies the acts of the description to a timm or torchvision model.

use std::collections::HashMap;
use std::path::Path;

use peft_core::description::Description;
use peft_core::files::write_atomically;
use peft_core::input::InputSpec;
use peft_core::params::Tensors;
use peft_core::{AdaptationMethod, Model, adapter_file, weights};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::{Failure, config_error};

/// The file that holds what was trained, here and in a run folder.
pub const ADAPTER: &str = "adapter.safetensors";
/// The configuration's file.
pub const CONFIG: &str = "config.json";
/// The file of the values that training does not change.
pub const CONSTANTS: &str = "constants.safetensors";
/// The model card's file.
pub const CARD: &str = "README.md";

/// The name and version of the format, by which such a folder is told from others.
const FORMAT: &str = "peft-vision/1";

/// The part of the configuration that this program reads back.
#[derive(Deserialize)]
pub struct PyTorch {
    /// The methods with their names, in the order in which they act.
    pub method: Vec<Box<dyn AdaptationMethod>>,
}

impl PyTorch {
    /// The configuration in a folder; none if the folder is of another kind.
    ///
    /// # Errors
    /// If the file says that it is of this format, but cannot be read, or is of another version.
    pub fn find(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(CONFIG);
        let Ok(text) = std::fs::read_to_string(&path) else {
            return Ok(None);
        };
        let at = |e: &dyn std::fmt::Display| config_error(format_args!("{}: {e}", path.display()));
        let value: Value = serde_json::from_str(&text).map_err(|e| at(&e))?;
        let format = value["format"].as_str().unwrap_or_default();
        if !format.starts_with("peft-vision/") {
            return Ok(None);
        }
        if format != FORMAT {
            return Err(at(&format!("expected the format {FORMAT}, got {format}")));
        }
        serde_json::from_value(value).map(Some).map_err(|e| at(&e))
    }
}

/// A model that goes to PyTorch, with what its user must know.
pub struct Leaving<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its methods, in the order in which they act.
    pub methods: &'a [Box<dyn AdaptationMethod>],
    /// The backbone's configuration.
    pub backbone: &'a dyn peft_core::BackboneConfig,
    /// The hash of the backbone's weights file; absent for random weights.
    pub weights: Option<&'a str>,
    /// The classes' names, in the order of the logits.
    pub classes: &'a [String],
    /// Whether an image may show several classes, or none.
    pub multi_label: bool,
    /// The images that it takes.
    pub input: &'a InputSpec,
}

/// The files of a folder.
#[derive(Debug)]
pub struct Files {
    /// `adapter.safetensors`, with its description.
    pub adapter: (Tensors, adapter_file::AdapterInfo),
    /// `constants.safetensors`.
    pub constants: Tensors,
    /// `config.json`.
    pub config: Value,
}

/// `config.json` in the order of its fields.
#[derive(Serialize)]
struct Config<'a> {
    format: &'static str,
    program: String,
    backbone: Value,
    method: Value,
    input: &'a InputSpec,
    classes: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    multi_label: bool,
    description: Description,
}

impl Leaving<'_> {
    /// The files of the model's folder.
    ///
    /// # Errors
    /// [`peft_core::Error::Unfoldable`] for a method that does not describe its acts as data.
    pub fn files(&self) -> Result<Files, Failure> {
        let (description, constants) = Description::of(self.model)?;
        let config = Config {
            format: FORMAT,
            program: format!("runner {}", env!("CARGO_PKG_VERSION")),
            backbone: json!(self.backbone),
            method: json!(self.methods),
            input: self.input,
            classes: self.classes,
            multi_label: self.multi_label,
            description,
        };
        let weights = self.weights.map(str::to_owned);
        let info = adapter_file::AdapterInfo::of(self.model, weights, self.classes.to_vec())
            .with_multi_label(self.multi_label);
        Ok(Files {
            adapter: (adapter_file::tensors(self.model), info),
            constants,
            config: json!(config),
        })
    }
}

impl Files {
    /// Writes the files into a folder, the configuration last.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub fn write(&self, folder: &Path, card: &str) -> Result<(), Failure> {
        fs_err::create_dir_all(folder).map_err(|e| config_error(format_args!("--out: {e}")))?;
        let (tensors, info) = &self.adapter;
        adapter_file::write(&folder.join(ADAPTER), tensors, info)?;
        if !self.constants.is_empty() {
            weights::write(&folder.join(CONSTANTS), &self.constants, HashMap::new())?;
        }
        write_atomically(&folder.join(CARD), card.as_bytes())?;
        let config = format!("{:#}\n", self.config);
        Ok(write_atomically(&folder.join(CONFIG), config.as_bytes())?)
    }
}

#[cfg(test)]
mod tests;
