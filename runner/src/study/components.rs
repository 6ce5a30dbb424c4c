//! Backbones and data sets of a study, and whether their files are there.

use peft_core::{BackboneConfig, DatasetConfig};
use serde_yaml::{Mapping, Value};

use crate::config::about::About;
use crate::config::part::{take_about, typed_part};
use crate::config::resolve::resolve_all;
use crate::exit::{Failure, config_error};

pub use crate::config::find::missing_weights;

/// A component by name or by its fields, resolved.
fn resolved(key: &'static str, value: &Value) -> Result<Value, Failure> {
    let mut document = Value::Mapping(Mapping::from_iter([(key.into(), value.clone())]));
    resolve_all(&mut document)?;
    let own = document.get_mut(key).map(std::mem::take);
    own.ok_or_else(|| config_error(format!("{key}: missing")))
}

/// The backbone that a name or fields describe.
///
/// # Errors
/// If there is no such backbone, or a field is wrong.
pub fn backbone(value: &Value) -> Result<Box<dyn BackboneConfig>, Failure> {
    typed_part(resolved("backbone", value)?, "settings", "backbone")
}

/// The data set that a name or fields describe, and what is known of it.
///
/// # Errors
/// If there is no such data set, or a field is wrong.
pub fn dataset(value: &Value) -> Result<(Box<dyn DatasetConfig>, Option<About>), Failure> {
    let mut value = resolved("dataset", value)?;
    let about = take_about(&mut value);
    let about = about.map(|about| typed_part(about, "settings", "dataset.about"));
    Ok((
        typed_part(value, "settings", "dataset")?,
        about.transpose()?,
    ))
}

/// The name of a component in reports.
pub fn title(value: &Value) -> String {
    match value {
        Value::String(name) => name.clone(),
        value => {
            let name = value.get("extends").or_else(|| value.get("name"));
            name.and_then(Value::as_str)
                .unwrap_or("backbone")
                .to_owned()
        }
    }
}

/// Whether the weights of a backbone are bundled: a miniature.
pub fn is_bundled(config: &dyn BackboneConfig) -> bool {
    let source = config.source();
    source
        .file()
        .is_some_and(|file| file.path().starts_with("assets"))
}

/// Says which files of a data set are missing; none if they are there, or it has none.
pub fn missing_images(config: &dyn DatasetConfig) -> Option<String> {
    let mut config = dyn_clone::clone_box(config);
    let paths = config.paths_mut().into_iter();
    let absent = paths.filter(|path| !path.as_os_str().is_empty() && !path.exists());
    let absent: Vec<String> = absent.map(|path| path.display().to_string()).collect();
    (!absent.is_empty()).then(|| format!("images are missing: {}", absent.join(", ")))
}
