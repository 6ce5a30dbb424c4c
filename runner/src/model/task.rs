//! What an experiment must not ask for of images with several labels, and the other way round.

use crate::config::experiment::Experiment;
use crate::config::head::HeadConfig;
use crate::config::recipe::Sampling;
use crate::data::held_out::Data;
use crate::exit::{Failure, config_error};
use crate::train::metrics::Metric;

/// Refuses a metric that is not defined for the labels of a data set, and settings that need one label per
/// image where there are several.
///
/// # Errors
/// The field, and what would be right.
pub fn check(experiment: &Experiment, data: &Data) -> Result<(), Failure> {
    let many = data.is_multi_label();
    let metric = experiment.metric;
    if !metric.fits(many) {
        let fitting = Metric::ALL.into_iter().filter(|other| other.fits(many));
        let fitting: Vec<String> = fitting.map(name).collect();
        let (metric, fitting) = (name(metric), fitting.join(", "));
        let got = match many {
            true => "several labels per image",
            false => "one label per image",
        };
        return Err(config_error(format!(
            "metric: {metric} is not defined for the data set, which has {got}; expected one of {fitting}"
        )));
    }
    if metric == Metric::WorstGroup && data.groups().is_empty() {
        return Err(config_error(
            "metric: worst_group: the data set has no groups; expected another metric, such as top1",
        ));
    }
    if !many {
        return Ok(());
    }
    let recipe = &experiment.recipe;
    let asked = [
        (
            "recipe.class_weights",
            recipe.class_weights.is_some(),
            "no weights of classes",
        ),
        ("recipe.label_smoothing", recipe.label_smoothing != 0.0, "0"),
        (
            "recipe.sampling",
            recipe.sampling != Sampling::Shuffled,
            "shuffled",
        ),
        (
            "head",
            !matches!(experiment.head, HeadConfig::Linear { .. }),
            "a linear one",
        ),
    ];
    match asked.into_iter().find(|(_, asked, _)| *asked) {
        None => Ok(()),
        Some((field, _, expected)) => Err(config_error(format!(
            "{field}: expected {expected}, because the images of the data set have several labels"
        ))),
    }
}

/// A metric as YAML spells it.
fn name(metric: Metric) -> String {
    let name = serde_json::to_value(metric).unwrap_or_default();
    name.as_str().unwrap_or_default().to_owned()
}
