//! The optimiser of a training: one, or two where weight decay spares some parameters.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Tensor};
use peft_core::Model;

use crate::config::recipe::Optimizer;

/// Burn's optimiser of most parameters, and another one, without weight decay, of those that are spared.
pub struct Optimizers {
    most: ModuleOptimizer,
    spared: Option<Spared>,
}

struct Spared {
    optimizer: ModuleOptimizer,
    ids: BTreeSet<ParamId>,
}

impl Optimizers {
    /// The optimiser of a recipe; weight decay spares the parameters `ids`.
    pub fn new(recipe: &Optimizer, ids: Vec<ParamId>) -> Self {
        let spared = (!ids.is_empty()).then(|| Spared {
            optimizer: recipe.without_decay().init(),
            ids: ids.into_iter().collect(),
        });
        Self {
            most: recipe.init(),
            spared,
        }
    }

    /// Takes a step with one learning rate in the parameters that have a gradient.
    pub fn step(&mut self, lr: f64, model: Model, mut gradients: GradientsParams) -> Model {
        let Some(Spared { optimizer, ids }) = &mut self.spared else {
            return self.most.step(lr, model, gradients);
        };
        let mut own = Take {
            ids,
            from: &mut gradients,
            taken: GradientsParams::new(),
        };
        model.visit(&mut own);
        let taken = own.taken;
        let model = self.most.step(lr, model, gradients);
        optimizer.step(lr, model, taken)
    }

    /// The state, as Burn writes it; the second part is that of the spared parameters.
    ///
    /// # Errors
    /// Burn's, as text.
    pub fn to_bytes(&self) -> Result<Vec<Vec<u8>>, String> {
        let spared = self.spared.iter().map(|spared| &spared.optimizer);
        let all = std::iter::once(&self.most).chain(spared);
        let bytes = all.map(|optimizer| optimizer.into_bytes().map(|bytes| bytes.to_vec()));
        bytes
            .collect::<Result<_, _>>()
            .map_err(|e| format!("{e:?}"))
    }

    /// The optimiser with a state that [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    /// If it has another number of parts, or Burn cannot read it.
    pub fn with_bytes(self, parts: Vec<Vec<u8>>) -> Result<Self, String> {
        let expected = 1 + usize::from(self.spared.is_some());
        if parts.len() != expected {
            return Err(format!("expected {expected} parts, got {}", parts.len()));
        }
        let mut parts = parts.into_iter();
        let mut read = |optimizer: ModuleOptimizer| {
            let bytes = Bytes::from_bytes_vec(parts.next().unwrap_or_default());
            optimizer.from_bytes(bytes).map_err(|e| format!("{e:?}"))
        };
        let most = read(self.most)?;
        let spared = match self.spared {
            None => None,
            Some(Spared { optimizer, ids }) => Some(Spared {
                optimizer: read(optimizer)?,
                ids,
            }),
        };
        Ok(Self { most, spared })
    }
}

impl From<ModuleOptimizer> for Optimizers {
    fn from(most: ModuleOptimizer) -> Self {
        Self { most, spared: None }
    }
}

/// Moves the gradients of some parameters into a container of their own.
struct Take<'a> {
    ids: &'a BTreeSet<ParamId>,
    from: &'a mut GradientsParams,
    taken: GradientsParams,
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.contains(&param.id)
            && let Some(gradient) = self.from.remove::<D>(param.id)
        {
            self.taken.register(param.id, gradient);
        }
    }
}
