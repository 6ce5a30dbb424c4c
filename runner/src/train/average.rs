//! The exponential moving average of what trains, which follows every step of the optimiser.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use peft_core::{Model, params};

use crate::config::recipe::Average;
use crate::train::slot::Slot;
use crate::train::values::values;

/// A model with averages for what trains; what is frozen it shares with the model that trains.
pub struct Averaged {
    average: Average,
    /// The averages, on the device without autodiff.
    model: Slot<Model>,
    follows: BTreeMap<ParamId, How>,
}

/// The way in which a value follows that of the model which trains.
#[derive(Clone, Copy)]
enum How {
    /// The value is a moving average.
    Averages,
    /// The value is a copy, because a label map holds indices.
    Copies,
}

impl Averaged {
    /// The averages before the first step: the values themselves.
    pub fn new(average: Average, model: &Model) -> Self {
        let infos = params::infos(model).into_iter();
        let saved = infos.filter(|info| model.saved(info));
        let follows = saved.map(|info| match info.buffer && info.name.starts_with("head.") {
            true => (info.id, How::Copies),
            false => (info.id, How::Averages),
        });
        Self {
            average,
            model: Slot::new(model.valid()),
            follows: follows.collect(),
        }
    }

    /// The model with the averages.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Replaces the model by one with other averages.
    ///
    /// # Errors
    /// The error of `next`.
    pub fn try_update<E>(&mut self, next: impl FnOnce(Model) -> Result<Model, E>) -> Result<(), E> {
        self.model.try_update(next)
    }

    /// Follows step `step` of the optimiser, counted from 1, which made the values of `model`.
    pub fn follow(&mut self, model: &Model, step: u64) {
        let kept = self.average.kept(step);
        let mut mix = Mix {
            follows: &self.follows,
            values: values(model, |id| self.follows.contains_key(&id)),
            kept,
        };
        self.model.update(|model| model.map(&mut mix));
    }
}

/// Mixes the averages with the values.
struct Mix<'a> {
    follows: &'a BTreeMap<ParamId, How>,
    values: GradientsParams,
    kept: f64,
}

impl ModuleMapper for Mix<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(value) = self.values.remove::<D>(param.id) else {
            return param;
        };
        match (self.follows.get(&param.id), self.kept) {
            // A product with 0 would keep a value that is not finite.
            (Some(How::Averages), kept) if kept > 0.0 => {
                param.map(|average| average * kept + value * (1.0 - kept))
            }
            _ => param.map(|_| value),
        }
    }
}
