//! A backbone with its weights, loaded once. Trials and adapters are overlays on it that share its tensors.

use peft_core::backbone::BoxedBackbone;
use peft_core::checkpoint::{Checkpoint, CheckpointHead, load_backbone};
use peft_core::facts::{Published, Stated, contradictions, resolve};
use peft_core::{BackboneConfig, Init, Plug};

use crate::config::find;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};

/// A configuration of a backbone, completed by what the files beside its weights state.
pub struct Completed {
    /// The configuration.
    pub config: Box<dyn BackboneConfig>,
    /// Remarks on facts that were followed, passed over or overruled.
    pub remarks: Vec<String>,
    /// The configuration as it was before.
    written: Box<dyn BackboneConfig>,
    /// The weights, if it names some.
    weights: Option<Checkpoint>,
    /// The facts in the files beside them.
    published: Option<Published>,
    /// The facts that were taken from there, as `name value`.
    followed: Vec<String>,
}

impl Completed {
    /// Finds the weights and completes the configuration.
    ///
    /// # Errors
    /// If the weights are not there, or a file beside them contradicts the configuration.
    pub fn of(mut config: Box<dyn BackboneConfig>) -> Result<Self, Failure> {
        let mut remarks = Vec::new();
        let mut source = config.source();
        let weights = match source.file() {
            None => None,
            Some(file) => Some(find::checkpoint(file).map_err(|failure| {
                config_error(format_args!("backbone.weights: {:#}", failure.error))
            })?),
        };
        let published = weights.as_ref().map(|file| Published::beside(file.path()));
        let published = published.transpose().map_err(at("backbone.weights"))?;
        let published = published.flatten();
        let size = published.as_ref().and_then(Published::image_size);
        let weights = weights.map(|file| file.with_image_size(size));
        let written = config.clone();
        let mut followed = Vec::new();
        if let Some(published) = &published {
            let states_size = serde_json::json!(config).get("img_size").is_some();
            if let Some(message) = source.unfollowed(published, states_size).first() {
                return Err(config_error(format_args!("backbone: {message}")));
            }
            let taken = source.take(published);
            remarks.extend(published.remarks.iter().cloned().chain(taken));
            config.set_source(source.clone());
            let resolved = resolve(&*config, published, Stated::Configuration);
            let resolved = resolved.map_err(at("backbone"))?;
            remarks.extend(resolved.remarks);
            for remark in &mut remarks {
                remark.insert_str(0, "backbone: ");
            }
            config = resolved.config;
            followed = resolved.followed;
        }
        Ok(Self {
            config,
            remarks,
            written,
            weights,
            published,
            followed,
        })
    }
}

/// Puts the field of the YAML to which an error belongs before it.
fn at(key: &'static str) -> impl Fn(peft_core::Error) -> Failure {
    move |e| config_error(format_args!("{key}: {e}"))
}

/// A backbone, filled from its weights file or at random.
pub struct Base {
    /// The configuration: the YAML's, completed by what came with the weights.
    pub config: Box<dyn BackboneConfig>,
    /// The backbone, on the plain device.
    pub backbone: BoxedBackbone,
    /// The head that came with the checkpoint.
    pub head: Option<CheckpointHead>,
    /// Why the head that came with it cannot be read, if it cannot.
    pub unread_head: Option<String>,
    /// The names of its classes, in the order of its rows, if the file beside the weights has them.
    pub classes: Option<Vec<String>>,
    /// Hash of the weights file; absent for random weights.
    pub weights_hash: Option<String>,
    /// Remarks that are printed once before a run.
    pub remarks: Vec<String>,
}

impl Base {
    /// Why there is no head from the checkpoint where one is asked for.
    pub fn no_head(&self) -> Failure {
        match &self.unread_head {
            Some(why) => config_error(format_args!("head.from: {why}")),
            None => config_error("head.from: the checkpoint has no head"),
        }
    }

    /// Builds and fills it; random values come from `seed`.
    ///
    /// # Errors
    /// If the configuration or the weights file is wrong, with the field or the path.
    pub fn open(
        config: Box<dyn BackboneConfig>,
        seed: u64,
        device: &ComputeDevice,
    ) -> Result<Self, Failure> {
        let Completed {
            config,
            written,
            weights,
            published,
            followed,
            mut remarks,
        } = Completed::of(config)?;
        let source = config.source();
        let mut classes = published.as_ref().and_then(|own| own.classes.clone());
        // What a file beside the weights states may be what does not fit.
        let and_followed = |message: String| {
            let beside = published.as_ref().map(|published| published.path.display());
            match beside.filter(|_| !followed.is_empty()) {
                None => config_error(message),
                Some(path) => {
                    let followed = followed.join(", ");
                    config_error(format_args!(
                        "{message}; beside the weights, {path} states {followed}"
                    ))
                }
            }
        };
        let init = match weights {
            Some(_) => Init::empty(&device.device),
            None => Init::seeded(&device.device, seed),
        };
        let backbone = Plug::new(
            config
                .build(&init)
                .map_err(|e| and_followed(format!("backbone: {e}")))?,
        );
        let Some(file) = weights else {
            let random = match source.weights {
                Some(_) => "weights are random, as the configuration says",
                None => "no weights are given, the values are random",
            };
            remarks.push(format!(
                "backbone: {random} (seed {seed}), and not pretrained"
            ));
            return Ok(Self {
                config,
                backbone,
                head: None,
                unread_head: None,
                classes: None,
                weights_hash: None,
                remarks,
            });
        };
        let loaded = load_backbone(backbone, &file, source.layout.as_deref());
        let loaded = loaded.map_err(|e| match e {
            peft_core::Error::Config { .. } => at("backbone")(e),
            e => match &contradictions(&*config, &*written, published.as_ref(), &file)[..] {
                [] => and_followed(format!("backbone.weights: {e}")),
                lines => {
                    let lines = lines.join("\n  ");
                    config_error(format_args!("backbone: {lines}\nbackbone.weights: {e}"))
                }
            },
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
            unread_head: loaded.unread_head,
            classes,
            weights_hash: Some(file.hash()),
            remarks,
        })
    }
}
