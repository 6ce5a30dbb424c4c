//! HF PEFT's folder on disk: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::backbone::Backbone;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::layout::Layout;
use crate::method::AdaptationMethod;
use crate::params::Tensors;
use crate::weights;

pub(super) const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// The content of a folder: the configuration, and the tensors by name without the prefix.
#[derive(Clone, Debug, Default)]
pub struct HfPeft {
    /// `adapter_config.json`.
    pub config: Map<String, Value>,
    /// Tensors by module and parameter, for example `blocks.0.attn.qkv.lora_A.weight`.
    pub tensors: Tensors,
}

/// How a method is stored in HF PEFT's folders, in both directions; made by
/// [`register!`](crate::register).
#[derive(Clone, Copy)]
pub struct Format {
    /// HF PEFT's name of the method, for example `LORA`.
    pub peft_type: &'static str,
    /// Reads a folder without its head: the method's YAML and its values by canonical name.
    pub read: fn(&HfPeft, &dyn Backbone, &Layout) -> Result<Imported>,
    /// Builds the folder, without a head, that HF PEFT would have written for these values (by
    /// canonical name).
    pub write: Write,
}

/// The type of [`Format::write`]; it takes the method that registered the format.
pub type Write = fn(&dyn AdaptationMethod, &dyn Backbone, &Layout, &Tensors) -> Result<HfPeft>;

/// A folder in terms of this project.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The method's YAML, with its name.
    pub method: Value,
    /// Values by canonical name, including the head's.
    pub tensors: Tensors,
    /// Facts that the user should know.
    pub remarks: Vec<String>,
}

impl HfPeft {
    /// Whether the folder looks like one of HF PEFT.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(CONFIG).is_file()
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, or holds names without the prefix.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let config = match serde_json::from_str(&text) {
            Ok(Value::Object(config)) => config,
            Ok(_) => return Err(Error::file(path, "expected a JSON object")),
            Err(e) => return Err(Error::file(path, format!("expected JSON: {e}"))),
        };
        let path = folder.join(TENSORS);
        let all = Checkpoint::open(&path)?.tensors()?;
        let mut tensors = Tensors::new();
        for (name, data) in all {
            match name.strip_prefix(PREFIX) {
                Some(rest) => tensors.insert(rest.to_owned(), data),
                None => {
                    let message = format!("expected names that begin with {PREFIX}, got {name}");
                    return Err(Error::file(path, message));
                }
            };
        }
        Ok(Self { config, tensors })
    }

    /// Writes a folder, each file atomically.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let prefixed =
            |(name, data): (&String, &_)| (format!("{PREFIX}{name}"), Clone::clone(data));
        let tensors: Tensors = self.tensors.iter().map(prefixed).collect();
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        weights::write(&folder.join(TENSORS), &tensors, metadata)?;
        let path = folder.join(CONFIG);
        let text = serde_json::to_string_pretty(&self.config)
            .map_err(|e| Error::file(&path, e.to_string()))?;
        write_atomically(&path, format!("{text}\n").as_bytes())
    }

    /// A field of the configuration; null if it is absent.
    pub fn field(&self, name: &str) -> &Value {
        self.config.get(name).unwrap_or(&Value::Null)
    }

    /// Refuses fields that ask for unsupported features: each field must be absent, null, false, empty
    /// or one of the given values. An empty list of values allows any value.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn refuse_all_but(&self, known: &[(&str, &[Value])]) -> Result<()> {
        for (field, value) in &self.config {
            // Library versions add fields; one that is switched off asks for nothing.
            let silent = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(items) => items.is_empty(),
                _ => false,
            };
            let allowed = known
                .iter()
                .find(|(name, _)| name == field)
                .is_some_and(|(_, values)| values.is_empty() || values.contains(value));
            if !silent && !allowed {
                let message = format!("{value} is not supported");
                return Err(Error::config(format!("{CONFIG}: {field}"), message));
            }
        }
        Ok(())
    }
}
