//! The head of a model: drawn from the seed, taken from the checkpoint, or made of text embeddings.

use std::path::Path;

use burn::tensor::Device;
use peft_core::checkpoint::{Checkpoint, CheckpointHead};
use peft_core::head::CLASSES;
use peft_core::{Head, Init, LinearHead, TextHead};

use crate::config::head::{HeadConfig, HeadFrom};
use crate::exit::{Failure, config_error};
use crate::model::base::Base;
use crate::model::parts::at;

/// The head that `config` describes, on the features of `base`, for these classes. New values are drawn
/// from `init`.
///
/// # Errors
/// If the checkpoint has no head or one of another size, or an embedding is missing.
pub fn head(
    config: &HeadConfig,
    base: &Base,
    classes: &[String],
    init: &Init,
    device: &Device,
) -> Result<Head, Failure> {
    let features = base.backbone.spec().features;
    match config {
        HeadConfig::Linear {
            from: HeadFrom::New,
        } => Ok(LinearHead::new(features, classes.len(), init).into()),
        HeadConfig::Linear {
            from: HeadFrom::Checkpoint,
        } => match &base.head {
            None => Err(config_error("head.from: the checkpoint has no head")),
            Some(head) => Ok(of_checkpoint(head, classes.len(), device)?.into()),
        },
        HeadConfig::Text {
            embeddings,
            tensor,
            scale,
        } => {
            let file = text_embeddings(embeddings)?;
            let rows = (classes, features);
            let head = TextHead::read(&file, tensor.as_deref(), rows, *scale, device);
            Ok(head.map_err(at("head.embeddings"))?.into())
        }
    }
}

fn of_checkpoint(
    head: &CheckpointHead,
    classes: usize,
    device: &Device,
) -> Result<LinearHead, Failure> {
    let outputs = head.bias.shape()[0];
    if outputs != classes {
        return Err(config_error(format!(
            "head.from: the checkpoint's head has {outputs} classes, the data set {classes}"
        )));
    }
    Ok(LinearHead::from_checkpoint(head.clone(), device))
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
