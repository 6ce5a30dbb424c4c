//! A backbone with its weights, loaded once: trials and adapters are overlays on it that share its
//! tensors.

use std::path::Path;

use peft_core::backbone::BoxedBackbone;
use peft_core::checkpoint::{Checkpoint, CheckpointHead, load_backbone};
use peft_core::{BackboneConfig, Init, Plug};

use crate::configs::{self, Weights};
use crate::device::Chosen;
use crate::exit::{Failure, config_error};

/// A backbone, filled from its weights file or at random.
pub struct Base {
    /// The backbone, on the plain device.
    pub backbone: BoxedBackbone,
    /// The head that came with the checkpoint.
    pub head: Option<CheckpointHead>,
    /// Hash of the weights file; absent for random weights.
    pub weights_hash: Option<String>,
    /// Said once before a run.
    pub remarks: Vec<String>,
}

impl Base {
    /// Builds and fills it; random values come from `seed`.
    ///
    /// # Errors
    /// What is wrong with the configuration or the weights file.
    pub fn open(config: &dyn BackboneConfig, seed: u64, device: &Chosen) -> Result<Self, Failure> {
        let at =
            |key: &'static str| move |e: peft_core::Error| config_error(format_args!("{key}: {e}"));
        let weights = match config.weights() {
            None => None,
            Some(path) => Some(open_weights(path)?),
        };
        let init = match weights {
            Some(_) => Init::empty(&device.device),
            None => Init::seeded(&device.device, seed),
        };
        let backbone = Plug::new(config.build(&init).map_err(at("backbone"))?);
        let Some(file) = weights else {
            return Ok(Self {
                backbone,
                head: None,
                weights_hash: None,
                remarks: vec![format!(
                    "backbone: no weights are given, the values are random (seed {seed})"
                )],
            });
        };
        let forced = config.layout();
        let loaded = load_backbone(backbone, &file, forced).map_err(at("backbone.weights"))?;
        Ok(Self {
            backbone: loaded.backbone,
            head: loaded.head,
            weights_hash: Some(file.hash()),
            remarks: loaded.remarks,
        })
    }
}

fn open_weights(path: &Path) -> Result<Checkpoint, Failure> {
    let opened = match configs::weights(path)? {
        Weights::File(path) => Checkpoint::open(&path),
        Weights::Bundled(name, bytes) => Checkpoint::bundled(name, bytes),
    };
    opened.map_err(|e| config_error(format_args!("backbone.weights: {e}")))
}
