//! The typed experiment: the content of one YAML with defaults filled in and names resolved.

use peft_core::{AdaptationMethod, BackboneConfig, DatasetConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::config::about::About;
use crate::config::cache::{Store, ValueType};
use crate::config::error::ConfigError;
use crate::config::find::{self, Found};
use crate::config::head::HeadConfig;
use crate::config::on_error::OnError;
use crate::config::part::{part_value, take_about, typed_part};
use crate::config::recipe::Recipe;
use crate::config::resolve::{COMPONENTS, resolve_all, unknown_field_hint};
use crate::config::set::set;
use crate::config::start::StartFrom;
use crate::config::stated::Stated;
use crate::exit::{Failure, config_error};
use crate::train::metrics::Metric;

/// One backbone, its method, data and recipe.
// The components are opaque here: `runner schema` fills in what is registered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The folder of the runs below `--runs`. Default: the YAML file's name.
    pub name: String,
    /// The pretrained feature extractor.
    #[schemars(with = "serde_json::Value")]
    pub backbone: Box<dyn BackboneConfig>,
    /// The method that adapts it, or a list of methods that act in order.
    #[serde(serialize_with = "one_or_many")]
    #[schemars(with = "serde_json::Value")]
    pub method: Vec<Box<dyn AdaptationMethod>>,
    /// The data set that it is adapted to.
    #[schemars(with = "serde_json::Value")]
    pub dataset: Box<dyn DatasetConfig>,
    /// The head, which turns features into logits.
    #[serde(default)]
    pub head: HeadConfig,
    /// Optimiser, schedule, epochs, batch, precision, augmentation.
    pub recipe: Recipe,
    /// The seed of initial values, order and dropout.
    #[serde(default)]
    pub seed: u64,
    /// The metric that chooses the epoch and is reported: `top1`, `top5`, `mean_per_class`, `worst_group`,
    /// `f1_macro`, `f1_weighted`, `kappa` or `auroc`; where images have several labels `map`, `f1_micro`,
    /// `f1_macro`, `f1_samples` or `auroc`. Default: the data set's own.
    #[serde(default)]
    pub metric: Metric,
    /// What happens to an image that cannot be read: `fail` ends the run, `skip` leaves the image out,
    /// reports it and counts it.
    #[serde(default)]
    pub on_error: OnError,
    /// Where the outputs of the frozen prefix are stored: `auto`, `off`, `memory`, `disk` or `device`.
    #[serde(default)]
    pub prefix_cache: Store,
    /// The most that the prefix cache may take, in GiB. Default: in memory a quarter of what is
    /// available, on disk 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "f64", extend("exclusiveMinimum" = 0))]
    pub cache_budget_gib: Option<f64>,
    /// The type in which the prefix cache stores values: `f32`, `f16` or `bf16`. Default: the type in
    /// which the prefix computes, so that nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ValueType")]
    pub cache_type: Option<ValueType>,
    /// The number of different changes of each image under random augmentation, one per epoch,
    /// before they repeat, so that the prefix can be cached. 0 draws new ones in every epoch and
    /// caches nothing.
    #[serde(default)]
    pub cache_views: usize,
    /// Start from a trained adapter: a run folder or one of HF PEFT, as a path or as `{path, head}`.
    /// Its methods take the place of `method`. Its head is joined with the data set's classes by name;
    /// with `head: new` it is left out, and the `head` of the experiment takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "StartFrom")]
    pub adapter: Option<StartFrom>,
    /// Whether the whole adapted model is also written under the checkpoint's own keys
    /// (`model.safetensors`); needs a method without adapters, such as full-finetune.
    #[serde(default)]
    pub save_model: bool,
    /// Whether TensorBoard's event files are also written, into `tensorboard/` of the run's folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tensorboard: bool,
}

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
            let expected = "a mapping with backbone, method, dataset and recipe";
            return Err(ConfigError::expected(origin, expected).into());
        };
        let mut stated = Stated::of(&value);
        stated.add_all(overrides);
        for text in overrides {
            set(&mut value, text)?;
        }
        if let Value::Mapping(map) = &mut value {
            map.entry("name".into()).or_insert(stem.into());
        }
        Self::resolved(value, &stated).map_err(|failure| failure.within(&origin))
    }

    /// Makes the experiment of a document in which components may be given by name. What it has `stated`
    /// about the input wins over the protocol of the data set.
    ///
    /// # Errors
    /// One message with the dotted path of what is wrong.
    pub fn resolved(mut document: Value, stated: &Stated) -> Result<Self, Failure> {
        resolve_all(&mut document)?;
        let mut experiment = Self::typed(document).map_err(config_error)?;
        let source = experiment.backbone.source();
        stated.override_transform(&mut *experiment.dataset, &source);
        Ok(experiment)
    }

    /// Reads only the backbone of the YAML called `config`, which may hold nothing else.
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

    /// Reads only the data set of the YAML called `config`, or the shipped one of that name, and
    /// the facts about it if there are any.
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

    /// Makes the experiment of a resolved document, such as a run folder holds.
    ///
    /// # Errors
    /// The dotted path and what was expected.
    pub fn typed(mut value: Value) -> Result<Self, String> {
        // The facts name the metric of the benchmark. It is the default only if the YAML does not
        // name one.
        if let Some(about) = value.get_mut("dataset").and_then(take_about)
            && let (Some(metric), Value::Mapping(map)) = (about.get("metric"), &mut value)
        {
            map.entry("metric".into()).or_insert(metric.clone());
        }
        // A single method is read as a list of one, and paths in messages must still be those that
        // were written.
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
        Experiment::read("peft/lora-r10.yaml", &overrides).map_err(|f| f.to_string())
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
