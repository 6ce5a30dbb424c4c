//! Turns names into mappings: a component of a YAML may be the name of a shipped file or of a
//! plugin, or may extend such a file.

use peft_core::error::nearest;
use peft_core::registry::{PluginKind, plugins};
use serde_yaml::{Mapping, Value};

use crate::config::error::ConfigError;
use crate::config::find;
use crate::exit::Failure;

/// A component of an experiment: its key, the room of its files, and the plugins that it may name.
pub struct Component {
    /// The key in an experiment.
    pub key: &'static str,
    /// The folder of its files below `configs/`.
    pub room: &'static str,
    /// The kind of plugin that its `name` selects; none for what the runner itself defines.
    pub plugins: Option<PluginKind>,
}

/// All components.
pub const COMPONENTS: [Component; 5] = [
    Component {
        key: "backbone",
        room: "backbones",
        plugins: Some(PluginKind::Backbone),
    },
    Component {
        key: "method",
        room: "peft",
        plugins: Some(PluginKind::Method),
    },
    Component {
        key: "dataset",
        room: "datasets",
        plugins: Some(PluginKind::Dataset),
    },
    Component {
        key: "recipe",
        room: "recipes",
        plugins: None,
    },
    Component {
        key: "head",
        room: "heads",
        plugins: None,
    },
];

/// Resolves all components of an experiment.
///
/// # Errors
/// If a component has an unknown name, or extends something that is not a name.
pub fn resolve_all(document: &mut Value) -> Result<(), Failure> {
    for component in &COMPONENTS {
        if let Some(value) = document.get_mut(component.key) {
            match value {
                Value::Sequence(items) if component.key == "method" => items
                    .iter_mut()
                    .try_for_each(|item| resolve(item, component))?,
                value => resolve(value, component)?,
            }
        }
    }
    Ok(())
}

/// Replaces a name by the content of its file, and `extends: name` by that content with the other fields
/// written over it.
pub fn resolve(value: &mut Value, component: &Component) -> Result<(), Failure> {
    match value {
        Value::String(name) => *value = named(name, component)?,
        Value::Mapping(map) => {
            if let Some(base) = map.remove("extends") {
                let Value::String(base) = base else {
                    let place = format!("{}.extends", component.key);
                    return Err(ConfigError::expected(place, "a name").into());
                };
                let mut base = named(&base, component)?;
                merge(&mut base, std::mem::take(value));
                *value = base;
            }
        }
        _ => {}
    }
    // Most heads are linear, so that `--set head.from=..` needs no name.
    if let (Value::Mapping(map), "head") = (&mut *value, component.key) {
        map.entry("name".into()).or_insert("linear".into());
    }
    check_name(value, component)
}

fn named(name: &str, component: &Component) -> Result<Value, Failure> {
    let Component { key, room, .. } = component;
    if let Some(found) = find::in_room(room, name) {
        let mut value = found?.value;
        // The file may be a whole experiment: its component of that key is meant.
        if let Some(part) = value.get(*key) {
            value = part.clone();
        }
        resolve(&mut value, component)?;
        return Ok(value);
    }
    if plugin_names(component).iter().any(|known| known == name) {
        let map = Mapping::from_iter([("name".into(), name.into())]);
        return Ok(Value::Mapping(map));
    }
    Err(ConfigError::unknown_name(key, name, &known_names(component)).into())
}

/// Lists the names of the plugins that a component may have.
pub fn plugin_names(component: &Component) -> Vec<String> {
    match component.plugins {
        Some(kind) => plugins(kind).iter().map(|p| p.name.to_owned()).collect(),
        None if component.key == "head" => ["linear", "text", "label-mapping"]
            .map(str::to_owned)
            .into(),
        None => Vec::new(),
    }
}

/// The names that a component may have: the shipped files of its room, and the plugins.
pub fn known_names(component: &Component) -> Vec<String> {
    let prefix = format!("{}/", component.room);
    let mut known: Vec<String> = find::names(&prefix)
        .iter()
        .filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned()))
        .collect();
    known.extend(plugin_names(component));
    known.sort();
    known.dedup();
    known
}

/// Checks the `name:` of a plugin before its fields are read: typetag would list all names but not
/// the nearest one.
fn check_name(value: &Value, component: &Component) -> Result<(), Failure> {
    let known = plugin_names(component);
    if known.is_empty() {
        return Ok(());
    }
    match value.get("name") {
        Some(Value::String(name)) if known.contains(name) => Ok(()),
        Some(Value::String(name)) => {
            let known = known_names(component);
            Err(ConfigError::unknown_name(component.key, name, &known).into())
        }
        _ if value.is_mapping() => {
            let field = format!("{}.name", component.key);
            let hint = format!("; there are: {}", known.join(", "));
            Err(ConfigError::Missing { field, hint }.into())
        }
        _ => Ok(()),
    }
}

/// Writes the fields of `over` over those of `base`, mapping by mapping.
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => {
                        base.insert(key, value);
                    }
                }
            }
        }
        (base, over) => *base = over,
    }
}

/// Returns a hint at the nearest field for the message that serde gives about an unknown field.
pub fn unknown_field_hint(message: &str) -> String {
    // The message is `unknown field `x`, expected one of `a`, `b``: every second part between
    // backquotes is a name.
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") {
        return String::new();
    }
    let wanted = quoted.next().unwrap_or_default();
    match nearest(wanted, quoted) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    }
}
