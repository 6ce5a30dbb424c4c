//! A trial: an experiment whose data are open and whose model is assembled.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{DType, Device};
use peft_core::activation::BoundaryShape;
use peft_core::backbone::{Cut, InputSpec};
use peft_core::checkpoint::{Checkpoint, CheckpointHead};
use peft_core::params::{self, ParamInfo, Tensors};
use peft_core::{BackboneSpec, DatasetConfig, Head, Init, LinearHead, Model, TextHead};
use peft_datasets::Preprocess;

use crate::config::experiment::Experiment;
use crate::config::head::{HeadConfig, HeadFrom};
use crate::config::recipe::Precision;
use crate::data::held_out::Data;
use crate::device::Chosen;
use crate::exit::{Failure, config_error};
use crate::model::adapter::Adapter;
use crate::model::base::Base;
use crate::train::metrics::Metric;

/// What a trial is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To train on the data set's classes.
    Train,
    /// To use an adapter as it is, with its own classes.
    Use,
}

/// Everything that a run needs, validated.
pub struct Trial {
    /// What the YAML said.
    pub experiment: Experiment,
    /// The images.
    pub data: Arc<Data>,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// What the backbone, or the method for it, wants of the images.
    pub input: InputSpec,
    /// The backbone's boundaries and sites.
    pub spec: BackboneSpec,
    /// Trainable parameters by the methods' formulas, without the head.
    pub formula: usize,
    /// Hash of everything that changes results.
    pub hash: String,
    /// What the hash takes by content.
    content: Content,
    /// A trained adapter to start from.
    pub adapter: Option<Adapter>,
    /// Said once before the run: what was dropped or drawn at random.
    pub remarks: Vec<String>,
}

impl Trial {
    /// Opens data and weights and assembles the model, on the plain device; the values of an adapter
    /// to start from are not written yet (see [`Trial::started`]).
    ///
    /// # Errors
    /// What is wrong with a path, a file, a shape or a target, with the component's name.
    pub fn open(experiment: Experiment, device: &Chosen) -> Result<(Self, Model), Failure> {
        let base = Base::open(experiment.backbone.clone(), experiment.seed, device)?;
        let data = Data::open(&*experiment.dataset, experiment.on_error)?;
        Self::on(&base, data, experiment, Purpose::Train, device)
    }

    /// The same with a backbone and data that are open already.
    ///
    /// # Errors
    /// As [`Trial::open`].
    pub fn on(
        base: &Base,
        data: Arc<Data>,
        mut experiment: Experiment,
        purpose: Purpose,
        device: &Chosen,
    ) -> Result<(Self, Model), Failure> {
        let at =
            |key: &'static str| move |e: peft_core::Error| config_error(format_args!("{key}: {e}"));
        experiment.backbone = base.config.clone();
        let mut classes = data.classes().to_vec();
        if experiment.metric == Metric::WorstGroup && data.groups().is_empty() {
            return Err(config_error(
                "metric: worst_group: the data set has no groups; expected top1 or mean_per_class",
            ));
        }
        let mut remarks = base.remarks.clone();
        let about_data = data.remarks();
        remarks.extend(about_data.iter().map(|text| format!("dataset: {text}")));

        let mut adapter = match &experiment.adapter {
            None => None,
            Some(path) => Some(Adapter::read(path, base)?),
        };
        if let Some(adapter) = &mut adapter {
            let own = adapter
                .remarks
                .iter()
                .map(|remark| format!("adapter: {remark}"));
            remarks.extend(own);
            experiment.method = adapter.methods.clone();
            match (adapter.outputs(), purpose) {
                (Some(outputs), Purpose::Train) if outputs != classes.len() => {
                    adapter.drop_head();
                    remarks.push(format!(
                        "adapter: its head ({outputs} classes) is dropped for a new one"
                    ));
                }
                (Some(outputs), Purpose::Use) => {
                    classes = match adapter.classes.clone() {
                        Some(names) => names,
                        None if outputs == classes.len() => classes,
                        None => (0..outputs).map(|label| label.to_string()).collect(),
                    };
                }
                (None, Purpose::Use) if experiment.head.is_new() => {
                    return Err(config_error(
                        "adapter: its folder holds no head; the checkpoint's is taken with \
                         head.from=checkpoint",
                    ));
                }
                _ => {}
            }
        }
        let input = experiment.backbone.input().map_err(at("backbone"))?;
        let input = experiment.dataset.input(input);
        let mut methods = experiment.method.iter();
        let input = methods
            .try_fold(input, |input, method| method.input(input))
            .map_err(at("method"))?;

        let backbone = base.backbone.clone();
        let init = Init::seeded(&device.device, experiment.seed);
        let features = backbone.spec().features;
        let head: Head = match (&experiment.head, &base.head) {
            (
                HeadConfig::Linear {
                    from: HeadFrom::New,
                },
                old,
            ) => {
                if let Some(old) = old {
                    let outputs = old.bias.shape()[0];
                    remarks.push(format!(
                        "head: the checkpoint's ({outputs} outputs) is dropped for a new one"
                    ));
                }
                LinearHead::new(features, classes.len(), &init).into()
            }
            (HeadConfig::Linear { .. }, None) => {
                return Err(config_error("head.from: the checkpoint has no head"));
            }
            (HeadConfig::Linear { .. }, Some(old)) => {
                head_from(old, classes.len(), &device.device)?.into()
            }
            (
                HeadConfig::Text {
                    embeddings,
                    tensor,
                    scale,
                },
                _,
            ) => {
                let (file, tensor) = (embeddings_of(embeddings)?, tensor.as_deref());
                let rows = (&classes[..], features);
                let head = TextHead::read(&file, tensor, rows, *scale, &device.device);
                head.map_err(at("head.embeddings"))?.into()
            }
        };
        let formulas = experiment.method.iter().map(|m| m.formula(&*backbone));
        let formula = formulas
            .sum::<peft_core::Result<usize>>()
            .map_err(at("method"))?;
        let model =
            Model::assemble(backbone, &experiment.method, head, &init).map_err(at("method"))?;
        if purpose == Purpose::Train && model.counts().trainable == 0 {
            return Err(config_error(
                "method: nothing trains: it adapts nothing and the head is frozen; `runner eval` \
                 takes such a config as it is",
            ));
        }
        remarks.extend(model.remarks().iter().map(|text| format!("method: {text}")));
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
        let embeddings = match &experiment.head {
            HeadConfig::Linear { .. } => None,
            HeadConfig::Text { embeddings, .. } => Some(embeddings_of(embeddings)?.hash()),
        };
        let content = Content {
            weights: base.weights_hash.clone(),
            data: data.fingerprint().to_owned(),
            embeddings,
            adapter: adapter.as_ref().map(Adapter::hash),
        };
        let hash = hash(&experiment, &content)?;
        let trial = Self {
            spec: model.spec().clone(),
            experiment,
            data,
            classes,
            input,
            formula,
            hash,
            content,
            adapter,
            remarks,
        };
        Ok((trial, model))
    }

    /// The hash of a trial of `experiment`, on the same backbone, weights and data and from the same
    /// adapter.
    ///
    /// # Errors
    /// If the experiment cannot be written.
    pub fn hash_of(&self, mut experiment: Experiment) -> Result<String, Failure> {
        // What came with the weights, or with the adapter, is in these.
        experiment.backbone = self.experiment.backbone.clone();
        if self.adapter.is_some() {
            experiment.method = self.experiment.method.clone();
        }
        hash(&experiment, &self.content)
    }

    /// Hash of the weights file; absent for random weights.
    pub fn weights_hash(&self) -> Option<&str> {
        self.content.weights.as_deref()
    }

    /// The model with the values of the adapter that it starts from, if there is one.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn started(&self, model: Model) -> Result<Model, Failure> {
        match &self.adapter {
            Some(adapter) => adapter.fill(model),
            None => Ok(model),
        }
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

    /// The shape of the activation at a cut, of the images as this trial's methods want them.
    pub fn shape_at(&self, cut: Cut) -> BoundaryShape {
        match cut {
            0 => BoundaryShape::Map {
                channels: 3,
                height: self.input.size,
                width: self.input.size,
            },
            cut => self.spec.shape_at(cut),
        }
    }

    /// How images become tensors.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess::new(&self.input)
    }

    /// What images the model computes in.
    pub fn compute_type(&self) -> DType {
        match self.experiment.recipe.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

fn head_from(old: &CheckpointHead, classes: usize, device: &Device) -> Result<LinearHead, Failure> {
    let outputs = old.bias.shape()[0];
    if outputs != classes {
        return Err(config_error(format!(
            "head.from: the checkpoint's head has {outputs} classes, the data set {classes}"
        )));
    }
    Ok(LinearHead::from_checkpoint(old.clone(), device))
}

fn embeddings_of(path: &Path) -> Result<Checkpoint, Failure> {
    let opened = Checkpoint::open(path);
    opened.map_err(|e| config_error(format_args!("head.embeddings: {e}")))
}

/// What an experiment names by path and is hashed by content.
struct Content {
    weights: Option<String>,
    data: String,
    embeddings: Option<String>,
    adapter: Option<String>,
}

/// A data set's configuration without its paths: a moved folder is the same data.
fn dataset_content(config: &dyn DatasetConfig) -> serde_json::Value {
    let mut config = dyn_clone::clone_box(config);
    for path in config.paths_mut() {
        *path = PathBuf::new();
    }
    serde_json::to_value(config).unwrap_or_default()
}

/// Hash of what changes results: the resolved experiment without its name, with weights, data and
/// adapter by content. Device, threads, output folder and where the prefix is cached are not in it.
fn hash(experiment: &Experiment, content: &Content) -> Result<String, Failure> {
    let mut value = serde_json::to_value(experiment)
        .map_err(|e| config_error(format!("the experiment cannot be written: {e}")))?;
    if let Some(map) = value.as_object_mut() {
        for place in ["name", "prefix_cache", "cache_budget_gib"] {
            map.remove(place);
        }
    }
    value["backbone"]["weights"] = content.weights.as_deref().into();
    if let Some(embeddings) = &content.embeddings {
        value["head"]["embeddings"] = embeddings.as_str().into();
    }
    if let Some(adapter) = &content.adapter {
        value["adapter"] = adapter.as_str().into();
    }
    value["dataset"] = dataset_content(&*experiment.dataset);
    value["dataset"]["content"] = content.data.as_str().into();
    Ok(blake3::hash(value.to_string().as_bytes())
        .to_hex()
        .to_string())
}

/// The whole model under the checkpoint's own keys; texts are not of the checkpoint.
pub fn checkpoint_tensors(model: &Model) -> Tensors {
    let head = &model.spec().head_name;
    let own = |info: &ParamInfo| model.head.trains() || !info.name.starts_with("head.");
    params::read(&model.valid(), own)
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
    use crate::train::evaluate::evaluate;

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
            let loader = trial.data.validation(trial.preprocess(), 64);
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
