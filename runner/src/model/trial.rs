//! A trial: an experiment whose data are open and whose model is assembled.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;
use peft_core::activation::BoundaryShape;
use peft_core::backbone::{Cut, InputSpec};
use peft_core::error::listed;
use peft_core::method::features;
use peft_core::{BackboneSpec, Init, Model, TappedShape, Taps};
use peft_datasets::Preprocess;

use crate::config::experiment::Experiment;
use crate::config::head::HeadConfig;
use crate::config::start::StartHead;
use crate::data::held_out::Data;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};
use crate::model::adapter::Adapter;
use crate::model::base::Base;
use crate::model::classes::Join;
use crate::model::hash::Content;
use crate::model::head::head;
use crate::model::parts::{self, at};
use crate::model::task;
use crate::train::loss::Loss;

/// Everything that a training needs, checked, apart from the model itself, which training consumes.
pub struct Trial {
    /// The experiment, with what came with the weights and with an adapter to start from.
    pub experiment: Experiment,
    /// The images.
    pub data: Arc<Data>,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// The images that the model takes.
    pub input: InputSpec,
    /// The backbone's boundaries and sites.
    pub spec: BackboneSpec,
    /// The loss.
    pub loss: Loss,
    /// Trainable parameters by the methods' formulas, without the head.
    pub formula: usize,
    /// Hash of everything that changes results.
    pub hash: String,
    /// The files that the hash takes by content.
    content: Content,
    /// A trained adapter to start from.
    pub adapter: Option<Adapter>,
    /// Printed once before the run: what was dropped, resized or drawn at random.
    pub remarks: Vec<String>,
}

impl Trial {
    /// Opens data and weights and assembles the model, on the plain device. The values of an adapter to
    /// start from are not written yet (see [`Trial::started`]).
    ///
    /// # Errors
    /// What is wrong with a path, a file, a shape or a target, with the component's name.
    pub fn open(experiment: Experiment, device: &ComputeDevice) -> Result<(Self, Model), Failure> {
        let base = Base::open(experiment.backbone.clone(), experiment.seed, device)?;
        let data = Data::open(&*experiment.dataset, experiment.on_error, experiment.seed)?;
        Self::on(&base, data, experiment, device)
    }

    /// As [`Trial::open`], on a backbone and data that are open already and may be shared.
    ///
    /// # Errors
    /// As [`Trial::open`].
    pub fn on(
        base: &Base,
        data: Arc<Data>,
        mut experiment: Experiment,
        device: &ComputeDevice,
    ) -> Result<(Self, Model), Failure> {
        task::check(&experiment, &data)?;
        let loss = Loss::of(&experiment.recipe, &data)?;
        experiment.backbone = base.config.clone();
        let classes = data.classes().to_vec();
        let mut remarks = base.remarks.clone();
        remarks.extend(data.remarks().iter().map(|text| format!("dataset: {text}")));
        let adapter = start(&mut experiment, base, &classes, &mut remarks)?;
        let methods = &experiment.method;
        let input = parts::input(&*experiment.backbone, Some(&*experiment.dataset), methods)?;

        let init = Init::seeded(&device.device, experiment.seed);
        if let (HeadConfig::Linear { .. }, true, Some(old)) =
            (&experiment.head, experiment.head.is_new(), &base.head)
        {
            let outputs = old.bias.shape()[0];
            remarks.push(format!(
                "head: the checkpoint's ({outputs} outputs) is dropped for a new one"
            ));
        }
        let features = features(methods, &*base.backbone).map_err(at("method"))?;
        let head = head(
            &experiment.head,
            base,
            features,
            &classes,
            &init,
            &device.device,
            &mut remarks,
        )?;
        let formulas = methods.iter().map(|method| method.formula(&*base.backbone));
        let formula = formulas
            .sum::<peft_core::Result<usize>>()
            .map_err(at("method"))?;
        let precision = experiment.recipe.precision;
        let model = parts::assemble(base, methods, head, &init, precision, device)?;
        check(&experiment, &model)?;
        remarks.extend(model.remarks().iter().map(|text| format!("method: {text}")));

        let content = Content::of(&experiment, base, data.content(), adapter.as_ref())?;
        let trial = Self {
            hash: content.hash(&experiment)?,
            spec: model.spec().clone(),
            experiment,
            data,
            classes,
            input,
            loss,
            formula,
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
        // This trial's own fields hold what came with the weights and with the adapter.
        experiment.backbone = self.experiment.backbone.clone();
        if self.adapter.is_some() {
            experiment.method = self.experiment.method.clone();
        }
        self.content.hash(&experiment)
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
            0 => BoundaryShape::image(self.input.size),
            cut => self.spec.shape_at(cut),
        }
    }

    /// The shapes of the values at the taps of this trial's model.
    pub fn tapped_shape(&self, taps: &Taps) -> TappedShape {
        let shapes = taps.read().iter().map(|&cut| self.shape_at(cut));
        TappedShape::new(shapes.collect())
    }

    /// How images become tensors.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess::new(&self.input)
    }

    /// The type in which the model computes.
    pub fn compute_type(&self) -> DType {
        self.experiment.recipe.precision.dtype()
    }
}

/// Reads the adapter that the experiment starts from, if it names one. Its methods take the place of the
/// YAML's.
fn start(
    experiment: &mut Experiment,
    base: &Base,
    classes: &[String],
    remarks: &mut Vec<String>,
) -> Result<Option<Adapter>, Failure> {
    let Some(from) = &experiment.adapter else {
        return Ok(None);
    };
    let mut adapter = Adapter::read(from.path(), base)?;
    let own = adapter.remarks.iter();
    remarks.extend(own.map(|remark| format!("adapter: {remark}")));
    experiment.method = adapter.methods.clone();
    adapter.drop_label_map();
    let remark = match (adapter.outputs(), from.head()) {
        (None, _) => Some("it holds no head: that of the experiment is used".to_owned()),
        (Some(outputs), StartHead::New) => {
            adapter.drop_head();
            Some(format!(
                "its head ({outputs} classes) is left out, as head: new asks"
            ))
        }
        (Some(_), StartHead::Keep) if matches!(experiment.head, HeadConfig::Text { .. }) => {
            return Err(config_error(format!(
                "adapter: its head is linear and that of the experiment is made of texts; {}",
                asks_for_another(from.path())
            )));
        }
        (Some(outputs), StartHead::Keep) => {
            start_head(&mut adapter, outputs, classes).map_err(|e| {
                config_error(format!("adapter: {e}; {}", asks_for_another(from.path())))
            })?
        }
    };
    remarks.extend(remark.map(|remark| format!("adapter: {remark}")));
    Ok(Some(adapter))
}

/// How a configuration leaves the head of an adapter out.
fn asks_for_another(path: &Path) -> String {
    let path = path.display();
    format!("`adapter: {{path: {path}, head: new}}` (or --new-head) trains with a new head")
}

/// Brings the head of an adapter into the order of the data set's classes. Returns what its user should
/// know.
///
/// # Errors
/// The classes that it lacks, or their number if it has no names.
fn start_head(
    adapter: &mut Adapter,
    outputs: usize,
    classes: &[String],
) -> Result<Option<String>, String> {
    let Some(names) = &adapter.classes else {
        if outputs == classes.len() {
            let assumed = "its head has no class names: its rows are taken in the data set's order";
            return Ok(Some(assumed.to_owned()));
        }
        return Err(format!(
            "its head has {outputs} classes without names, the data set {}: {}",
            classes.len(),
            listed(classes, 12)
        ));
    };
    let join = Join::by_name(names, classes)?;
    let remark = join.remark(outputs);
    if let Join::Rows(rows) = join {
        adapter.select_classes(&rows);
    }
    Ok(remark)
}

/// Refuses what cannot be trained, or not saved as asked.
fn check(experiment: &Experiment, model: &Model) -> Result<(), Failure> {
    if model.counts().trainable == 0 {
        return Err(config_error(
            "method: nothing trains: it adapts nothing and the head is frozen; `runner eval` \
             takes such a config as it is",
        ));
    }
    if experiment.save_model && !model.adapters.is_empty() {
        return Err(config_error(
            "save_model: the method adds adapters; expected one that only tunes the backbone",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use peft_core::input::ImageSize;

    use super::*;
    use crate::train::evaluate::evaluate;

    fn open(config: &str, overrides: &[&str]) -> Result<(Trial, Model), String> {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).to_owned()).collect();
        Experiment::read(config, &overrides)
            .and_then(|experiment| Trial::open(experiment, &ComputeDevice::cpu()))
            .map_err(|failure| failure.error.to_string())
    }

    #[test]
    fn a_frame_asks_for_smaller_images() {
        for (config, size) in [("peft/vp-frame.yaml", 24), ("peft/vp-border.yaml", 32)] {
            let (trial, model) = open(config, &[]).unwrap();
            let sizes = [trial.input.size, model.spec().input.size];
            assert_eq!(sizes, [size, 32].map(ImageSize::square));
            let loader = trial.data.validation(trial.preprocess(), 64);
            let device = ComputeDevice::cpu();
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
