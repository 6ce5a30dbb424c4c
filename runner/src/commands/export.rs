//! `runner export RUN`: a trained adapter in another library's form.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use peft_core::{AdaptationMethod, adapter_file, hf_peft};

use crate::cli::args::{PlaceArgs, TrainedArgs};
use crate::commands::print::row;
use crate::commands::{assemble, on_pool};
use crate::exit::{Failure, config_error};
use crate::model::assembled::{Assembled, Source};
use crate::model::card::Card;
use crate::model::pytorch::Leaving;
use crate::run::folder::finished;

/// Write a trained adapter in another library's form.
#[derive(Args, Clone)]
#[command(after_help = "Examples:
  runner export runs/lora-r10/TRIAL --layout transformers --out lora-for-peft
  runner export runs/lora-r10/TRIAL --format pytorch --out lora-for-timm")]
pub struct ExportArgs {
    #[command(flatten)]
    pub trained: TrainedArgs,
    /// The form.
    #[arg(long, value_enum, default_value = "hf-peft")]
    pub format: ExportFormat,
    /// The library whose model an hf-peft folder is for: timm, transformers or transformers-4 [default:
    /// timm].
    #[arg(long)]
    pub layout: Option<String>,
    /// The folder to write [default: hf-peft or pytorch in the run's folder].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The licence of the adapter in the model card of a pytorch folder, as hubs spell it: apache-2.0.
    #[arg(long, value_name = "NAME")]
    pub license: Option<String>,
    /// The base model in that card, as a hub calls it: timm/vit_base_patch16_224.augreg_in21k.
    #[arg(long, value_name = "OWNER/NAME")]
    pub base_model: Option<String>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Other libraries' forms of adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// adapter_config.json and adapter_model.safetensors, which the library `peft` loads.
    HfPeft,
    /// adapter.safetensors, config.json and a model card, which the package in python/ loads onto a timm or
    /// torchvision model; every method.
    #[value(name = "pytorch")]
    PyTorch,
}

impl ExportFormat {
    /// The folder below the run's.
    fn folder(self) -> &'static str {
        match self {
            Self::HfPeft => "hf-peft",
            Self::PyTorch => "pytorch",
        }
    }
}

/// Writes a folder that another library loads.
pub fn export(args: &ExportArgs) -> Result<(), Failure> {
    let ExportArgs {
        trained,
        format,
        out,
        place,
        ..
    } = args;
    if trained.scale.is_some_and(|scale| scale != 1.0) {
        return Err(config_error(
            "--scale: exported folders hold adapters as they are",
        ));
    }
    args.check()?;
    let out = out.clone();
    let out = out.unwrap_or_else(|| trained.run.join(format.folder()));
    on_pool(place, |device| {
        let (source, assembled) = assemble(trained, &device)?;
        match format {
            ExportFormat::HfPeft => args.hf_peft(&assembled, &out)?,
            ExportFormat::PyTorch => args.pytorch(&source, &assembled, &out)?,
        }
        row("adapter", out.display());
        Ok(())
    })
}

impl ExportArgs {
    /// Refuses arguments of another form.
    fn check(&self) -> Result<(), Failure> {
        let given = [
            ("--layout", self.layout.is_some(), ExportFormat::HfPeft),
            ("--license", self.license.is_some(), ExportFormat::PyTorch),
            (
                "--base-model",
                self.base_model.is_some(),
                ExportFormat::PyTorch,
            ),
        ];
        let other = given
            .iter()
            .find(|(_, is, format)| *is && *format != self.format);
        match other {
            None => Ok(()),
            Some((flag, _, format)) => {
                let format = format.folder();
                Err(config_error(format!(
                    "{flag}: only --format {format} has it"
                )))
            }
        }
    }

    fn hf_peft(&self, assembled: &Assembled, out: &Path) -> Result<(), Failure> {
        let Assembled { model, methods, .. } = assembled;
        let backbone = &*model.backbone;
        let layout = self.layout.as_deref().unwrap_or("timm");
        let layout = hf_peft::layout(layout, backbone)?;
        let values = adapter_file::tensors(model);
        let folder = hf_peft::export(methods, backbone, &layout, &values)?;
        let folder = folder.ok_or_else(|| {
            let names = names(methods).join(" with ");
            config_error(format!(
                "method: HF PEFT has no {names}; --format pytorch takes every method"
            ))
        })?;
        Ok(folder.write(out)?)
    }

    fn pytorch(&self, source: &Source, assembled: &Assembled, out: &Path) -> Result<(), Failure> {
        let experiment = &source.experiment;
        let leaving = Leaving {
            model: &assembled.model,
            methods: &assembled.methods,
            backbone: &*experiment.backbone,
            weights: source.weights_hash(),
            classes: &assembled.classes,
            multi_label: assembled.multi_label,
            input: &assembled.input,
        };
        let files = leaving.files()?;
        // An adapter from elsewhere has other results than the run.
        let own = self.trained.adapter.is_none();
        let summary = own.then(|| finished(&self.trained.run)).flatten();
        let card = Card {
            experiment,
            summary: summary.as_ref(),
            methods: &names(&assembled.methods),
            classes: &assembled.classes,
            multi_label: assembled.multi_label,
            input: &assembled.input,
            license: self.license.as_deref(),
            base_model: self.base_model.as_deref(),
        };
        files.write(out, &card.markdown())
    }
}

fn names(methods: &[Box<dyn AdaptationMethod>]) -> Vec<String> {
    let names = methods.iter().map(|method| method.typetag_name());
    names.map(str::to_owned).collect()
}
