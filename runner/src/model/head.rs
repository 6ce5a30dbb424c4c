//! The head of a model: drawn from the seed, taken from the checkpoint with or without a label map, or made of text
//! embeddings.

use std::path::Path;

use burn::tensor::Device;
use peft_core::checkpoint::{Checkpoint, CheckpointHead};
use peft_core::head::CLASSES;
use peft_core::{Head, Init, LinearHead, MappedHead, TextHead};

use crate::config::head::{HeadConfig, HeadFrom};
use crate::exit::{Failure, config_error};
use crate::model::base::Base;
use crate::model::classes::{Join, reordered};
use crate::model::label_map;
use crate::model::parts::at;

/// The head that `config` describes, on so many features of a model on `base`, for these classes. New values are drawn
/// from `init`; others are joined with the classes by name. `remarks` hears of an order that had to be
/// assumed or changed.
///
/// # Errors
/// If the checkpoint has no head, its head lacks a class, or an embedding is missing.
pub fn head(
    config: &HeadConfig,
    base: &Base,
    features: usize,
    classes: &[String],
    init: &Init,
    device: &Device,
    remarks: &mut Vec<String>,
) -> Result<Head, Failure> {
    match config {
        HeadConfig::Linear {
            from: HeadFrom::New,
        } => Ok(LinearHead::new(features, classes.len(), init).into()),
        HeadConfig::Linear {
            from: HeadFrom::Checkpoint,
        } => match &base.head {
            None => Err(base.no_head()),
            Some(head) => {
                let head = of_checkpoint(head, base.classes.as_deref(), classes, remarks)?;
                Ok(LinearHead::from_checkpoint(head, device).into())
            }
        },
        HeadConfig::Text {
            embeddings,
            tensor,
            scale,
        } => {
            let file = text_embeddings(embeddings)?;
            if !file.metadata().contains_key(CLASSES) {
                remarks.push(format!(
                    "head: {} has no class names: its rows are taken in the data set's order",
                    embeddings.display()
                ));
            }
            let rows = (classes, features);
            let head = TextHead::read(&file, tensor.as_deref(), rows, *scale, device);
            Ok(head.map_err(at("head.embeddings"))?.into())
        }
        HeadConfig::LabelMapping { sources, every, .. } => {
            let Some(head) = &base.head else {
                return Err(config_error(
                    "head: label-mapping: the checkpoint has no head",
                ));
            };
            if *every == 0 {
                return Err(config_error("head.every: expected at least 1, got 0"));
            }
            let (own, targets) = (head.bias.shape()[0], classes.len());
            label_map::check(own, targets, *sources)?;
            // The other kinds replace it before the first epoch.
            let mapping = label_map::random(own, targets, *sources, init.seed());
            Ok(MappedHead::new(head.clone(), &mapping, device).into())
        }
    }
}

/// The rows of a checkpoint's head for these classes.
fn of_checkpoint(
    head: &CheckpointHead,
    names: Option<&[String]>,
    classes: &[String],
    remarks: &mut Vec<String>,
) -> Result<CheckpointHead, Failure> {
    let outputs = head.bias.shape()[0];
    let Some(names) = names else {
        if outputs != classes.len() {
            let classes = classes.len();
            return Err(config_error(format!(
                "head.from: the checkpoint's head has {outputs} classes, the data set {classes}"
            )));
        }
        remarks.push(
            "head: the checkpoint has no class names (id2label or label_names in its config.json): its \
             rows are taken in the data set's order"
                .to_owned(),
        );
        return Ok(head.clone());
    };
    let join = Join::by_name(names, classes);
    let join = join.map_err(|message| config_error(format!("head.from: {message}")))?;
    remarks.extend(join.remark(outputs).map(|remark| format!("head: {remark}")));
    Ok(match join {
        Join::Same | Join::Assumed => head.clone(),
        Join::Rows(rows) => reordered(head, &rows),
    })
}

/// Opens a file of text embeddings.
///
/// # Errors
/// If it cannot be opened or is not a checkpoint.
pub fn text_embeddings(path: &Path) -> Result<Checkpoint, Failure> {
    Checkpoint::open(path).map_err(at("head.embeddings"))
}

/// The names of the classes in the metadata of a file of text embeddings; none if it holds no names.
///
/// # Errors
/// If it cannot be read.
pub fn text_classes(path: &Path) -> Result<Option<Vec<String>>, Failure> {
    let file = text_embeddings(path)?;
    let names = file.metadata().get(CLASSES);
    Ok(names.and_then(|text| serde_json::from_str(text).ok()))
}
