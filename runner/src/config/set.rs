//! `--set path.to.field=value`: parses an override and writes it into a document.

use serde_yaml::{Mapping, Value};

use crate::config::error::ConfigError;
use crate::config::resolve::{COMPONENTS, resolve};
use crate::exit::Failure;

/// Applies `--set path.to.field=value` to a document. The value is YAML.
pub fn set(document: &mut Value, text: &str) -> Result<(), Failure> {
    let Some((path, value)) = text.split_once('=') else {
        let place = format!("--set {text}");
        return Err(ConfigError::expected(place, "field=value").into());
    };
    let new: Value = serde_yaml::from_str(value).map_err(|e| ConfigError::Syntax {
        origin: format!("--set {text}: the value is not valid YAML"),
        message: e.to_string(),
    })?;
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
        // A component that is given by name has no fields yet. Its file is looked up first, so that
        // the new value overrides one field of it.
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
                    let expected = format!("an index below {count}, got {key}");
                    ConfigError::expected(at, expected)
                })?
            }
            _ if at.is_empty() => return Err(ConfigError::expected("file", "a mapping").into()),
            _ => return Err(ConfigError::expected(at, "a mapping").into()),
        };
    }
    *place = new;
    Ok(())
}
