//! Reads one component of an experiment on its own, such as a backbone or a data set.

use serde_yaml::{Mapping, Value};

use crate::config::error::ConfigError;
use crate::config::find;
use crate::config::resolve::{Component, plugin_names, resolve};
use crate::config::set::set;
use crate::exit::Failure;

/// Returns one component, resolved, and where it was found. `config` is an experiment, a file that
/// holds this component alone, or the name of a file in its room.
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
        let (field, hint) = (format!("{origin}: {key}"), String::new());
        return Err(ConfigError::Missing { field, hint }.into());
    };
    let mut own = std::mem::take(own);
    resolve(&mut own, component)?;
    Ok((origin, own))
}

/// Makes the typed value of a component called `key`.
pub fn typed_part<T: serde::de::DeserializeOwned>(
    value: Value,
    origin: &str,
    key: &str,
) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let field = format!("{origin}: {key}.{}", e.path());
        let message = e.into_inner().to_string();
        ConfigError::Field { field, message }.into()
    })
}

/// Removes the facts about a data set from its configuration; people and checks read them, the
/// plugin does not.
pub fn take_about(dataset: &mut Value) -> Option<Value> {
    dataset.as_mapping_mut()?.remove("about")
}
