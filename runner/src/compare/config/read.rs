//! Turns the text of a YAML into a comparison: it resolves what the comparison extends, names
//! without fields, groups and labels.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::Comparison;
use crate::config::error::ConfigError;
use crate::config::experiment::Experiment;
use crate::config::find::{self, Found};
use crate::config::set::set;
use crate::exit::{Failure, config_error};

impl Comparison {
    /// Reads the YAML at the path, or of the name under `configs/`, with `--set` overrides.
    ///
    /// # Errors
    /// One message with the dotted path of the mistake.
    pub fn read(config: &str, overrides: &[String]) -> Result<Self, Failure> {
        let Found {
            origin,
            stem,
            mut value,
        } = find::find(config)?;
        for text in overrides {
            set(&mut value, text)?;
        }
        Self::resolved(value, &origin, stem)
    }

    /// The comparison of a document from `origin`, whose name is `stem` unless it has another.
    ///
    /// # Errors
    /// One message with the dotted path of the mistake.
    pub fn resolved(mut value: Value, origin: &str, stem: String) -> Result<Self, Failure> {
        let at = |failure: Failure| failure.within(origin);
        let Value::Mapping(map) = &mut value else {
            let expected = "a mapping with trial, seeds, backbones, datasets and methods";
            return Err(ConfigError::expected(origin, expected).into());
        };
        // The name is set before extending, or that of the extended comparison would be taken.
        map.entry("name".into()).or_insert(stem.into());
        extend(map, EXTENSIONS).map_err(at)?;
        spell_out(map).map_err(at)?;
        let comparison: Self = serde_path_to_error::deserialize(value).map_err(|e| {
            let field = e.path().to_string();
            let message = e.into_inner().to_string();
            at(ConfigError::Field { field, message }.into())
        })?;
        comparison.check().map_err(|e| at(config_error(e)))?;
        Ok(comparison)
    }
}

/// The number of files that may extend one another.
const EXTENSIONS: usize = 8;

/// Replaces `extends: NAME` by the keys of that comparison that are missing in `map`.
fn extend(map: &mut Mapping, left: usize) -> Result<(), Failure> {
    let Some(base) = map.remove("extends") else {
        return Ok(());
    };
    let Value::String(name) = base else {
        return Err(ConfigError::expected("extends", "a name").into());
    };
    if left == 0 {
        let limit = EXTENSIONS;
        return Err(ConfigError::Circle { name, limit }.into());
    }
    let found = match find::in_room("compare", &name) {
        Some(found) => found?,
        None if Path::new(&name).is_file() => find::find(&name)?,
        None => {
            let known: Vec<String> = (find::names("compare/").iter())
                .filter_map(|name| Some(name.strip_prefix("compare/")?.to_owned()))
                .collect();
            return Err(ConfigError::unknown_name("extends", &name, &known).into());
        }
    };
    let Value::Mapping(mut base) = found.value else {
        let place = format!("extends: {}", found.origin);
        return Err(ConfigError::expected(place, "a mapping").into());
    };
    // The base is extended first, so that keys come from the nearest file that has them.
    extend(&mut base, left - 1)?;
    for (key, value) in base {
        if !map.contains_key(&key) {
            map.insert(key, value);
        }
    }
    Ok(())
}

/// Turns names into entries and groups of data sets into one list, and fills in labels.
fn spell_out(map: &mut Mapping) -> Result<(), Failure> {
    if let Some(Value::Mapping(groups)) = map.get("datasets") {
        let mut all = Vec::new();
        for (group, members) in groups {
            let Value::Sequence(members) = members else {
                let group = group.as_str().unwrap_or_default();
                let place = format!("datasets.{group}");
                return Err(ConfigError::expected(place, "a list of data sets").into());
            };
            for member in members {
                let mut entry = entry(member);
                if let Value::Mapping(entry) = &mut entry {
                    entry.entry("group".into()).or_insert(group.clone());
                }
                all.push(entry);
            }
        }
        map.insert("datasets".into(), Value::Sequence(all));
    }
    for key in ["backbones", "datasets", "methods"] {
        let Some(Value::Sequence(items)) = map.get_mut(key) else {
            continue;
        };
        for item in items {
            *item = entry(item);
            let Value::Mapping(entry) = item else {
                continue;
            };
            let Some(component) = entry.get("use").cloned() else {
                continue;
            };
            let label = label(&component, key == "datasets");
            entry.entry("label".into()).or_insert(label.into());
            // The catalogue states the group of its data sets; a group in the comparison takes
            // precedence.
            if let (Value::String(name), "datasets", false) =
                (&component, key, entry.contains_key("group"))
                && let (_, Some(about)) = Experiment::read_dataset(name, &[])?
            {
                entry.insert("group".into(), about.group.to_string().into());
            }
        }
    }
    Ok(())
}

/// Turns a name alone into an entry that uses it.
fn entry(item: &Value) -> Value {
    match item {
        Value::String(_) => Value::Mapping(Mapping::from_iter([("use".into(), item.clone())])),
        item => item.clone(),
    }
}

/// Returns the default label of a component; of a path only its last part, if asked.
fn label(component: &Value, last_part: bool) -> String {
    match component {
        Value::String(name) if last_part => name.rsplit('/').next().unwrap_or(name).to_owned(),
        Value::String(name) => name.clone(),
        Value::Sequence(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| label(part, last_part)).collect();
            parts.join("+")
        }
        component => {
            let name = component.get("name").and_then(Value::as_str);
            name.unwrap_or_default().to_owned()
        }
    }
}
