//! A model as a checkpoint that other libraries load.

use burn::module::Module;
use peft_core::Model;
use peft_core::params::{self, ParamInfo, Tensors};

/// The whole model under the checkpoint's own names. A text head is left out: checkpoints have none.
pub fn checkpoint_tensors(model: &Model) -> Tensors {
    let head = &model.spec().head_name;
    let in_checkpoint = |info: &ParamInfo| model.head.trains() || !info.name.starts_with("head.");
    params::read(&model.valid(), in_checkpoint)
        .into_iter()
        .map(|(name, data)| {
            let name = match name.strip_prefix("head.") {
                Some(part) => format!("{head}.{part}"),
                None => name.strip_prefix("backbone.").unwrap_or(&name).to_owned(),
            };
            (name, data)
        })
        .collect()
}
