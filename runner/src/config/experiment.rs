//! The typed experiment: what one YAML says, with defaults filled and names resolved.

use std::path::PathBuf;

use peft_core::registry::{PluginKind, plugins};
use peft_core::{AdaptationMethod, BackboneConfig, DatasetConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::{Mapping, Value};

use crate::config::about::About;
use crate::config::cache::{Store, ValueType};
use crate::config::find::{self, Found};
use crate::config::on_error::OnError;
use crate::config::recipe::Recipe;
use crate::exit::{Failure, config_error};
use crate::train::metrics::Metric;
use peft_core::error::nearest;

/// One backbone, its method, data and recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The folder of the runs below `--runs`. Default: the YAML file's name.
    pub name: String,
    /// The pretrained feature extractor.
    pub backbone: Box<dyn BackboneConfig>,
    /// How it is adapted: one method, or a list that acts in order.
    #[serde(serialize_with = "one_or_many")]
    pub method: Vec<Box<dyn AdaptationMethod>>,
    /// What it is adapted to.
    pub dataset: Box<dyn DatasetConfig>,
    /// Features to logits.
    #[serde(default)]
    pub head: HeadConfig,
    /// Optimiser, schedule, epochs, batch.
    pub recipe: Recipe,
    /// Seed of initial values, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// What an epoch is chosen by and what is reported: `top1`, `mean_per_class` or `worst_group`.
    /// Default: the data set's own.
    #[serde(default)]
    pub metric: Metric,
    /// What is done about an image that cannot be read: `fail`, or `skip` it, say so and count it.
    #[serde(default)]
    pub on_error: OnError,
    /// Where what the frozen prefix gives is kept: `auto`, `off`, `memory` or `disk`.
    #[serde(default)]
    pub prefix_cache: Store,
    /// What it may take, in GiB. Default: in memory a quarter of what is available, on disk 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_budget_gib: Option<f64>,
    /// What its values are kept as: `f32`, `f16` or `bf16`. Default: what the prefix computes in, so
    /// that nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_type: Option<ValueType>,
    /// With random augmentation: how many different changes each image sees, one an epoch, before
    /// they repeat, so that the prefix can be cached. 0: ever new ones, and no cache.
    #[serde(default)]
    pub cache_views: usize,
    /// Start from a trained adapter: a run folder or one of HF PEFT. Its methods take the place of
    /// `method`; its head is taken over if it has as many classes as the data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Also write the whole adapted model under the checkpoint's own keys (`model.safetensors`);
    /// needs a method without adapters, such as full-finetune.
    #[serde(default)]
    pub save_model: bool,
}

/// Features to logits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum HeadConfig {
    /// A linear layer, trained in every row of a comparison.
    Linear {
        /// Where its first values come from.
        #[serde(default)]
        from: HeadFrom,
    },
    /// Similarity to a text for each class, frozen: CLIP's zero-shot classifier.
    Text {
        /// Text embeddings `[classes, features]` in a safetensors file; the names of the classes
        /// in the order of the rows are a JSON list under `classes` in its metadata, else the rows
        /// are the data set's classes in order.
        embeddings: PathBuf,
        /// The tensor in the file. Default: the only one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tensor: Option<String>,
        /// What cosines are multiplied by. Default 100, CLIP's trained temperature.
        #[serde(default = "default_scale")]
        scale: f64,
    },
}

fn default_scale() -> f64 {
    100.0
}

impl HeadConfig {
    /// Whether its first values are drawn from the seed.
    pub fn is_new(&self) -> bool {
        matches!(
            self,
            Self::Linear {
                from: HeadFrom::New
            }
        )
    }
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self::Linear {
            from: HeadFrom::New,
        }
    }
}

/// Where a linear head's first values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadFrom {
    /// Drawn from the seed; a head in the checkpoint is dropped, and that is said.
    #[default]
    New,
    /// The checkpoint's; its number of classes must be the data set's.
    Checkpoint,
}

/// A component of the YAML: its key, the room of its files and what is registered under a `name`.
pub struct Component {
    /// The key in an experiment.
    pub key: &'static str,
    /// The folder below `configs/`.
    pub room: &'static str,
    /// What is registered; none for the runner's own.
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

impl Experiment {
    /// Reads the YAML called `config`, applies `--set` overrides in order and resolves everything.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn read(config: &str, overrides: &[String]) -> Result<Self, Failure> {
        let Found {
            origin,
            stem,
            mut value,
        } = find::find(config)?;
        let Value::Mapping(_) = value else {
            return Err(config_error(format!(
                "{origin}: expected a mapping with backbone, method, dataset and recipe"
            )));
        };
        for text in overrides {
            set(&mut value, text)?;
        }
        if let Value::Mapping(map) = &mut value {
            map.entry("name".into()).or_insert(stem.into());
        }
        Self::resolved(value).map_err(|failure| failure.within(&origin))
    }

    /// The experiment of a document in which components may be called by name.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn resolved(mut document: Value) -> Result<Self, Failure> {
        resolve_all(&mut document)?;
        Self::typed(document).map_err(config_error)
    }

    /// The backbone alone of the YAML called `config`, which may hold nothing else.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn read_backbone(
        config: &str,
        overrides: &[String],
    ) -> Result<Box<dyn BackboneConfig>, Failure> {
        let (origin, value) = part_value(&COMPONENTS[0], config, overrides)?;
        typed_part(value, &origin, "backbone")
    }

    /// The data set alone of the YAML called `config`, or of that name, below another root if one is
    /// given, and what is known of it.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn read_dataset(
        config: &str,
        overrides: &[String],
    ) -> Result<(Box<dyn DatasetConfig>, Option<About>), Failure> {
        let (origin, mut value) = part_value(&COMPONENTS[2], config, overrides)?;
        let about = take_about(&mut value);
        let about = about.map(|about| typed_part(about, &origin, "dataset.about"));
        Ok((typed_part(value, &origin, "dataset")?, about.transpose()?))
    }

    /// The experiment of a resolved document, as a run folder holds it.
    ///
    /// # Errors
    /// The dotted path and what was expected.
    pub fn typed(mut value: Value) -> Result<Self, String> {
        if let Some(about) = value.get_mut("dataset").and_then(take_about)
            && let (Some(metric), Value::Mapping(map)) = (about.get("metric"), &mut value)
        {
            map.entry("metric".into()).or_insert(metric.clone());
        }
        let single = value
            .get_mut("method")
            .filter(|method| !method.is_sequence());
        let single = single.map(|method| {
            *method = Value::Sequence(vec![std::mem::take(method)]);
        });
        let experiment: Self = serde_path_to_error::deserialize(value).map_err(|e| {
            let mut path = e.path().to_string();
            if single.is_some() {
                path = path.replacen("method[0]", "method", 1);
            }
            let message = e.into_inner().to_string();
            let hint = unknown_field_hint(&message);
            match path.as_str() {
                "." => format!("{message}{hint}"),
                path => format!("{path}: {message}{hint}"),
            }
        })?;
        experiment.recipe.check()?;
        if let Some(budget) = experiment.cache_budget_gib
            && !(budget > 0.0 && budget.is_finite())
        {
            let expected = "expected a finite number more than 0";
            return Err(format!("cache_budget_gib: {expected}, got {budget}"));
        }
        if experiment.method.is_empty() {
            return Err("method: expected at least one".to_owned());
        }
        Ok(experiment)
    }
}

/// One component of a YAML, resolved: of an experiment, of a file with that key alone, or of a file
/// of its room.
fn part_value(
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

fn typed_part<T: serde::de::DeserializeOwned>(
    value: Value,
    origin: &str,
    key: &str,
) -> Result<T, Failure> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        config_error(format!("{origin}: {key}.{path}: {}", e.into_inner()))
    })
}

/// Takes the facts out of a data set's configuration: they are for readers and for checks.
fn take_about(dataset: &mut Value) -> Option<Value> {
    dataset.as_mapping_mut()?.remove("about")
}

/// `--set path.to.field=value`, the value in YAML.
pub fn set(document: &mut Value, text: &str) -> Result<(), Failure> {
    let Some((path, value)) = text.split_once('=') else {
        return Err(config_error(format!("--set {text}: expected field=value")));
    };
    let new: Value = serde_yaml::from_str(value)
        .map_err(|e| config_error(format!("--set {text}: the value is no YAML: {e}")))?;
    assign(document, path, new).map_err(|failure| failure.within(&format!("--set {text}")))
}

/// Sets the field at a dotted path. A component that is given by name is looked up first.
///
/// # Errors
/// If there is no such place.
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
            _ => return Err(config_error(format!("{at} is no mapping"))),
        };
    }
    *place = new;
    Ok(())
}

fn resolve_all(document: &mut Value) -> Result<(), Failure> {
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

/// Replaces a name by the file's content, and `extends: name` by that content under the other
/// fields.
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
        // A whole experiment lends its component of that key.
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
        None if component.key == "head" => vec!["linear".to_owned(), "text".to_owned()],
        None => Vec::new(),
    }
}

/// What a component can be called: the shipped files of its room and the plugins.
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

/// The `name:` of a plugin, checked before its fields so that the message offers the nearest.
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

/// The nearest field for serde's message about an unknown one.
fn unknown_field_hint(message: &str) -> String {
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

/// A single method is written without a list.
fn one_or_many<S: serde::Serializer>(
    methods: &[Box<dyn AdaptationMethod>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match methods {
        [one] => one.serialize(serializer),
        many => many.serialize(serializer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(overrides: &[&str]) -> Result<Experiment, String> {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        Experiment::read("peft/lora-r10.yaml", &overrides).map_err(|f| f.error.to_string())
    }

    fn error(overrides: &[&str]) -> String {
        read(overrides).unwrap_err()
    }

    #[test]
    fn names_are_resolved_and_fields_are_set() {
        let experiment = read(&["backbone=resnet-micro", "method.rank=4"]).unwrap();
        let text = serde_yaml::to_string(&experiment).unwrap();
        assert!(
            text.contains("name: resnet") && text.contains("rank: 4"),
            "{text}"
        );
        assert_eq!(experiment.name, "lora-r10");
        let again = Experiment::typed(serde_yaml::from_str(&text).unwrap()).unwrap();
        assert_eq!(serde_yaml::to_string(&again).unwrap(), text);
    }

    #[test]
    fn a_list_of_methods_keeps_its_order() {
        let experiment = read(&["method=[ap, {name: lora, rank: 2}]"]).unwrap();
        let names: Vec<_> = experiment.method.iter().map(|m| m.typetag_name()).collect();
        assert_eq!(names, ["ap", "lora"]);
    }

    #[test]
    fn every_mistake_is_one_message_with_its_path() {
        let cases = [
            (
                vec!["method.name=lroa"],
                "method: unknown name \"lroa\"; did you mean \"lora\"?",
            ),
            (vec!["method.rnak=4"], "method.rnak: unknown field `rnak`"),
            (vec!["method.rnak=4"], "did you mean `rank`?"),
            (
                vec!["method.rank=four"],
                "method.rank: invalid type: string \"four\"",
            ),
            (vec!["recipe.epochs=many"], "recipe.epochs: invalid type"),
            (
                vec!["recipe.optimizer.lr=-1"],
                "recipe.optimizer.lr: expected",
            ),
            (vec!["backbone=vit-mikro"], "did you mean \"vit-micro\"?"),
            (vec!["dataset=digitz"], "did you mean \"digits\"?"),
            (vec!["sed=1"], "unknown field `sed`"),
            (vec!["seed"], "expected field=value"),
        ];
        for (overrides, part) in cases {
            let message = error(&overrides);
            assert!(message.contains(part), "{overrides:?}: {message}");
        }
    }
}
