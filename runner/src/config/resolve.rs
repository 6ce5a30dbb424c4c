//! From names to mappings: a component of a YAML may be the name of a shipped file or of a plugin, may
//! extend such a file, and may be changed field by field by `--set`.

use peft_core::error::nearest;
use peft_core::registry::{PluginKind, plugins};
use serde_yaml::{Mapping, Value};

use crate::config::find;
use crate::exit::{Failure, config_error};

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

/// One component, resolved, and where it was found. `config` is an experiment, a file that holds this
/// component alone, or the name of a file of its room.
pub fn part_value(
    component: &Component,
    config: &str,
    overrides: &[String],
) -> Result<(String, Value), Failure> {
    let key = component.key;
    let (origin, mut value) = match find::in_room(component.room, config) {
        Some(found) => (config.to_owned(), found?.value),
        None if plugin_names(component).iter().any(|name| name == config) => {
            (config.to_owned(), Value::String(config.to_owned()))
        }
        None => {
            let found = find::find(config)?;
            (found.origin, found.value)
        }
    };
    // A file of the component's room is the component itself.
    if value.get(key).is_none() && (value.is_string() || value.get("name").is_some()) {
        value = Value::Mapping(Mapping::from_iter([(key.into(), value)]));
    }
    for text in overrides {
        set(&mut value, text)?;
    }
    let Some(own) = value.get_mut(key) else {
        return Err(config_error(format!("{origin}: {key}: missing")));
    };
    let mut own = std::mem::take(own);
    resolve(&mut own, component)?;
    Ok((origin, own))
}

pub fn typed_part<T: serde::de::DeserializeOwned>(
    value: Value,
    origin: &str,
    key: &str,
) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        config_error(format!("{origin}: {key}.{path}: {}", e.into_inner()))
    })
}

/// Takes the facts about a data set out of its configuration: they are for readers and for checks.
pub fn take_about(dataset: &mut Value) -> Option<Value> {
    dataset.as_mapping_mut()?.remove("about")
}

/// Applies `--set path.to.field=value` to a document. The value is YAML.
pub fn set(document: &mut Value, text: &str) -> Result<(), Failure> {
    let Some((path, value)) = text.split_once('=') else {
        return Err(config_error(format!("--set {text}: expected field=value")));
    };
    let new: Value = serde_yaml::from_str(value)
        .map_err(|e| config_error(format!("--set {text}: the value is not valid YAML: {e}")))?;
    assign(document, path, new).map_err(|failure| failure.within(&format!("--set {text}")))
}

/// Sets the field at a dotted path. A component that is given by name is looked up first.
///
/// # Errors
/// If the path leads through something that is neither a mapping nor a list.
pub fn assign(document: &mut Value, path: &str, new: Value) -> Result<(), Failure> {
    let keys: Vec<&str> = path.split('.').collect();
    let mut place = &mut *document;
    for (depth, key) in keys.iter().enumerate() {
        // A component that is given by name is looked up before a field of it is set.
        if depth == 1
            && let Some(component) = COMPONENTS.iter().find(|c| c.key == keys[0])
        {
            resolve(place, component)?;
        }
        if place.is_null() {
            *place = Value::Mapping(Mapping::new());
        }
        let at = keys[..depth].join(".");
        place = match place {
            Value::Mapping(map) => map.entry((*key).into()).or_insert(Value::Null),
            Value::Sequence(items) => {
                let count = items.len();
                let item = key
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get_mut(index));
                item.ok_or_else(|| {
                    let message = format!("expected {at}.0 to {at}.{}", count - 1);
                    config_error(message)
                })?
            }
            _ => return Err(config_error(format!("{at} is not a mapping"))),
        };
    }
    *place = new;
    Ok(())
}

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
fn resolve(value: &mut Value, component: &Component) -> Result<(), Failure> {
    match value {
        Value::String(name) => *value = named(name, component)?,
        Value::Mapping(map) => {
            if let Some(base) = map.remove("extends") {
                let Value::String(base) = base else {
                    let message = format!("{}.extends: expected a name", component.key);
                    return Err(config_error(message));
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
    Err(unknown(name, component))
}

fn plugin_names(component: &Component) -> Vec<String> {
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
        .map(|name| name.trim_start_matches(&prefix).to_owned())
        .collect();
    known.extend(plugin_names(component));
    known.sort();
    known.dedup();
    known
}

fn unknown(name: &str, component: &Component) -> Failure {
    let key = component.key;
    let known = known_names(component);
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => String::new(),
    };
    config_error(format!(
        "{key}: unknown name {name:?}{hint} There are: {}",
        known.join(", ")
    ))
}

/// Checks the `name:` of a plugin before its fields are read, so that the message can offer the nearest
/// name.
fn check_name(value: &Value, component: &Component) -> Result<(), Failure> {
    let known = plugin_names(component);
    if known.is_empty() {
        return Ok(());
    }
    match value.get("name") {
        Some(Value::String(name)) if known.contains(name) => Ok(()),
        Some(Value::String(name)) => Err(unknown(name, component)),
        _ if value.is_mapping() => Err(config_error(format!(
            "{}.name: missing; there are: {}",
            component.key,
            known.join(", ")
        ))),
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

/// A hint at the nearest field, for serde's message about an unknown field.
pub fn unknown_field_hint(message: &str) -> String {
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
