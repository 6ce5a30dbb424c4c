//! The text of the experiment, with a comment for each choice.

use std::path::Path;

use serde_yaml::Value;

use super::choose::{Choice, Machine};
use super::facts::Facts;
use super::seen::Seen;
use crate::exit::{Failure, config_error};

/// Writes the experiment.
///
/// # Errors
/// If the configuration of the data cannot be written as YAML, which none is known not to be.
pub fn yaml(
    name: &str,
    out: &Path,
    seen: &Seen,
    facts: &Facts,
    machine: &Machine,
    choice: &Choice,
) -> Result<String, Failure> {
    let Choice {
        backbone,
        backbone_why,
        method,
        method_why,
        batch,
        epochs,
        rate,
    } = choice;
    let Facts {
        train,
        classes,
        largest,
        smallest,
        multi_label,
    } = facts;
    let dataset = indented(&seen.dataset)?;
    let remarks: String = seen
        .remarks
        .iter()
        .map(|line| format!("# {line}.\n"))
        .collect();
    let metric = match facts.is_unbalanced() {
        _ if *multi_label => {
            "# Images have several labels: the mean average precision; others are f1_micro, f1_macro, f1_samples \
             and auroc.\nmetric: map\n"
                .to_owned()
        }
        true => format!(
            "# The classes have {smallest} to {largest} training images: the mean of the accuracies of the \
             classes weighs them\n# equally, where top1 weighs images.\nmetric: mean_per_class\n"
        ),
        false => {
            "# The accuracy; others are mean_per_class, f1_macro, auroc and kappa (docs/runs.md).\n\
                  metric: top1\n"
                .to_owned()
        }
    };
    let sampling = match facts.is_unbalanced() && !multi_label {
        true => {
            "  # Every class comes equally often; without this line, as often as it has images.\n  \
                 sampling: balanced\n"
        }
        false => "",
    };
    let steps = train.div_ceil(*batch) * epochs;
    Ok(format!(
        "# Written by `runner init`: {kind}, {classes} classes, {train} training images; for {device} with \
         {cores} cores.\n\
         #   runner --config {out}            trains and tests\n\
         #   runner --config {out} --dry-run  prints the plan only\n\
         name: {quoted}\n\n\
         # The pretrained network: {backbone_why}.\n\
         # `runner list backbones` prints the others; --set backbone=vit-base tries one.\n\
         backbone: {backbone}\n\n\
         # What trains: {method_why}.\n\
         # `runner list methods` prints the others; --set method=linear-probe is the quickest.\n\
         method: {method}\n\n\
         {remarks}dataset:\n{dataset}\n\
         recipe:\n  \
           # The rate matters most: if the loss does not fall, try a third of it, or three times as much.\n  \
           optimizer: {{name: adamw, lr: {rate}, weight_decay: 0.0001}}\n  \
           schedule: {{name: cosine, warmup_epochs: 1}}\n  \
           # {steps} steps in all. The epoch with the best validation metric is tested.\n  \
           epochs: {epochs}\n  \
           batch_size: {batch}\n{sampling}  \
           # Photos usually gain from random crops and flips, with which less is cached and an epoch takes longer:\n  \
           # augmentation: {{random_resized_crop: {{scale: [0.5, 1.0]}}, hflip: 0.5}}\n\n\
         {metric}\n\
         # Another seed shows how far results vary by chance.\n\
         seed: 0\n",
        out = out.display(),
        kind = seen.kind,
        device = machine.device,
        cores = machine.cores,
        quoted = quoted(name)?,
    ))
}

/// A mapping as lines that are indented by two.
fn indented(value: &Value) -> Result<String, Failure> {
    let text = serde_yaml::to_string(value).map_err(config_error)?;
    Ok(text.lines().map(|line| format!("  {line}\n")).collect())
}

/// A text as YAML writes it, quoted where it would be something else.
fn quoted(text: &str) -> Result<String, Failure> {
    let text = serde_yaml::to_string(text).map_err(config_error)?;
    Ok(text.trim_end().to_owned())
}
