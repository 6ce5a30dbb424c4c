//! `runner export RUN`: a trained adapter in HF PEFT's form.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use peft_core::{adapter_file, hf_peft};

use crate::cli::args::{PlaceArgs, TrainedArgs};
use crate::commands::print::row;
use crate::commands::{assemble, on_pool};
use crate::exit::{Failure, config_error};
use crate::model::assembled::Assembled;

/// Write a trained adapter in another library's form.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner export runs/lora-r10/TRIAL --layout transformers --out lora-for-peft")]
pub struct ExportArgs {
    #[command(flatten)]
    pub trained: TrainedArgs,
    /// The form.
    #[arg(long, value_enum, default_value = "hf-peft")]
    pub format: ExportFormat,
    /// The library whose model the adapter is for: timm, transformers or transformers-4.
    #[arg(long, default_value = "timm")]
    pub layout: String,
    /// The folder to write [default: hf-peft in the run's folder].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Other libraries' forms of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// adapter_config.json and adapter_model.safetensors.
    HfPeft,
}

/// Writes a folder that the library `peft` loads onto the model of the layout.
pub fn export(args: &ExportArgs) -> Result<(), Failure> {
    let ExportArgs {
        trained,
        format: ExportFormat::HfPeft,
        layout,
        out,
        place,
    } = args;
    if trained.scale.is_some_and(|scale| scale != 1.0) {
        return Err(config_error(
            "--scale: HF PEFT's folders hold adapters as they are",
        ));
    }
    let out = out.clone();
    let out = out.unwrap_or_else(|| trained.run.join("hf-peft"));
    on_pool(place, |device| {
        let (_, Assembled { model, methods, .. }) = assemble(trained, &device)?;
        let backbone = &*model.backbone;
        let layout = hf_peft::layout(layout, backbone)?;
        let values = adapter_file::tensors(&model);
        let folder = hf_peft::export(&methods, backbone, &layout, &values)?;
        let folder = folder.ok_or_else(|| {
            let names: Vec<_> = methods.iter().map(|method| method.typetag_name()).collect();
            config_error(format!("method: HF PEFT has no {}", names.join(" with ")))
        })?;
        folder.write(&out)?;
        row("adapter", out.display());
        Ok(())
    })
}
