//! HF PEFT's folders, both ways: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys on disk are `base_model.model.` + module + parameter. What a method's values are called
//! there, the method says; this reads, writes, and refuses what does not fit: PEFT itself loads
//! adapters of which nothing matches without a word.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value};

use crate::backbone::Backbone;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, listed};
use crate::files::write_atomically;
use crate::layout::Layout;
use crate::params::Tensors;
use crate::registry::{PluginKind, plugins};
use crate::site::Site;
use crate::weights;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// A folder: the configuration, and the tensors by their names without the prefix.
#[derive(Clone, Debug, Default)]
pub struct HfPeft {
    /// `adapter_config.json`.
    pub config: Map<String, Value>,
    /// By module and parameter, for example `blocks.0.attn.qkv.lora_A.weight`.
    pub tensors: Tensors,
}

/// How a method reads what HF PEFT wrote.
#[derive(Clone, Copy)]
pub struct Import {
    /// HF PEFT's name of the method, for example `LORA`.
    pub peft_type: &'static str,
    /// The method's YAML and its values by canonical name, from a folder without its head.
    pub read: fn(&HfPeft, &dyn Backbone, &Layout) -> Result<Imported>,
}

/// What a folder becomes here.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The method's YAML, with its name.
    pub method: Value,
    /// Values by canonical name, the head's included.
    pub tensors: Tensors,
    /// What the user should know.
    pub remarks: Vec<String>,
}

impl HfPeft {
    /// Whether a folder looks like one.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(CONFIG).is_file()
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing, not whole, or has names without the prefix.
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

    /// A field of the configuration; null if it is not there.
    pub fn field(&self, name: &str) -> &Value {
        self.config.get(name).unwrap_or(&Value::Null)
    }

    /// Refuses fields that ask for what is not done here: each must be absent, null, false, empty or
    /// one of the values given.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn refuse_all_but(&self, known: &[(&str, &[Value])]) -> Result<()> {
        for (field, value) in &self.config {
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
                let message = format!("{value} is not supported here");
                return Err(Error::config(format!("{CONFIG}: {field}"), message));
            }
        }
        Ok(())
    }
}

/// The layout whose names of the backbone's modules the tensors have: the canonical one, or one of
/// the backbone's others.
pub fn layout_of(given: &HfPeft, backbone: &dyn Backbone) -> Layout {
    let spec = backbone.spec();
    let canonical = Layout::canonical(spec.head_name);
    let is_module = |name: &str| {
        let slices = |site: &Site| site.slices.iter().any(|slice| slice.name == name);
        spec.sites
            .iter()
            .any(|site| site.name == name || slices(site))
    };
    // A parameter's name goes on behind its module's: some prefix of it must be a module.
    let known = |layout: &Layout, name: &str| {
        let ends = name.match_indices('.').map(|(end, _)| &name[..end]);
        let mut modules = ends.chain([name]);
        modules.any(|module| {
            module == layout.head || layout.ours(module).is_ok_and(|ours| is_module(&ours))
        })
    };
    // A layout that leaves most names as they are differs from the canonical one in weights only.
    let own = |layout: &&Layout| layout.rules.iter().all(|(ours, _)| *ours != "{*}");
    let fits = |layout: &&Layout| given.tensors.keys().all(|name| known(layout, name));
    [canonical]
        .iter()
        .chain(backbone.layouts().iter().filter(own))
        .find(fits)
        .copied()
        .unwrap_or(canonical)
}

/// The layout of that name.
///
/// # Errors
/// [`Error::Config`] listing those that the backbone has.
pub fn layout(name: &str, backbone: &dyn Backbone) -> Result<Layout> {
    let canonical = Layout::canonical(backbone.spec().head_name);
    let mut all = vec![canonical];
    all.extend(backbone.layouts());
    let found = all.iter().find(|layout| layout.name == name);
    found.copied().ok_or_else(|| {
        let mut known: Vec<_> = all.iter().map(|layout| layout.name).collect();
        known.dedup();
        let message = format!("expected one of {}, got {name:?}", known.join(", "));
        Error::config("layout", message)
    })
}

/// Translates a folder for this backbone.
///
/// # Errors
/// An unknown `peft_type`, a field that is not supported, a name that matches nothing.
pub fn import(mut given: HfPeft, backbone: &dyn Backbone) -> Result<Imported> {
    let layout = layout_of(&given, backbone);
    let peft_type = given.field("peft_type").as_str().unwrap_or("").to_owned();
    let imports: Vec<Import> = plugins(PluginKind::Method)
        .into_iter()
        .filter_map(|plugin| plugin.hf_peft)
        .collect();
    let Some(import) = imports.iter().find(|i| i.peft_type == peft_type) else {
        let known: Vec<_> = imports.iter().map(|import| import.peft_type).collect();
        let message = format!("expected one of {}, got {peft_type:?}", known.join(", "));
        return Err(Error::config(format!("{CONFIG}: peft_type"), message));
    };
    let saved: BTreeSet<&str> = match given.field("modules_to_save") {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    };
    if let Some(other) = saved.iter().find(|name| **name != layout.head) {
        let message = format!("expected only the head ({}), got {other}", layout.head);
        return Err(Error::config(format!("{CONFIG}: modules_to_save"), message));
    }
    let mut remarks = Vec::new();
    if saved.is_empty() {
        remarks.push("the adapter's folder holds no head".to_owned());
    }
    let mut head = Tensors::new();
    for part in ["weight", "bias"] {
        if let Some(data) = given.tensors.remove(&format!("{}.{part}", layout.head)) {
            head.insert(format!("head.{part}"), data);
        }
    }
    let name = &backbone.spec().name;
    match given.field("base_model_name_or_path").as_str() {
        Some(base) if base != name => {
            remarks.push(format!(
                "the adapter says it belongs to {base}; this is {name}"
            ));
        }
        _ => {}
    }
    let mut imported = (import.read)(&given, backbone, &layout)?;
    imported.tensors.extend(head);
    imported.remarks.splice(0..0, remarks);
    Ok(imported)
}

/// Adds what every configuration has, and the head, to what a method wrote.
pub fn with_head(mut own: HfPeft, layout: &Layout, tensors: &Tensors) -> HfPeft {
    for part in ["weight", "bias"] {
        if let Some(data) = tensors.get(&format!("head.{part}")) {
            own.tensors
                .insert(format!("{}.{part}", layout.head), data.clone());
        }
    }
    let common = [
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", Value::Null),
        ("inference_mode", true.into()),
        ("modules_to_save", vec![layout.head].into()),
        ("revision", Value::Null),
        ("task_type", Value::Null),
    ];
    for (field, value) in common {
        own.config.entry(field).or_insert(value);
    }
    own
}

/// `target_modules` as a regular expression that matches exactly these modules.
pub fn exactly<'a>(modules: impl IntoIterator<Item = &'a String>) -> String {
    let escaped: Vec<String> = modules
        .into_iter()
        .map(|name| regex::escape(name))
        .collect();
    escaped.join("|")
}

/// Checks that `target_modules` names just the `modules` of which the file has tensors.
///
/// # Errors
/// [`Error::Target`] for a target without a match, [`Error::Config`] for modules that only one side
/// has.
pub fn check_targets(
    given: &HfPeft,
    modules: &BTreeSet<String>,
    all: &[String],
    backbone: &str,
) -> Result<()> {
    use crate::site::Targets;
    let targets = match given.field("target_modules") {
        Value::String(special) if special == "all-linear" => return Ok(()),
        Value::String(pattern) => vec![Targets::Regex(pattern.clone())],
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str);
            names
                .map(|name| Targets::Suffixes(vec![name.to_owned()]))
                .collect()
        }
        Value::Null => return Ok(()),
        other => {
            let message = format!("expected a string or a list, got {other}");
            return Err(Error::config(format!("{CONFIG}: target_modules"), message));
        }
    };
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut matched = BTreeSet::new();
    for target in &targets {
        let found = target.matching(&names)?;
        if found.is_empty() {
            return Err(Error::Target {
                target: match target {
                    Targets::Regex(pattern) => pattern.clone(),
                    Targets::Suffixes(names) => names.join(", "),
                },
                backbone: backbone.to_owned(),
                sites: listed(&names, 60),
            });
        }
        matched.extend(found.into_iter().map(str::to_owned));
    }
    let missing: Vec<_> = matched.difference(modules).collect();
    let extra: Vec<_> = modules.difference(&matched).collect();
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    let message = format!(
        "it does not match the tensors\n  targets without tensors: {}\n  tensors of no target: {}",
        listed(&missing, 12),
        listed(&extra, 12)
    );
    Err(Error::config(format!("{CONFIG}: target_modules"), message))
}
