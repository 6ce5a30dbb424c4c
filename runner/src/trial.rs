//! A trial: an experiment whose data are open and whose model is assembled.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device};
use peft_core::backbone::InputSpec;
use peft_core::data::{Dataset, Split};
use peft_core::params::{self, Tensors};
use peft_core::weights::{CheckpointHead, WeightsFile, load_backbone};
use peft_core::{BackboneSpec, Init, LinearHead, Model, Plug};

use crate::configs::{self, Weights};
use crate::device::Chosen;
use crate::exit::{Failure, config_error};
use crate::experiment::{Experiment, HeadConfig, HeadFrom};
use crate::recipe::Precision;

/// Everything that a run needs, validated.
pub struct Trial {
    /// What the YAML said.
    pub experiment: Experiment,
    /// The images.
    pub dataset: Box<dyn Dataset>,
    /// What the backbone, or the method for it, wants of them.
    pub input: InputSpec,
    /// The backbone's boundaries and sites.
    pub spec: BackboneSpec,
    /// Trainable parameters by the methods' formulas, without the head.
    pub formula: usize,
    /// Hash of the weights file; absent for random weights.
    pub weights_hash: Option<String>,
    /// Hash of everything that changes results.
    pub hash: String,
    /// Said once before the run: what was dropped or drawn at random.
    pub remarks: Vec<String>,
}

impl Trial {
    /// Opens data and weights and assembles the model, on the plain device.
    ///
    /// # Errors
    /// What is wrong with a path, a file, a shape or a target, with the component's name.
    pub fn open(experiment: Experiment, device: &Chosen) -> Result<(Self, Model), Failure> {
        let at =
            |key: &'static str| move |e: peft_core::Error| config_error(format_args!("{key}: {e}"));
        let input = experiment.backbone.input().map_err(at("backbone"))?;
        let mut methods = experiment.method.iter();
        let input = methods
            .try_fold(input, |input, method| method.input(input))
            .map_err(at("method"))?;
        let dataset = experiment.dataset.open().map_err(at("dataset"))?;
        for split in Split::ALL {
            if dataset.is_empty(split) {
                return Err(config_error(format!("dataset: the {split} split is empty")));
            }
        }
        let classes = dataset.classes().len();
        let mut remarks = Vec::new();

        let weights = match experiment.backbone.weights() {
            None => None,
            Some(path) => Some(open_weights(path)?),
        };
        let init = Init::seeded(&device.device, experiment.seed);
        let start = match weights {
            Some(_) => Init::empty(&device.device),
            None => init.clone(),
        };
        let built = experiment.backbone.build(&start).map_err(at("backbone"))?;
        let mut backbone = Plug::new(built);
        let mut checkpoint_head = None;
        match &weights {
            Some(file) => {
                (backbone, checkpoint_head) =
                    load_backbone(backbone, file).map_err(at("backbone.weights"))?;
            }
            None => remarks.push(format!(
                "backbone: no weights are given, the values are random (seed {})",
                experiment.seed
            )),
        }
        let head = LinearHead::new(backbone.spec().features, classes, &init);
        let head = match (&experiment.head, checkpoint_head) {
            (
                HeadConfig::Linear {
                    from: HeadFrom::New,
                },
                Some(old),
            ) => {
                let outputs = old.bias.shape()[0];
                remarks.push(format!(
                    "head: the checkpoint's ({outputs} classes) is dropped for a new one"
                ));
                head
            }
            (
                HeadConfig::Linear {
                    from: HeadFrom::New,
                },
                None,
            ) => head,
            (
                HeadConfig::Linear {
                    from: HeadFrom::Checkpoint,
                },
                None,
            ) => {
                return Err(config_error("head.from: the checkpoint has no head"));
            }
            (
                HeadConfig::Linear {
                    from: HeadFrom::Checkpoint,
                },
                Some(old),
            ) => head_from(old, classes, &device.device)?,
        };
        let formulas = experiment.method.iter().map(|m| m.formula(&*backbone));
        let formula = formulas
            .sum::<peft_core::Result<usize>>()
            .map_err(at("method"))?;
        let model =
            Model::assemble(backbone, &experiment.method, head, &init).map_err(at("method"))?;
        let said = model.remarks().iter();
        remarks.extend(said.map(|remark| format!("method: {remark}")));
        if experiment.save_model && !model.adapters.is_empty() {
            return Err(config_error(
                "save_model: the method adds adapters; expected one that only tunes the backbone",
            ));
        }
        let model = match experiment.recipe.precision {
            Precision::F32 => model,
            Precision::Bf16 if device.device.supports_dtype(DType::BF16) => {
                model.with_compute_type(DType::BF16)
            }
            Precision::Bf16 => {
                let message = format!("recipe.precision: {} has no bf16", device.name);
                return Err(config_error(message));
            }
        };
        let weights_hash = weights.as_ref().map(WeightsFile::hash);
        let fingerprint = dataset.fingerprint().map_err(at("dataset"))?;
        let hash = hash(&experiment, weights_hash.as_deref(), &fingerprint)?;
        let trial = Self {
            spec: model.spec().clone(),
            experiment,
            dataset,
            input,
            formula,
            weights_hash,
            hash,
            remarks,
        };
        Ok((trial, model))
    }

    /// A readable slug and 8 digits of the hash.
    pub fn slug(&self) -> String {
        let methods = self.experiment.method.iter();
        let method: Vec<_> = methods.map(|method| method.typetag_name()).collect();
        let parts = [
            method.join("+"),
            self.experiment.backbone.typetag_name().to_owned(),
            self.experiment.dataset.typetag_name().to_owned(),
            format!("s{}", self.experiment.seed),
            self.hash[..8].to_owned(),
        ];
        parts.join("-")
    }

    /// The run's folder below `runs`.
    pub fn folder(&self, runs: &Path) -> PathBuf {
        runs.join(&self.experiment.name).join(self.slug())
    }

    /// What images the model computes in.
    pub fn compute_type(&self) -> DType {
        match self.experiment.recipe.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

fn open_weights(path: &Path) -> Result<WeightsFile, Failure> {
    let opened = match configs::weights(path)? {
        Weights::File(path) => WeightsFile::open(&path),
        Weights::Bundled(name, bytes) => WeightsFile::bundled(name, bytes),
    };
    opened.map_err(|e| config_error(format_args!("backbone.weights: {e}")))
}

fn head_from(old: CheckpointHead, classes: usize, device: &Device) -> Result<LinearHead, Failure> {
    let outputs = old.bias.shape()[0];
    if outputs != classes {
        return Err(config_error(format!(
            "head.from: the checkpoint's head has {outputs} classes, the data set {classes}"
        )));
    }
    Ok(LinearHead::from_checkpoint(old, device))
}

/// Hash of what changes results: the resolved experiment without its name, with weights and data by
/// content. Device, threads and output folder are not in it.
fn hash(experiment: &Experiment, weights: Option<&str>, data: &str) -> Result<String, Failure> {
    let mut value = serde_json::to_value(experiment)
        .map_err(|e| config_error(format!("the experiment cannot be written: {e}")))?;
    value["name"] = serde_json::Value::Null;
    value["backbone"]["weights"] = weights.into();
    value["dataset"]["content"] = data.into();
    // A moved image folder is the same data.
    if let Some(dataset) = value["dataset"].as_object_mut() {
        dataset.remove("root");
    }
    Ok(blake3::hash(value.to_string().as_bytes())
        .to_hex()
        .to_string())
}

/// The whole model under the checkpoint's own keys.
pub fn checkpoint_tensors(model: &Model) -> Tensors {
    let head = &model.spec().head_name;
    params::read(&model.valid(), |_| true)
        .into_iter()
        .map(|(name, data)| {
            let name = match name.strip_prefix("head.") {
                Some(part) => format!("{head}.{part}"),
                None => name.trim_start_matches("backbone.").to_owned(),
            };
            (name, data)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Loader, preprocess};
    use crate::train::evaluate;

    fn open(config: &str, overrides: &[&str]) -> Result<(Trial, Model), String> {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        Experiment::read(config, &overrides)
            .and_then(|experiment| Trial::open(experiment, &Chosen::cpu()))
            .map_err(|failure| failure.error.to_string())
    }

    #[test]
    fn a_frame_asks_for_smaller_images() {
        for (config, size) in [("peft/vp-frame.yaml", 24), ("peft/vp-border.yaml", 32)] {
            let (trial, model) = open(config, &[]).unwrap();
            assert_eq!((trial.input.size, model.spec().input.size), (size, 32));
            let loader = Loader {
                dataset: &*trial.dataset,
                split: Split::Validation,
                preprocess: preprocess(&trial.input),
                batch_size: 64,
            };
            let device = Chosen::cpu();
            let (metrics, _) = evaluate(&model, &loader, &device, DType::F32).unwrap();
            assert!(metrics.loss.is_finite());
        }
    }

    #[test]
    fn the_configs_of_what_is_tuned_open() {
        for config in ["norm-tune", "bias", "full-finetune-decay", "vp"] {
            let (trial, model) = open(&format!("peft/{config}.yaml"), &[]).unwrap();
            let counts = model.counts();
            assert_eq!(counts.trainable - counts.head, trial.formula, "{config}");
        }
    }

    #[test]
    fn a_size_that_does_not_fit_is_an_error_of_the_method() {
        let error = open("peft/vp-frame.yaml", &["method.inner=32"]).err();
        let expected = "method: inner: expected 1 to 31 pixels on images of 32 pixels, got 32";
        assert_eq!(error.as_deref(), Some(expected));
    }
}
