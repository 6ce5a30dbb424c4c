//! The training loop: epochs of steps, validated, saved and resumed.

mod average;
pub mod checkpoint;
mod epoch;
pub mod evaluate;
mod labels;
pub mod loss;
mod losses;
pub mod metrics;
pub mod multi_label;
mod optimizers;
pub mod outputs;
mod rates;
mod replicas;
mod select;
mod selected;
mod slot;
pub mod step;
#[cfg(test)]
mod tests;
mod trained;
mod values;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;
use peft_core::{Model, adapter_file, params};

pub use self::trained::Trained;
use crate::cache::{Caches, Cost, Prefix};
use crate::config::recipe::{Recipe, Sampling, Select, TrainOn};
use crate::data::batch::Batch;
use crate::data::loader::Loader;
use crate::data::random::EpochRandom;
use crate::device::ComputeDevice;
use crate::exit::{Exit, Failure, failure};
use crate::measure::memory;
use crate::model::trial::Trial;
use crate::run::folder::RunFolder;
use crate::run::journal::Journal;
use crate::run::progress::Reporter;
use crate::train::average::Averaged;
use crate::train::checkpoint::{Progress, State};
use crate::train::optimizers::Optimizers;
use crate::train::rates::Rates;
use crate::train::replicas::Replicas;
use crate::train::selected::Selected;
use crate::train::slot::Slot;
use crate::train::step::{PhaseEnded, Stepper};

/// Trains one trial.
pub struct Trainer<'a> {
    trial: &'a Trial,
    device: &'a ComputeDevice,
    /// The file in which progress is saved; none if nothing is saved.
    checkpoint: Option<PathBuf>,
    interrupt: Arc<AtomicBool>,
    reporter: &'a Reporter,
    stepper: Stepper<'a>,
    /// The devices that share each batch with the first; none if there is one.
    replicas: Option<Replicas>,
    /// The images that gradients are computed from.
    training: Loader<'a>,
    /// The images that choices are made on; none if they are trained on.
    validation: Option<Loader<'a>>,
    cache: Cost,
    /// Where steps and epochs are written; none if nothing is.
    journal: Option<Journal>,
    state: State,
}

impl<'a> Trainer<'a> {
    /// Starts, or resumes from the checkpoint if it exists. Without a path nothing is saved.
    ///
    /// # Errors
    /// If the checkpoint exists and cannot be used, or a factor of the recipe matches nothing that trains.
    pub fn new(
        trial: &'a Trial,
        model: Model,
        device: &'a ComputeDevice,
        checkpoint: Option<PathBuf>,
        interrupt: Arc<AtomicBool>,
        reporter: &'a Reporter,
    ) -> Result<Self, Failure> {
        let recipe = &trial.experiment.recipe;
        let stepper = Stepper {
            recipe,
            loss: &trial.loss,
            seed: trial.experiment.seed,
            compute: trial.compute_type(),
            prefix: Stepper::prefix_of(&model),
            rates: Rates::of(&model, &recipe.rates)?,
            selected: None,
        };
        let average = recipe.ema.map(|average| Averaged::new(average, &model));
        let spared = rates::spared(&model, recipe.decays);
        let mut state = State {
            model: Slot::new(model.train()),
            average,
            optimizer: Optimizers::new(&recipe.optimizer, spared),
            progress: Progress {
                config_hash: trial.hash.clone(),
                ..Progress::default()
            },
            selected: None,
            best: None,
        };
        if let Some(path) = checkpoint.as_deref().filter(|path| path.is_file()) {
            state = checkpoint::load(path, state, &trial.hash)?;
            // Images that were left out stay left out, even if they are readable now: batches must
            // be those of an uninterrupted run.
            trial.data.recall(&state.progress.left_out);
            reporter.resumed(&state.progress);
        }
        let stepper = Stepper {
            selected: (state.selected.as_ref())
                .map(|masks| Selected::new(&state.model, masks, &device.device)),
            ..stepper
        };
        let (images, size) = (trial.preprocess(), recipe.batch_size);
        let (training, validation) = match recipe.train_on {
            TrainOn::Train => (
                trial.data.train(images, size),
                Some(trial.data.validation(images, size)),
            ),
            TrainOn::TrainValidation => (trial.data.train_and_validation(images, size), None),
        };
        let training = match recipe.sampling {
            Sampling::Shuffled => training,
            Sampling::Balanced => training.balanced()?,
        };
        Ok(Self {
            stepper,
            replicas: None,
            training: training.with_warnings(reporter),
            validation: validation.map(|loader| loader.with_warnings(reporter)),
            cache: Cost::default(),
            journal: None,
            trial,
            device,
            checkpoint,
            interrupt,
            reporter,
            state,
        })
    }

    /// Writes steps and epochs into the folder of the run.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn with_journal(mut self, folder: &RunFolder) -> Result<Self, Failure> {
        let tensorboard = self.trial.experiment.tensorboard;
        self.journal = Some(Journal::open(folder, &self.state.progress, tensorboard)?);
        Ok(self)
    }

    /// Shares each batch with other devices.
    ///
    /// # Errors
    /// As [`Replicas::new`].
    pub fn on_devices(mut self, others: &[ComputeDevice]) -> Result<Self, Failure> {
        if !others.is_empty() {
            self.replicas = Some(Replicas::new(&self.state.model, others)?);
        }
        Ok(self)
    }

    /// Computes the frozen prefix once, if the trial allows it and if it pays off. From then on
    /// batches are read from the cache.
    ///
    /// # Errors
    /// If an image cannot be read, or the run is interrupted.
    pub fn with_caches(mut self, caches: &Caches) -> Result<Self, Failure> {
        let left = self.recipe().last_epoch() - self.state.progress.epoch;
        if left == 0 {
            return Ok(self);
        }
        // Only the augmentation and the number of views matter for the cache, not the epoch.
        let random = self.random(self.state.progress.epoch);
        let prefix = Prefix {
            trial: self.trial,
            backbone: self.stepper.prefix.as_ref(),
            taps: self.state.model.taps(),
            device: self.device,
        };
        let attach = |loader, random| {
            // A run that is about to end gains little from a cache: what is left of it decides.
            let uses = left;
            caches.attach(
                loader,
                &prefix,
                random,
                uses,
                &self.interrupt,
                self.reporter,
            )
        };
        let (training, cost) = attach(self.training, Some(random))?;
        self.training = training;
        self.cache = cost;
        if let Some(validation) = self.validation.take() {
            let (validation, cost) = attach(validation, None)?;
            self.validation = Some(validation);
            self.cache.seconds += cost.seconds;
            self.cache.bytes += cost.bytes;
        }
        Ok(self)
    }

    /// The random changes of an epoch.
    pub(crate) fn random(&self, epoch: usize) -> EpochRandom {
        let experiment = &self.trial.experiment;
        EpochRandom {
            seed: experiment.seed,
            epoch,
            augment: experiment.recipe.augmentation.augment(),
            views: experiment.cache_views,
        }
    }

    fn recipe(&self) -> &'a Recipe {
        &self.trial.experiment.recipe
    }

    /// Trains until the recipe or its patience ends.
    ///
    /// # Errors
    /// [`Exit::Interrupted`] after saving, [`Exit::Diverged`] with the step, an image that cannot be read,
    /// or a disk that cannot be written.
    pub fn run(mut self) -> Result<Trained, Failure> {
        self.train_to(self.recipe().last_epoch())?;
        let progress = std::mem::take(&mut self.state.progress);
        let selected = match (self.trial.experiment.recipe.select, progress.best) {
            (Select::Best, Some(best)) => best,
            _ => progress.history.len() - 1,
        };
        let best = self.state.best.take();
        let tensors = match (self.trial.experiment.recipe.select, best) {
            (Select::Best, Some(best)) => best,
            _ => adapter_file::tensors(&self.state.judged()),
        };
        let model = params::write(self.state.model.valid(), tensors.clone()).map_err(|m| {
            failure(
                Exit::Unexpected,
                format_args!("the best epoch's values: {m:?}"),
            )
        })?;
        Ok(Trained {
            model,
            tensors,
            progress,
            selected,
            cache: self.cache,
        })
    }

    /// Trains a candidate of a search for `epochs` epochs, or until its patience ends. It returns
    /// no model: a search sees only the validation scores of a candidate. A later call with more
    /// epochs resumes.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn try_out(mut self, epochs: usize) -> Result<(Progress, Cost), Failure> {
        self.train_to(epochs.min(self.recipe().last_epoch()))?;
        Ok((self.state.progress, self.cache))
    }

    /// Seconds that an interrupted run spent before.
    pub fn seconds_before(&self) -> f64 {
        self.state.progress.total_seconds
    }

    fn train_to(&mut self, epochs: usize) -> Result<(), Failure> {
        // The peak of a trial must not contain what earlier trials of this process held.
        memory::start_trial(&self.device.device);
        self.select()?;
        while self.state.progress.epoch < epochs && !self.out_of_patience() {
            self.epoch()?;
        }
        Ok(())
    }

    fn out_of_patience(&self) -> bool {
        let progress = &self.state.progress;
        let since = |best: usize| progress.history.len() - 1 - best;
        match (self.recipe().patience, progress.best) {
            (Some(patience), Some(best)) => since(best) >= patience,
            _ => false,
        }
    }

    fn save(&mut self) -> Result<(), Failure> {
        self.state.progress.left_out = self.trial.data.left_out();
        if let Some(journal) = &mut self.journal {
            journal.flush()?;
        }
        if let Some(path) = &self.checkpoint {
            checkpoint::save(path, &self.state)?;
        }
        Ok(())
    }

    /// One whole step on one batch, as in an epoch; `ended` is called after each phase. For benchmarks.
    pub(crate) fn step(&mut self, batch: Batch, ended: PhaseEnded) -> Option<Tensor<1>> {
        self.batch(0, 1, Some(batch), &mut GradientsAccumulator::new(), ended)
    }

    /// The images that gradients are computed from. For benchmarks.
    pub(crate) fn training(&self) -> &Loader<'a> {
        &self.training
    }

    /// The model in its current state, on the plain device. For benchmarks.
    pub(crate) fn model(&self) -> Model {
        self.state.model.valid()
    }
}
