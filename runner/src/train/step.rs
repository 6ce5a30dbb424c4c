//! One training step: a pure function of model, batch and step number.

use std::ops::Range;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use peft_core::{BoxedBackbone, Model, Step};

use crate::config::recipe::Recipe;
use crate::data::batch::Batch;
use crate::train::loss::Loss;
use crate::train::optimizers::Optimizers;
use crate::train::rates::{Rates, clip_norm};
use crate::train::selected::Selected;

/// A part of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The frozen part below the first cut.
    Prefix,
    /// The forward pass from the first cut to the loss.
    Forward,
    /// The backward pass from the loss to the gradients.
    Backward,
    /// The update of the parameters from the gradients.
    Optimizer,
}

/// Called at the end of each phase of a step, so that benchmarks can time them.
pub type PhaseEnded<'a> = &'a mut dyn FnMut(Phase);

/// The place of a batch among those whose gradients are added up for one step of the optimiser.
#[derive(Clone, Copy)]
pub struct Part {
    /// Its index among them, from 0.
    pub index: usize,
    /// The number of them.
    pub of: usize,
}

impl Part {
    /// Returns the place of batch `index` among the `batches` of an epoch, `accumulate` of which
    /// make a step. The last step of an epoch may have fewer.
    pub fn of_epoch(index: usize, batches: usize, accumulate: usize) -> Self {
        let part = index % accumulate;
        let of = accumulate.min(batches - (index - part));
        Self { index: part, of }
    }

    /// Whether the optimiser's step follows.
    pub fn is_last(self) -> bool {
        self.index + 1 == self.of
    }
}

/// The images of a batch for which gradients are computed.
pub struct Images {
    /// Their activations and labels.
    pub batch: Batch,
    /// Their places in the whole batch.
    pub rows: Range<usize>,
    /// The number of images in the whole batch.
    pub of: usize,
    /// Their share in the mean loss of the batch.
    pub share: f64,
}

impl Images {
    /// All images of a batch.
    pub fn all(batch: Batch) -> Self {
        let of = batch.targets.len();
        Self {
            batch,
            rows: 0..of,
            of,
            share: 1.0,
        }
    }
}

/// The part of a trial that every step needs and no step changes.
pub struct Stepper<'a> {
    /// Clipping and optimiser.
    pub recipe: &'a Recipe,
    /// The loss.
    pub loss: &'a Loss,
    /// The trial's seed.
    pub seed: u64,
    /// The type in which the backbone computes.
    pub compute: DType,
    /// The frozen part on the plain device, so that autodiff records nothing below the first cut;
    /// none if nothing lies below it.
    pub prefix: Option<BoxedBackbone>,
    /// Factors of the learning rate of single parameters.
    pub rates: Rates,
    /// The entries that train, where a method selects some.
    pub selected: Option<Selected>,
}

impl Stepper<'_> {
    /// The mean loss `[1]` of images of a batch, the step with its random numbers and buffer updates, and
    /// the gradients of the images: their part of those of the whole batch. All are on the device of the
    /// model and its `prefix`.
    pub fn gradients(
        &self,
        model: &Model,
        prefix: Option<&BoxedBackbone>,
        number: u64,
        images: Images,
        part: Part,
        ended: PhaseEnded,
    ) -> (Tensor<1>, Step, GradientsParams) {
        let cut = model.first_cut();
        let Images {
            batch,
            rows,
            of,
            share,
        } = images;
        let mut x = batch.x.cast(self.compute);
        if let Some(prefix) = prefix
            && batch.from < cut
        {
            x = model.taps().tap(&**prefix, x, batch.from);
        }
        ended(Phase::Prefix);
        let step = model.step(self.seed, number, part.index);
        let step = step.with_drop_path(self.recipe.drop_path, model.spec().depth);
        let step = match rows.len() == of {
            true => step,
            false => step.on_rows(rows, of),
        };
        let logits = model.logits(x.into_autodiff(), cut, Some(&step));
        let loss = self
            .loss
            .value(logits, &batch.targets, batch.mixed.as_ref());
        // The value is taken before the backward pass consumes the graph.
        let value = loss.clone().inner();
        ended(Phase::Forward);
        // Dividing by the number of parts gives the mean over all of them, as if they were one
        // batch.
        let gradients = (loss * (share / part.of as f64)).backward();
        (value, step, GradientsParams::from_grads(gradients, model))
    }

    /// Returns the model after a batch: its buffers are updated, and its parameters too if there
    /// are gradients. `lr` is the learning rate of the step. The model is taken by value, so that
    /// the optimiser can write in place and two copies of what trains are never in memory together.
    pub fn update(
        &self,
        model: Model,
        optimizer: &mut Optimizers,
        lr: f64,
        step: Option<Step>,
        gradients: Option<GradientsParams>,
    ) -> Model {
        let selected = self.selected.as_ref();
        let gradients = match (gradients, selected) {
            (Some(gradients), Some(selected)) => Some(selected.masked(&model, gradients)),
            (gradients, _) => gradients,
        };
        // All gradients are clipped together, before parameters with different learning rates are
        // separated.
        let gradients = match (gradients, self.recipe.clip_norm) {
            (Some(gradients), Some(limit)) => Some(clip_norm(&model, gradients, limit)),
            (gradients, _) => gradients,
        };
        let model = match step {
            Some(step) => model.with_updates(step),
            None => model,
        };
        let Some(gradients) = gradients else {
            return model;
        };
        let before = selected.map(|selected| (selected, model.clone()));
        let after = self.rates.step(optimizer, lr, model, gradients);
        match before {
            Some((selected, before)) => selected.kept(&before, after),
            None => after,
        }
    }

    /// Returns the frozen part of a model if anything lies below its first cut. Otherwise nothing
    /// is kept, so that tuned weights are not in memory twice.
    pub fn prefix_of(model: &Model) -> Option<BoxedBackbone> {
        (model.first_cut() > 0).then(|| model.backbone.valid())
    }
}
