//! One training step: a pure function of model, batch and step number.

use std::ops::Range;

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Tensor};
use peft_core::loss::{cross_entropy, mixed_cross_entropy};
use peft_core::{BoxedBackbone, Model, Step};

use crate::config::recipe::Recipe;
use crate::data::batch::{Batch, Mixed};
use crate::train::rates::{Rates, clip_norm};

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
}

impl Images {
    /// All images of a batch.
    pub fn all(batch: Batch) -> Self {
        let of = batch.targets.len();
        Self {
            batch,
            rows: 0..of,
            of,
        }
    }

    /// Their share of the batch.
    pub fn share(&self) -> f64 {
        self.rows.len() as f64 / self.of as f64
    }
}

/// The part of a trial that every step needs and no step changes.
pub struct Stepper<'a> {
    /// Loss, clipping, optimiser.
    pub recipe: &'a Recipe,
    /// The trial's seed.
    pub seed: u64,
    /// The type in which the backbone computes.
    pub compute: DType,
    /// The frozen part on the plain device, so that autodiff records nothing below the first cut;
    /// none if nothing lies below it.
    pub prefix: Option<BoxedBackbone>,
    /// Factors of the learning rate of single parameters.
    pub rates: Rates,
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
        let smoothing = self.recipe.label_smoothing;
        let cut = model.first_cut();
        let share = images.share();
        let Images { batch, rows, of } = images;
        let mut x = batch.x.cast(self.compute);
        if let Some(prefix) = prefix
            && batch.from < cut
        {
            x = model.taps().tap(&**prefix, x, batch.from);
        }
        ended(Phase::Prefix);
        let step = model.step(self.seed, number, part.index);
        let step = match rows.len() == of {
            true => step,
            false => step.on_rows(rows, of),
        };
        let logits = model.logits(x.into_autodiff(), cut, Some(&step));
        let labels = Tensor::from_inner(batch.labels);
        let loss = match batch.mixed {
            None => cross_entropy(logits, labels, smoothing),
            Some(Mixed { lambda, partners }) => {
                let labels = [labels, Tensor::from_inner(partners)];
                mixed_cross_entropy(logits, labels, Tensor::from_inner(lambda), smoothing)
            }
        };
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
        optimizer: &mut ModuleOptimizer,
        lr: f64,
        step: Option<Step>,
        gradients: Option<GradientsParams>,
    ) -> Model {
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
        match gradients {
            Some(gradients) => self.rates.step(optimizer, lr, model, gradients),
            None => model,
        }
    }

    /// Returns the frozen part of a model if anything lies below its first cut. Otherwise nothing
    /// is kept, so that tuned weights are not in memory twice.
    pub fn prefix_of(model: &Model) -> Option<BoxedBackbone> {
        (model.first_cut() > 0).then(|| model.backbone.valid())
    }
}
