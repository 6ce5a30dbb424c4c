//! HF PEFT's folder on disk: `adapter_config.json` and `adapter_model.safetensors`.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::backbone::Backbone;
use crate::checkpoint::{Checkpoint, WRAPPERS, unwrapped};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::layout::Layout;
use crate::method::AdaptationMethod;
use crate::params::Tensors;
use crate::weights;

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const TENSORS: &str = "adapter_model.safetensors";
/// The file of tensors up to version 0.3, pickled by PyTorch.
const PICKLED: &str = "adapter_model.bin";
const PREFIX: &str = "base_model.model.";
/// The prefix of tensors that belong to the adapter as a whole.
const SHARED: &str = "base_model.";

/// The content of a folder: the configuration, and the tensors by name without the prefix.
#[derive(Clone, Debug, Default)]
pub struct HfPeft {
    /// `adapter_config.json`.
    pub config: Map<String, Value>,
    /// Tensors by module and parameter, for example `blocks.0.attn.qkv.lora_A.weight`.
    pub tensors: Tensors,
    /// The names in each object of the configuration in the order of the file, where the first
    /// pattern that matches counts; a [`Map`] sorts them.
    order: BTreeMap<String, Vec<String>>,
    /// The prefix that wrappers put before the names of the model's modules, for example `_orig_mod.`.
    wrapper: String,
    /// The tensors that are not behind the wrapper, such as those of a head beside the backbone.
    outside: BTreeSet<String>,
    /// Remarks for the user about the names.
    pub(super) remarks: Vec<String>,
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
    /// The YAML of each method, with its name, in the order in which they act: the folder's own, and
    /// one that tunes what the folder holds of the backbone.
    pub methods: Vec<Value>,
    /// Values by canonical name, including the head's.
    pub tensors: Tensors,
    /// Low-rank factors beside the head's weight, already scaled and multiplied, `[classes, features]`.
    /// The backbone does not know the head, so that whoever has it must add them.
    pub head_delta: Option<TensorData>,
    /// Facts that the user should know.
    pub remarks: Vec<String>,
}

impl HfPeft {
    /// The folder of an adapter: this one, or the only one a level below, where the library puts
    /// adapters that have a name. None if there is no adapter.
    ///
    /// # Errors
    /// [`Error::File`] that lists the adapters if there are several, or that names what is missing
    /// beside the tensors.
    pub fn find(folder: &Path) -> Result<Option<PathBuf>> {
        if folder.join(CONFIG).is_file() {
            return Ok(Some(folder.to_owned()));
        }
        if let Some(tensors) = [TENSORS, PICKLED].iter().find(|n| folder.join(n).is_file()) {
            let message = format!("{tensors} is there, but {CONFIG} is not; expected both");
            return Err(Error::file(folder, message));
        }
        let Ok(entries) = std::fs::read_dir(folder) else {
            return Ok(None);
        };
        let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut named: Vec<PathBuf> = below.filter(|path| path.join(CONFIG).is_file()).collect();
        named.sort();
        match &named[..] {
            [] => Ok(None),
            [only] => Ok(Some(only.clone())),
            several => {
                let names = several.iter().filter_map(|path| path.file_name());
                let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
                let message = format!(
                    "expected one adapter, got {}: {}; give the folder of one",
                    several.len(),
                    names.join(", ")
                );
                Err(Error::file(folder, message))
            }
        }
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, or holds names without the prefix.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        // Editors on Windows put a byte order mark in front.
        let text = text.trim_start_matches('\u{feff}');
        let config = match serde_json::from_str(text) {
            Ok(Value::Object(config)) => config,
            Ok(_) => return Err(Error::file(path, "expected a JSON object")),
            Err(e) => return Err(Error::file(path, format!("expected JSON: {e}"))),
        };
        let order: BTreeMap<String, Names> = serde_json::from_str(text)
            .map_err(|e| Error::file(&path, format!("expected JSON: {e}")))?;
        // The library too prefers the first.
        let Some(tensors) = [TENSORS, PICKLED].iter().find(|n| folder.join(n).is_file()) else {
            let message = format!("expected {TENSORS} or {PICKLED} beside {CONFIG}, got neither");
            return Err(Error::file(folder, message));
        };
        let path = folder.join(tensors);
        let file = Checkpoint::open(&path)?;
        let mut remarks = file.remarks().to_vec();
        let (all, outer) = unwrapped(file.tensors()?);
        if !outer.is_empty() {
            remarks.push(left_out(&outer));
        }
        let mut tensors = Tensors::new();
        for (name, data) in all {
            // What belongs to no module, such as VeRA's shared matrices, keeps its name.
            let shared = name.starts_with(SHARED) && !name.starts_with(PREFIX);
            let rest = if shared {
                Some(&name[..])
            } else {
                name.strip_prefix(PREFIX)
            };
            let Some(rest) = rest else {
                let message = format!("expected names that begin with {PREFIX}, got {name}");
                return Err(Error::file(path, message));
            };
            if tensors.insert(without_inner(rest), data).is_some() {
                return Err(Error::file(path, format!("{name} is there twice")));
            }
        }
        Ok(Self {
            config,
            tensors,
            order: order.into_iter().map(|(k, names)| (k, names.0)).collect(),
            remarks,
            ..Self::default()
        })
    }

    /// Leaves out what a wrapper put before the names; those without it stay as they are.
    pub(super) fn unwrap(&mut self, wrapper: &str) {
        if wrapper.is_empty() {
            return;
        }
        self.remarks.push(left_out(wrapper));
        wrapper.clone_into(&mut self.wrapper);
        let all = std::mem::take(&mut self.tensors);
        for (name, data) in all {
            match name.strip_prefix(wrapper) {
                Some(rest) => self.tensors.insert(rest.to_owned(), data),
                None => {
                    self.outside.insert(name.clone());
                    self.tensors.insert(name, data)
                }
            };
        }
    }

    /// The name of a module or parameter as HF PEFT saw it, with what a wrapper put before it: the
    /// patterns of the configuration are about that one.
    pub fn seen<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let inside = |outside: &String| {
            let rest = outside.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if self.wrapper.is_empty() || self.outside.iter().any(inside) {
            return name.into();
        }
        format!("{}{name}", self.wrapper).into()
    }

    /// Writes a folder, each file atomically.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let prefixed = |(name, data): (&String, &_)| {
            let prefix = if name.starts_with(SHARED) { "" } else { PREFIX };
            (format!("{prefix}{name}"), Clone::clone(data))
        };
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

    /// A number of the configuration.
    ///
    /// # Errors
    /// [`Error::Config`] if it is absent or no number.
    pub fn number(&self, name: &str) -> Result<f64> {
        let value = self.field(name);
        let message = || format!("expected a number, got {value}");
        let number = value.as_f64();
        number.ok_or_else(|| Error::config(format!("{CONFIG}: {name}"), message()))
    }

    /// Adds the fields of a JSON object to the configuration of the folder.
    pub fn with_fields(mut self, fields: Value) -> Self {
        if let Value::Object(fields) = fields {
            self.config.extend(fields);
        }
        self
    }

    /// The entries of an object in the configuration, in the order of the file; none if the field is
    /// absent or no object.
    pub fn entries(&self, field: &str) -> Vec<(&str, &Value)> {
        let Value::Object(object) = self.field(field) else {
            return Vec::new();
        };
        let mut entries: Vec<_> = object.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let order = self.order.get(field).map_or(&[][..], Vec::as_slice);
        // Stable: without an order the entries stay as they are.
        entries.sort_by_key(|(name, _)| order.iter().position(|other| other == name));
        entries
    }

    /// Refuses fields that ask for unsupported features: each field must be absent, null, false, empty,
    /// one that every method has, or one of the given values. An empty list of values allows any value.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn refuse_all_but(&self, known: &[(&str, &[Value])]) -> Result<()> {
        for (field, value) in &self.config {
            let allowed = known
                .iter()
                .find(|(name, _)| name == field)
                .is_some_and(|(_, values)| values.is_empty() || values.contains(value))
                || COMMON.contains(&field.as_str());
            // Library versions add fields; one that is switched off asks for nothing.
            if !is_off(value) && !allowed {
                let message = format!("{value} is not supported");
                return Err(Error::config(format!("{CONFIG}: {field}"), message));
            }
        }
        Ok(())
    }

    /// As [`refuse_all_but`](Self::refuse_all_but): the fields `any` may have any value, and the fields `zero`
    /// must be 0, which asks for nothing either.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn refuse_all_but_any(&self, any: &[&str], zero: &[&str]) -> Result<()> {
        let nothing = [json!(0.0), json!(0)];
        let any = any.iter().map(|field| (*field, &[][..]));
        let zero = zero.iter().map(|field| (*field, &nothing[..]));
        self.refuse_all_but(&any.chain(zero).collect::<Vec<_>>())
    }
}

/// The fields that the configuration of every method may have with any value.
const COMMON: [&str; 10] = [
    "peft_type",
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "modules_to_save",
    "target_modules",
    "exclude_modules",
];

/// A name without the wrappers around blocks and their parts. Those before the first number may be
/// around the whole model, which the names of all tensors tell.
fn without_inner(name: &str) -> String {
    let mut numbered = false;
    let parts = name.split('.').filter(|part| {
        numbered |= part.parse::<usize>().is_ok();
        !(numbered && WRAPPERS.contains(part))
    });
    parts.collect::<Vec<_>>().join(".")
}

/// The remark about a wrapper before the names.
fn left_out(wrapper: &str) -> String {
    format!("the names of the tensors begin with {wrapper}, which is left out")
}

/// Whether a value asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.values().all(is_off),
        _ => false,
    }
}

/// The names in an object in the order of the file; no names for any other value.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamesOf)
    }
}

struct NamesOf;

impl<'de> Visitor<'de> for NamesOf {
    type Value = Names;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            // Python keeps the place of the first of two equal names.
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(Names(names))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Names, A::Error> {
        while let Some(IgnoredAny) = items.next_element()? {}
        Ok(Names(Vec::new()))
    }

    fn visit_unit<E>(self) -> Result<Names, E> {
        Ok(Names(Vec::new()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Names, E> {
        Ok(Names(Vec::new()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Names, E> {
        Ok(Names(Vec::new()))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Names, E> {
        Ok(Names(Vec::new()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Names, E> {
        Ok(Names(Vec::new()))
    }

    fn visit_str<E>(self, _: &str) -> Result<Names, E> {
        Ok(Names(Vec::new()))
    }
}
