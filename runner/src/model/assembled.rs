//! A model to use: backbone, trained adapters and head, with what its images must be and the names of its
//! classes. No data set is needed for it.

use std::path::{Path, PathBuf};

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Tensor, TensorData};
use peft_core::data::Image;
use peft_core::input::InputSpec;
use peft_core::method::features;
use peft_core::params::{self, ParamInfo, floats};
use peft_core::{Activation, AdaptationMethod, Init, Model};
use peft_datasets::Preprocess;
use rayon::prelude::*;

use crate::config::experiment::Experiment;
use crate::config::head::HeadConfig;
use crate::data::held_out::Settled;
use crate::device::ComputeDevice;
use crate::exit::{Failure, config_error};
use crate::model::adapter::{Adapter, resolved};
use crate::model::base::Base;
use crate::model::classes::Join;
use crate::model::head::{head, text_classes};
use crate::model::parts;
use crate::run::folder::finished;

/// A model whose values are all in place.
pub struct Assembled {
    /// Backbone, adapters and head on the plain device.
    pub model: Model,
    /// The methods of its adapters, in the order in which they act.
    pub methods: Vec<Box<dyn AdaptationMethod>>,
    /// The classes' names, in the order of the logits.
    pub classes: Vec<String>,
    /// Whether these names are known to be those of the logits. Otherwise their order had to be assumed.
    pub named: bool,
    /// Whether an image may show several classes, or none: each class has a probability of its own.
    pub multi_label: bool,
    /// The images that the model takes.
    pub input: InputSpec,
    /// Images of a forward pass.
    pub batch_size: usize,
    /// The type in which the model computes.
    pub compute: DType,
    /// What its user should know: modules of an adapter that were passed over, classes without names.
    pub remarks: Vec<String>,
    device: ComputeDevice,
}

/// Its values are what they are: nothing chooses between it and another.
impl Settled for Assembled {}

impl Assembled {
    /// How images become tensors.
    pub fn preprocess(&self) -> Preprocess {
        Preprocess::new(&self.input)
    }

    /// The row of the logits for each class of a data set, joined by name.
    ///
    /// # Errors
    /// If the model lacks a class of the data set, or the names of its classes are unknown and their number
    /// is another.
    pub fn join(&self, data: &[String]) -> Result<Join, Failure> {
        if self.named {
            let joined = Join::by_name(&self.classes, data);
            return joined.map_err(config_error);
        }
        let (own, of_data) = (self.classes.len(), data.len());
        if own != of_data {
            return Err(config_error(format!(
                "the model's head has {own} classes, the data set {of_data}"
            )));
        }
        Ok(Join::Same)
    }

    /// Logits `[images, classes]`, row by row.
    ///
    /// # Errors
    /// If an image has no pixels, or not as many as its sides say.
    pub fn logits(&self, images: &[Image]) -> Result<Tensor<2>, Failure> {
        Ok(self.model.logits(self.seen(images)?, 0, None))
    }

    /// The images as the model sees them, `[images, 3, size, size]` in the type in which it computes.
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn seen(&self, images: &[Image]) -> Result<Activation, Failure> {
        let preprocess = self.preprocess();
        let values = preprocess.values();
        let mut pixels = vec![0.0; values * images.len()];
        pixels
            .par_chunks_mut(values)
            .zip(images)
            .enumerate()
            .try_for_each(|(index, (pixels, image))| {
                let applied = preprocess.apply(image, pixels);
                applied.map_err(|e| config_error(format_args!("image {index}: {e}")))
            })?;
        let pixels = TensorData::new(pixels, preprocess.input.batch(images.len()));
        let x = Activation::Map(Tensor::from_data(pixels, &self.device.device));
        Ok(x.cast(self.compute))
    }

    /// The probability of each class for each image, in the order of [`classes`](Self::classes).
    ///
    /// # Errors
    /// As [`logits`](Self::logits).
    pub fn predict(&self, images: &[Image]) -> Result<Vec<Vec<f32>>, Failure> {
        let mut rows = Vec::with_capacity(images.len());
        for images in images.chunks(self.batch_size) {
            let logits = self.logits(images)?;
            let probabilities = match self.multi_label {
                true => sigmoid(logits),
                false => softmax(logits, 1),
            };
            let probabilities = floats(probabilities.into_data());
            rows.extend(
                probabilities
                    .chunks_exact(self.classes.len())
                    .map(<[_]>::to_vec),
            );
        }
        Ok(rows)
    }
}

/// Where a model comes from: a finished run, or a configuration whose adapter or head is there already.
pub struct Source {
    /// The experiment, with what came with the weights.
    pub experiment: Experiment,
    base: Base,
    /// The run's folder; none for a configuration.
    folder: Option<PathBuf>,
    device: ComputeDevice,
}

impl Source {
    /// Opens what `run` names and loads the backbone. `adapted`: an adapter from elsewhere will take the
    /// place of the run's own, so that the run need not be finished, or may be a configuration.
    ///
    /// # Errors
    /// If it is neither a run nor a configuration, the run is not finished, or a configuration has
    /// nothing that is trained already.
    pub fn open(run: &Path, adapted: bool, device: &ComputeDevice) -> Result<Self, Failure> {
        let mut experiment = experiment_of(run, adapted)?;
        // The values from which it started are part of the values that it trained.
        experiment.adapter = None;
        let base = Base::open(experiment.backbone.clone(), experiment.seed, device)?;
        experiment.backbone = base.config.clone();
        Ok(Self {
            experiment,
            base,
            folder: run.is_dir().then(|| run.to_owned()),
            device: device.clone(),
        })
    }

    /// The hash of the backbone's weights file; absent for random weights.
    pub fn weights_hash(&self) -> Option<&str> {
        self.base.weights_hash.as_deref()
    }

    /// The model with the run's own adapter, or with the one in the folder `adapter`: a run's or one of
    /// HF PEFT. `scale` says how much of it acts: 0 is the frozen backbone, 1 the adapted one (the
    /// default). Models of one source share the backbone's tensors.
    ///
    /// # Errors
    /// If the adapter belongs to another backbone, has no head where one is needed, or cannot be scaled.
    pub fn assemble(
        &self,
        adapter: Option<&Path>,
        scale: Option<f64>,
    ) -> Result<Assembled, Failure> {
        let Self {
            experiment,
            base,
            device,
            ..
        } = self;
        let path = adapter.or(self.folder.as_deref());
        let adapter = path.map(|path| Adapter::read(path, base)).transpose()?;
        let mut remarks = Vec::new();
        if let Some(adapter) = &adapter {
            let own = adapter.remarks.iter();
            remarks.extend(own.map(|remark| format!("adapter: {remark}")));
        }
        let (classes, named) = self.classes(adapter.as_ref(), &mut remarks)?;
        let multi_label = adapter.as_ref().and_then(|adapter| adapter.multi_label);
        let methods = match &adapter {
            Some(adapter) => adapter.methods.clone(),
            None => experiment.method.clone(),
        };
        let input = parts::input(&*experiment.backbone, Some(&*experiment.dataset), &methods)?;
        let init = Init::seeded(&device.device, experiment.seed);
        let features = features(&methods, &*base.backbone).map_err(parts::at("method"))?;
        let head = head(
            &experiment.head,
            base,
            features,
            &classes,
            &init,
            &device.device,
            &mut remarks,
        )?;
        let recipe = &experiment.recipe;
        let model = parts::assemble(base, &methods, head, &init, recipe.precision, device)?;
        let of_backbone = |info: &ParamInfo| info.name.starts_with("backbone.");
        let frozen = params::read(&model, |info| model.saved(info) && of_backbone(info));
        let model = match &adapter {
            Some(adapter) => adapter.fill(model)?,
            None => model,
        };
        let model = match scale {
            Some(scale) => model.scaled(scale, &frozen)?,
            None => model,
        };
        Ok(Assembled {
            model,
            methods,
            classes,
            named,
            multi_label: multi_label.unwrap_or_else(|| self.is_multi_label()),
            input,
            batch_size: recipe.batch_size,
            compute: recipe.precision.dtype(),
            remarks,
            device: device.clone(),
        })
    }

    /// The classes' names in the order of the logits, and whether they are known to be in that order: the
    /// adapter's own, those beside the checkpoint's head, or those of the text embeddings. Failing that the
    /// names of the run or of the data set are assumed, or numbers, with a remark.
    fn classes(
        &self,
        adapter: Option<&Adapter>,
        remarks: &mut Vec<String>,
    ) -> Result<(Vec<String>, bool), Failure> {
        if let Some(classes) = adapter.and_then(|adapter| adapter.classes.clone()) {
            return Ok((classes, true));
        }
        let known = self.known_classes();
        let outputs = match (&self.experiment.head, adapter.and_then(Adapter::outputs)) {
            (_, Some(outputs)) => outputs,
            (HeadConfig::Text { embeddings, .. }, None) => {
                // The head is made for these classes, whatever their order.
                return match (known, text_classes(embeddings)?) {
                    (Ok(names), _) | (Err(_), Some(names)) => Ok((names, true)),
                    (Err(why), None) => Err(config_error(format!(
                        "the classes have no names: the embeddings hold none, and the data set cannot be \
                         opened: {why}"
                    ))),
                };
            }
            (HeadConfig::LabelMapping { .. }, None) => {
                return Err(config_error(
                    "head: label-mapping: training makes the map; expected a finished run",
                ));
            }
            (HeadConfig::Linear { .. }, None) if self.experiment.head.is_new() => {
                return Err(config_error(
                    "adapter: its folder holds no head; the checkpoint's is taken with \
                     head.from=checkpoint",
                ));
            }
            (HeadConfig::Linear { .. }, None) => match (&self.base.classes, &self.base.head) {
                (Some(classes), Some(_)) => return Ok((classes.clone(), true)),
                (_, Some(head)) => head.bias.shape()[0],
                (_, None) => return Err(self.base.no_head()),
            },
        };
        let (classes, why) = match known {
            Ok(names) if names.len() == outputs => {
                remarks.push(
                    "classes: the head has no class names: its rows are taken in the data set's order"
                        .to_owned(),
                );
                return Ok((names, false));
            }
            Ok(names) => {
                let names = names.len();
                (
                    numbers(outputs),
                    format!("the data set has {names} classes"),
                )
            }
            Err(why) => (
                numbers(outputs),
                format!("the data set cannot be opened: {why}"),
            ),
        };
        remarks.push(format!(
            "classes: the head has {outputs} classes without names, and {why}: they are numbered"
        ));
        Ok((classes, false))
    }

    /// Whether the run was of images with several labels; a run that is not finished does not say so.
    fn is_multi_label(&self) -> bool {
        let summary = self.folder.as_deref().and_then(finished);
        summary.is_some_and(|summary| summary.test.multi_label.is_some())
    }

    /// The names in the run's adapter file, else in the data set; why there are none otherwise.
    fn known_classes(&self) -> Result<Vec<String>, String> {
        if let Some(summary) = self.folder.as_deref().and_then(finished)
            && !summary.classes.is_empty()
        {
            return Ok(summary.classes);
        }
        let dataset = self.experiment.dataset.open().map_err(|e| e.to_string())?;
        Ok(dataset.classes().to_vec())
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|label| label.to_string()).collect()
}

/// The experiment that `run` names: a finished run's, or a configuration's where an adapter or a head
/// that is there already takes the place of training.
fn experiment_of(run: &Path, adapted: bool) -> Result<Experiment, Failure> {
    let at = |message: &str| config_error(format_args!("{}: {message}", run.display()));
    if run.is_dir() {
        let experiment = resolved(run)?;
        if !adapted && finished(run).is_none() {
            return Err(at(
                "the run is not finished; run its command again to go on",
            ));
        }
        return Ok(experiment);
    }
    let experiment = Experiment::read(&run.to_string_lossy(), &[])?;
    if !adapted && experiment.head.is_new() {
        return Err(at(
            "no such run folder; a config needs an --adapter, or a head that is there without \
             training: text, or linear from the checkpoint",
        ));
    }
    Ok(experiment)
}
