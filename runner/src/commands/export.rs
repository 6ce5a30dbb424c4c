//! `runner export RUN`: a trained adapter in HF PEFT's form.

use std::path::PathBuf;

use peft_core::{adapter_file, hf_peft};

use crate::cli::{PlaceArgs, TrainedArgs};
use crate::commands::{Loaded, load, on_pool};
use crate::exit::{Failure, config_error};

/// Writes a folder that the library `peft` loads onto the model of `layout`.
pub fn export(
    which: &TrainedArgs,
    layout: &str,
    out: Option<PathBuf>,
    place: &PlaceArgs,
) -> Result<(), Failure> {
    if which.scale.is_some_and(|scale| scale != 1.0) {
        return Err(config_error(
            "--scale: HF PEFT's folders hold adapters as they are",
        ));
    }
    let out = out.unwrap_or_else(|| which.run.join("hf-peft"));
    on_pool(place, |device| {
        let Loaded { trial, model } = load(which, &device)?;
        let backbone = &*model.backbone;
        let layout = hf_peft::layout(layout, backbone)?;
        let [method] = &trial.experiment.method[..] else {
            return Err(config_error(
                "method: HF PEFT's folders hold one method, the run has several",
            ));
        };
        let values = adapter_file::tensors(&model);
        let folder = hf_peft::export(&**method, backbone, &layout, &values)?;
        let folder = folder.ok_or_else(|| {
            config_error(format!("method: HF PEFT has no {}", method.typetag_name()))
        })?;
        folder.write(&out)?;
        println!("adapter           {}", out.display());
        Ok(())
    })
}
