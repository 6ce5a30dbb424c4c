//! A backbone with its weights, loaded once. Trials and adapters are overlays on it that share its tensors.

use peft_core::backbone::BoxedBackbone;
use peft_core::checkpoint::{CheckpointHead, load_backbone};
use peft_core::facts::{Stated, resolve};
use peft_core::input::Published;
use peft_core::{BackboneConfig, Init, Plug};

use crate::config::find;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};

/// A backbone, filled from its weights file or at random.
pub struct Base {
    /// The configuration: the YAML's, completed by what came with the weights.
    pub config: Box<dyn BackboneConfig>,
    /// The backbone, on the plain device.
    pub backbone: BoxedBackbone,
    /// The head that came with the checkpoint.
    pub head: Option<CheckpointHead>,
    /// The names of its classes, in the order of its rows, if the file beside the weights has them.
    pub classes: Option<Vec<String>>,
    /// Hash of the weights file; absent for random weights.
    pub weights_hash: Option<String>,
    /// Remarks that are printed once before a run.
    pub remarks: Vec<String>,
}

impl Base {
    /// Builds and fills it; random values come from `seed`.
    ///
    /// # Errors
    /// If the configuration or the weights file is wrong, with the field or the path.
    pub fn open(
        mut config: Box<dyn BackboneConfig>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self, Failure> {
        let at =
            |key: &'static str| move |e: peft_core::Error| config_error(format_args!("{key}: {e}"));
        let mut remarks = Vec::new();
        let mut source = config.source();
        let weights = match &source.weights {
            None => None,
            Some(file) => Some(find::checkpoint(file).map_err(|failure| {
                config_error(format_args!("backbone.weights: {:#}", failure.error))
            })?),
        };
        let published = weights.as_ref().map(|file| Published::beside(file.path()));
        let published = published.transpose().map_err(at("backbone.weights"))?;
        let (mut classes, mut followed) = (None, Vec::new());
        if let Some(published) = published.flatten() {
            let path = published.path.display();
            let unknown = published.remarks.iter();
            remarks.extend(unknown.map(|remark| format!("backbone: {path}: {remark}")));
            let taken = source.take(&published);
            remarks.extend(taken.iter().map(|remark| format!("backbone: {remark}")));
            config.set_source(source.clone());
            let resolved = resolve(&*config, &published, Stated::Configuration);
            let resolved = resolved.map_err(at("backbone"))?;
            remarks.extend(
                resolved
                    .remarks
                    .iter()
                    .map(|remark| format!("backbone: {remark}")),
            );
            config = resolved.config;
            followed = resolved.followed;
            classes = published.classes;
        }
        let init = match weights {
            Some(_) => Init::empty(&device.device),
            None => Init::seeded(&device.device, seed),
        };
        let backbone = Plug::new(config.build(&init).map_err(at("backbone"))?);
        let Some(file) = weights else {
            let random = "no weights are given, the values are random";
            remarks.push(format!("backbone: {random} (seed {seed})"));
            return Ok(Self {
                config,
                backbone,
                head: None,
                classes: None,
                weights_hash: None,
                remarks,
            });
        };
        let loaded =
            load_backbone(backbone, &file, source.layout.as_deref()).map_err(|e| match e {
                peft_core::Error::Config { .. } => at("backbone")(e),
                e if followed.is_empty() => at("backbone.weights")(e),
                // What the file beside them states may be what does not fit.
                e => config_error(format_args!(
                    "backbone.weights: {e}; the file beside the weights states {}",
                    followed.join(", ")
                )),
            })?;
        remarks.extend(loaded.remarks);
        let rows = loaded.head.as_ref().map(|head| head.bias.shape()[0]);
        if let (Some(rows), Some(names)) = (rows, &classes)
            && rows != names.len()
        {
            let names = names.len();
            remarks.push(format!(
                "backbone: the file beside the weights names {names} classes and their head has {rows}: the \
                 names are not used"
            ));
            classes = None;
        }
        Ok(Self {
            config,
            backbone: loaded.backbone,
            head: loaded.head,
            classes,
            weights_hash: Some(file.hash()),
            remarks,
        })
    }
}
