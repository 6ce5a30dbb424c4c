//! Methods: their configuration, and what it becomes on a backbone.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::init::Init;
use crate::input::InputSpec;

pub use crate::adapter::{Adapter, BoxedAdapter};

/// A way to adapt a backbone; the `method:` of a YAML.
///
/// A method never asks which backbone it has. It asks for boundaries and sites, attaches to those it
/// finds, or fails and names what is missing.
#[typetag::serde(tag = "name")]
pub trait AdaptationMethod: Any + Debug + Send + Sync + dyn_clone::DynClone {
    /// Attaches to a backbone: yields the adapter, and the backbone's own parameters that are tuned.
    ///
    /// # Errors
    /// [`Error::Unfit`], [`Error::Boundary`], [`Error::Target`] or [`Error::Config`].
    fn attach(&self, backbone: &dyn Backbone, init: &Init) -> Result<Attachment>;

    /// The number of trainable parameters by the method's formula, without the head. Reports print it
    /// beside the number of parameters that really train.
    ///
    /// # Errors
    /// See [`attach`](Self::attach).
    fn formula(&self, backbone: &dyn Backbone) -> Result<usize>;

    /// The input images of the adapted model, given those of the backbone: a prompt that frames the
    /// image needs smaller images.
    ///
    /// # Errors
    /// [`Error::Config`] if it cannot work with images of that size.
    fn input(&self, backbone: InputSpec) -> Result<InputSpec> {
        Ok(backbone)
    }

    /// The number of features that the head of the adapted model reads, which a side network may change.
    ///
    /// # Errors
    /// See [`attach`](Self::attach).
    fn features(&self, backbone: &dyn Backbone) -> Result<usize> {
        Ok(backbone.spec().features)
    }

    /// Whether the adapted model starts with the outputs of the backbone.
    fn starts_as_backbone(&self) -> bool {
        true
    }
}

dyn_clone::clone_trait_object!(AdaptationMethod);

/// The result of attaching a method to a backbone.
#[derive(Debug, Default)]
pub struct Attachment {
    /// The module that acts, if the method adds one.
    pub adapter: Option<Box<dyn Adapter>>,
    /// Factors of the learning rate of the adapter's parameters by name, where they are not 1.
    pub rates: BTreeMap<String, f64>,
    /// The backbone's own parameters that train.
    pub tuned: Tuned,
    /// Facts that the user should know and that are not errors.
    pub remarks: Vec<String>,
}

impl Attachment {
    /// An adapter beside a frozen backbone.
    pub fn adapter(adapter: impl Adapter) -> Self {
        Self {
            adapter: Some(Box::new(adapter)),
            ..Self::default()
        }
    }

    /// Some of the backbone's own parameters, and no adapter.
    pub fn tuned(tuned: Tuned) -> Self {
        Self {
            tuned,
            ..Self::default()
        }
    }

    /// Adds factors of the learning rate of the adapter's parameters.
    pub fn with_rates(self, rates: BTreeMap<String, f64>) -> Self {
        Self { rates, ..self }
    }

    /// Adds remarks.
    pub fn with_remarks(self, remarks: Vec<String>) -> Self {
        Self { remarks, ..self }
    }
}

/// The backbone's own parameters that a method trains.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuned {
    /// Canonical names, for example `blocks.0.norm1.weight`.
    pub names: BTreeSet<String>,
    /// The statistics with which tuned BatchNorm layers normalise while training.
    pub statistics: Statistics,
    /// Factors of the learning rate by parameter, where they are not 1.
    pub rates: BTreeMap<String, f64>,
    /// The choice of the entries of these parameters that train. Without it, all of them do.
    pub selection: Option<Selection>,
}

/// A choice among all entries of the tuned parameters: those whose gradient, added up over some batches before the
/// first step, is the largest in absolute value. The others keep their values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The share of the entries that train, more than 0 and at most 1; rounded to whole entries, at least one.
    pub fraction: f64,
    /// The number of batches of training images, at least 1.
    pub batches: usize,
}

impl Selection {
    /// The number of entries that train, of `all`.
    pub fn entries(self, all: usize) -> usize {
        let entries = (self.fraction * all as f64).round() as usize;
        entries.clamp(1.min(all), all)
    }

    /// Checks the ranges of its fields.
    ///
    /// # Errors
    /// [`Error::Config`] for the field below `field`.
    pub fn check(self, field: &str) -> Result<()> {
        let Self { fraction, batches } = self;
        if !(fraction > 0.0 && fraction <= 1.0) {
            let message = format!("expected more than 0 and at most 1, got {fraction}");
            return Err(Error::config(format!("{field}.fraction"), message));
        }
        if batches == 0 {
            let message = "expected at least 1, got 0";
            return Err(Error::config(format!("{field}.batches"), message));
        }
        Ok(())
    }
}

/// The statistics with which a BatchNorm normalises whose own parameters train.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Statistics {
    /// The running statistics, as in evaluation; they do not change.
    #[default]
    Running,
    /// The batch's own while training, which also update the running ones.
    Batch,
}

impl Tuned {
    /// Combines the parameters that several methods tune.
    ///
    /// # Errors
    /// [`Error::Conflict`] if two methods tune the same parameter or ask for different statistics, or one of several
    /// selects entries.
    pub fn unite(all: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut united = Self::default();
        // A method that tunes nothing has default statistics, which must not contradict those of
        // another.
        for tuned in all.into_iter().filter(|tuned| !tuned.names.is_empty()) {
            if let Some(name) = united.names.intersection(&tuned.names).next() {
                return Err(Error::Conflict(format!(
                    "two methods tune the parameter {name}; expected at most one"
                )));
            }
            if !united.names.is_empty() && united.statistics != tuned.statistics {
                return Err(Error::Conflict(
                    "two methods ask for different BatchNorm statistics".to_owned(),
                ));
            }
            if !united.names.is_empty() && (united.selection.or(tuned.selection)).is_some() {
                return Err(Error::Conflict(
                    "a method that selects entries by their gradients is combined with another one that tunes \
                     the backbone; expected one of them"
                        .to_owned(),
                ));
            }
            united.selection = tuned.selection;
            united.statistics = tuned.statistics;
            united.names.extend(tuned.names);
            united.rates.extend(tuned.rates);
        }
        Ok(united)
    }
}

/// The number of features that the head reads of a backbone adapted by these methods.
///
/// # Errors
/// See [`AdaptationMethod::features`].
pub fn features(methods: &[Box<dyn AdaptationMethod>], backbone: &dyn Backbone) -> Result<usize> {
    let own = backbone.spec().features;
    // Only a side network changes their number, and a model has at most one.
    let mut all = methods.iter().map(|method| method.features(backbone));
    all.try_fold(own, |found, count| {
        count.map(|count| if count == own { found } else { count })
    })
}

/// The name under which a method is registered: the `name:` of its YAML.
pub fn name_of(method: &dyn AdaptationMethod) -> String {
    method.typetag_name().to_owned()
}
