//! The costs of a study's rows by counting: no weights and no images are read.

use std::collections::BTreeMap;

use burn::tensor::Device;
use peft_core::activation::BoundaryShape;
use peft_core::data::Subset;
use peft_core::flops::Flops;
use peft_core::method::features;
use peft_core::{
    AdaptationMethod, BackboneSpec, BoxedBackbone, Init, LinearHead, Model, Plug, Split,
};
use serde_yaml::{Mapping, Value};

use super::{Grid, Method};
use crate::compare::config::{BackboneEntry, DatasetEntry};
use crate::config::part::typed_part;
use crate::config::resolve::resolve_all;
use crate::config::set::assign;
use crate::exit::{At, Failure, config_error};
use crate::study::components;

/// A backbone without its weights.
pub struct Skeleton {
    /// Its label.
    pub label: String,
    /// Whether its weights are bundled: a miniature.
    pub bundled: bool,
    backbone: BoxedBackbone,
}

/// The counted costs of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Trained parameters without the head.
    pub trainable: usize,
    /// Floating-point operations of a forward pass of one image.
    pub forward: u64,
    /// Those of a training step, for each image.
    pub step: u64,
}

impl Skeleton {
    /// The backbone of an entry of a comparison.
    ///
    /// # Errors
    /// If it is not a backbone.
    pub fn of(entry: &BackboneEntry) -> Result<Self, Failure> {
        let mut config = components::backbone(&entry.component)?;
        if entry.set.keys().any(|field| field.starts_with("backbone.")) {
            let mut document = Value::Mapping(Mapping::from_iter([(
                "backbone".into(),
                entry.component.clone(),
            )]));
            for (path, value) in &entry.set {
                assign(&mut document, path, value.clone())?;
            }
            resolve_all(&mut document)?;
            let own = document.get_mut("backbone").map(std::mem::take);
            config = typed_part(own.unwrap_or_default(), &entry.label, "backbone")?;
        }
        let built = config.build(&Init::empty(&Device::flex())).at("backbone")?;
        Ok(Self {
            label: entry.label.clone(),
            bundled: components::is_bundled(&*config),
            backbone: Plug::new(built),
        })
    }

    /// Its boundaries and sites.
    pub fn spec(&self) -> &BackboneSpec {
        self.backbone.spec()
    }

    /// Whether its activations are feature maps, channels first: a convolutional network.
    pub fn is_cnn(&self) -> bool {
        let first = self.spec().boundaries.get(1).map(|boundary| boundary.shape);
        matches!(first, Some(BoundaryShape::Map { .. }))
    }

    /// Counts the costs of a method on this backbone, with that many classes.
    ///
    /// # Errors
    /// If the method does not fit.
    pub fn count(&self, method: &Value, classes: usize) -> Result<Count, Failure> {
        let methods = methods(method)?;
        let init = Init::empty(&Device::flex());
        let features = features(&methods, &*self.backbone).at("method")?;
        let head = LinearHead::new(features, classes, &init);
        let model = Model::assemble(self.backbone.clone(), &methods, head, &init).at("method")?;
        let (counts, flops) = (model.counts(), Flops::of(&model));
        Ok(Count {
            trainable: counts.trainable - counts.head,
            forward: flops.forward(),
            step: flops.step(),
        })
    }
}

/// The methods that a name, fields, or a list of them describe.
fn methods(value: &Value) -> Result<Vec<Box<dyn AdaptationMethod>>, Failure> {
    let mut document = Value::Mapping(Mapping::from_iter([("method".into(), value.clone())]));
    resolve_all(&mut document)?;
    let own = document
        .get_mut("method")
        .map(std::mem::take)
        .unwrap_or_default();
    match own {
        Value::Sequence(all) => {
            let one = |value| typed_part(value, "settings", "method");
            all.into_iter().map(one).collect()
        }
        value => Ok(vec![typed_part(value, "settings", "method")?]),
    }
}

/// Classes and training images of a data set: what is known of it, or what is on disk. Of a part that is
/// drawn by classes, at most so many.
///
/// # Errors
/// If it is not a data set, or nothing is known and it cannot be opened.
pub fn sizes(entry: &DatasetEntry) -> Result<(usize, usize), Failure> {
    let (config, about) = components::dataset(&entry.component)?;
    let (classes, train) = match about {
        Some(about) => (about.classes, about.splits.train),
        None => {
            let dataset = config.open().at("dataset")?;
            (dataset.classes().len(), dataset.len(Split::Train))
        }
    };
    let used = match config.subset().at("dataset")? {
        None => train,
        Some(Subset::Images(images)) => images,
        Some(Subset::Shots(shots)) => train.min(shots * classes),
    };
    Ok((classes, used))
}

/// The number of trainings and images of a grid.
#[derive(Clone, Debug)]
pub struct Work {
    /// The number of trainings.
    pub trainings: usize,
    /// Images that go through all of them, an image once for each epoch.
    pub images: u64,
    /// Images of a training step.
    pub batch: usize,
    /// The epochs of a training.
    pub epochs: usize,
}

impl Grid {
    /// The backbones without their weights, by label.
    ///
    /// # Errors
    /// If one of them is not a backbone.
    pub fn skeletons(&self) -> Result<BTreeMap<String, Skeleton>, Failure> {
        let entries = self.comparison.backbones.iter();
        let skeleton = |entry| Ok((BackboneEntry::clone(entry).label, Skeleton::of(entry)?));
        entries.map(skeleton).collect()
    }

    /// The number of trainings of a row on a backbone and a data set.
    fn trainings(&self, method: &Method, backbone: &str) -> usize {
        let rates = method.rates.get(backbone).map_or(0, Vec::len);
        rates * self.comparison.seeds.len()
    }

    /// Counts the trainings and images of the grid.
    ///
    /// # Errors
    /// If the recipe or a data set is wrong.
    pub fn work(&self) -> Result<Work, Failure> {
        let recipe = recipe(&self.comparison.trial)?;
        let (mut trainings, mut images) = (0, 0);
        for dataset in &self.comparison.datasets {
            let (_, train) = sizes(dataset)?;
            for method in &self.methods {
                for backbone in &method.backbones {
                    let own = self.trainings(method, backbone);
                    trainings += own;
                    images += (own * train * recipe.epochs) as u64;
                }
            }
        }
        Ok(Work {
            trainings,
            images,
            batch: recipe.batch_size,
            epochs: recipe.epochs,
        })
    }
}

/// The recipe that all trials share.
fn recipe(trial: &Mapping) -> Result<crate::config::recipe::Recipe, Failure> {
    let mut document = Value::Mapping(trial.clone());
    resolve_all(&mut document)?;
    match document.get_mut("recipe").map(std::mem::take) {
        Some(recipe) => typed_part(recipe, "trial", "recipe"),
        None => Err(config_error("trial.recipe: missing")),
    }
}

impl Work {
    /// The plan in a sentence.
    pub fn sentence(&self) -> String {
        format!(
            "{} trainings of {} epochs in batches of {}: {} images in all.",
            self.trainings, self.epochs, self.batch, self.images
        )
    }
}
