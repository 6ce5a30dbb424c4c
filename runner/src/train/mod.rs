//! The training loop: epochs of steps, validated, saved and resumed.

pub mod checkpoint;
pub mod evaluate;
mod labels;
mod losses;
pub mod metrics;
mod rates;
mod slot;
pub mod step;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;
use peft_core::params::{self, Tensors};
use peft_core::{Model, adapter_file};

use crate::cache::{Caches, Cost, Prefix};
use crate::config::recipe::{Recipe, Select, TrainOn};
use crate::data::batch::Batch;
use crate::data::held_out::Settled;
use crate::data::loader::Loader;
use crate::data::random::{EpochRandom, Pass};
use crate::device::ComputeDevice;
use crate::exit::{Exit, Failure, failure};
use crate::measure::memory;
use crate::model::trial::Trial;
use crate::run::progress::Reporter;
use crate::train::checkpoint::{EpochRecord, Progress, State};
use crate::train::evaluate::{evaluate, none_readable};
use crate::train::losses::Losses;
use crate::train::rates::Rates;
use crate::train::slot::Slot;
use crate::train::step::{Part, Phase, PhaseEnded, Stepper};

/// A trained model, and how its training went.
pub struct Trained {
    /// The model of the selected epoch, on the plain device.
    pub model: Model,
    /// The values that were trained, by name.
    pub tensors: Tensors,
    /// The history of the training, epoch by epoch.
    pub progress: Progress,
    /// The selected epoch, an index into the history.
    pub selected: usize,
    /// Time and memory that the prefix cache took.
    pub cache: Cost,
}

/// A trained model has its epoch. Candidates of a search yield their progress only, so that none of
/// them can read the test split.
impl Settled for Trained {}

/// The reason why an epoch ended early.
enum Stop {
    Interrupted,
    Diverged(u64),
}

/// Trains one trial.
pub struct Trainer<'a> {
    trial: &'a Trial,
    device: &'a ComputeDevice,
    /// The file in which progress is saved; none if nothing is saved.
    checkpoint: Option<PathBuf>,
    interrupt: Arc<AtomicBool>,
    reporter: &'a Reporter,
    stepper: Stepper<'a>,
    /// The images that gradients are computed from.
    training: Loader<'a>,
    /// The images that choices are made on; none if they are trained on.
    validation: Option<Loader<'a>>,
    cache: Cost,
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
            seed: trial.experiment.seed,
            compute: trial.compute_type(),
            prefix: Stepper::prefix_of(&model),
            rates: Rates::of(&model, &recipe.rates)?,
        };
        let mut state = State {
            model: Slot::new(model.train()),
            optimizer: recipe.optimizer.init(),
            progress: Progress {
                config_hash: trial.hash.clone(),
                ..Progress::default()
            },
            best: None,
        };
        if let Some(path) = checkpoint.as_deref().filter(|path| path.is_file()) {
            state = checkpoint::load(path, state, &trial.hash)?;
            // Images that were left out stay left out, even if they are readable now: batches must
            // be those of an uninterrupted run.
            trial.data.recall(&state.progress.left_out);
            reporter.resumed(&state.progress);
        }
        let (images, size) = (trial.preprocess(), recipe.batch_size);
        let (training, validation) = match recipe.train_on {
            TrainOn::Train => (
                trial.data.train(images, size),
                Some(trial.data.validation(images, size)),
            ),
            TrainOn::TrainValidation => (trial.data.train_and_validation(images, size), None),
        };
        Ok(Self {
            stepper,
            training: training.with_warnings(reporter),
            validation: validation.map(|loader| loader.with_warnings(reporter)),
            cache: Cost::default(),
            trial,
            device,
            checkpoint,
            interrupt,
            reporter,
            state,
        })
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
            cut: self.state.model.first_cut(),
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
        let progress = self.state.progress;
        let selected = match (self.trial.experiment.recipe.select, progress.best) {
            (Select::Best, Some(best)) => best,
            _ => progress.history.len() - 1,
        };
        let tensors = match (self.trial.experiment.recipe.select, self.state.best) {
            (Select::Best, Some(best)) => best,
            _ => adapter_file::tensors(&self.state.model),
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
        if let Some(path) = &self.checkpoint {
            checkpoint::save(path, &self.state)?;
        }
        Ok(())
    }

    fn epoch(&mut self) -> Result<(), Failure> {
        // Cloned, because the loop borrows `self` mutably. A loader is a few references.
        let loader = self.training.clone();
        let (batches, epoch) = (loader.batches(), self.state.progress.epoch);
        let pass = Pass::Training(self.random(epoch));
        self.reporter
            .start_epoch(epoch, self.recipe().epochs, loader.len());
        let first = self.state.progress.batch;
        if first == 0 {
            self.map_labels(epoch)?;
        }
        // The clock starts again after an interruption, so earlier seconds are added.
        let spent = (
            self.state.progress.epoch_seconds,
            self.state.progress.total_seconds,
        );
        let start = Instant::now();
        let mut losses = Losses::new(self.device.is_cpu(), &self.state.progress);
        let mut accumulator = GradientsAccumulator::new();
        let mut stop = None;
        let plain = &self.device.device;
        loader.each_or_none(first..batches, pass, plain, |index, batch| {
            let images = batch.as_ref().map_or(0, |batch| batch.targets.len());
            let loss = self.batch(index, batches, batch, &mut accumulator, &mut |_| ());
            let step = self.state.progress.step;
            self.state.progress.batch = index + 1;
            // Accumulated gradients are not saved, so training can resume only at a whole step.
            let whole = (index + 1) % self.recipe().accumulate == 0 || index + 1 == batches;
            if let Some(loss) = loss
                && let Err(step) = losses.push(loss, images, step, whole && index + 1 == batches)
            {
                stop = Some(Stop::Diverged(step));
                return Ok(false);
            }
            self.reporter.batch(images, losses.last);
            if whole && self.interrupt.load(Ordering::Relaxed) {
                stop = Some(Stop::Interrupted);
                return Ok(false);
            }
            Ok::<_, Failure>(true)
        })?;
        self.state.progress.epoch_seconds = spent.0 + start.elapsed().as_secs_f64();
        self.state.progress.total_seconds = spent.1 + start.elapsed().as_secs_f64();
        // Losses that are still on the device are part of the epoch, whether it ended early or not.
        if !matches!(stop, Some(Stop::Diverged(_)))
            && let Err(step) = losses.flush()
        {
            stop = Some(Stop::Diverged(step));
        }
        self.state.progress.loss_sum = losses.sum;
        self.state.progress.images = losses.images;
        self.note_peak();
        match stop {
            None if losses.images == 0 => Err(none_readable("training")),
            None => self.finish_epoch(),
            Some(Stop::Interrupted) => {
                self.save()?;
                Err(Failure::interrupted())
            }
            Some(Stop::Diverged(step)) => Err(failure(
                Exit::Diverged,
                format_args!(
                    "the loss is not finite at step {step} (epoch {}); the last good checkpoint \
                     is {}. A smaller recipe.optimizer.lr or a recipe.clip_norm may help",
                    epoch + 1,
                    match self.checkpoint.as_deref().filter(|path| path.is_file()) {
                        Some(path) => path.display().to_string(),
                        None => "none, the first epoch did not end".to_owned(),
                    }
                ),
            )),
        }
    }

    fn note_peak(&mut self) {
        let weights = self.state.model.counts().total_bytes;
        let peak = memory::own_peak(&self.device.device, weights);
        let progress = &mut self.state.progress;
        progress.peak_bytes = progress.peak_bytes.max(peak);
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

    /// Runs the forward and the backward pass of one batch, and the step of the optimiser if the
    /// batch is the last of its part. Returns the loss `[1]`. A batch without a readable image is
    /// `None` and counts like the others, so that every epoch has the same number of steps.
    fn batch(
        &mut self,
        index: usize,
        batches: usize,
        batch: Option<Batch>,
        accumulator: &mut GradientsAccumulator<Model>,
        ended: PhaseEnded,
    ) -> Option<Tensor<1>> {
        let recipe = self.recipe();
        let part = Part::of_epoch(index, batches, recipe.accumulate);
        let State {
            model,
            optimizer,
            progress,
            ..
        } = &mut self.state;
        // Gradients and random numbers are functions of this number; the schedule is too, so that
        // resuming needs no other state.
        let number = progress.step;
        let (value, step) = batch
            .map(|batch| {
                let stepper = &self.stepper;
                stepper.backward(model, number, batch, part, accumulator, ended)
            })
            .unzip();
        let gradients = part.is_last().then(|| accumulator.grads());
        let steps_per_epoch = batches.div_ceil(recipe.accumulate);
        let schedule = &recipe.schedule;
        let factor = schedule.factor(number as usize, steps_per_epoch, recipe.epochs);
        let lr = recipe.optimizer.lr() * factor;
        progress.step += u64::from(gradients.is_some());
        let stepper = &self.stepper;
        model.update(|model| stepper.update(model, optimizer, lr, step, gradients));
        ended(Phase::Optimizer);
        value
    }

    /// Validates, remembers the epoch if it is the best so far, and saves.
    fn finish_epoch(&mut self) -> Result<(), Failure> {
        let recipe = self.recipe();
        let start = Instant::now();
        let metric = self.trial.experiment.metric;
        // The validation runs in evaluation mode on a copy without autodiff, which shares all
        // tensors.
        let (mut validation, mut score) = (None, None);
        if let Some(loader) = &self.validation {
            let model = self.state.model.valid();
            let (metrics, _) = evaluate(&model, loader, self.device, self.trial.compute_type())?;
            if !metrics.loss.is_finite() {
                let step = self.state.progress.step;
                return Err(failure(
                    Exit::Diverged,
                    format_args!("the validation loss is not finite after step {step}"),
                ));
            }
            score = metrics.score(metric);
            // The history holds one record per epoch, so the confusion matrix stays out of it.
            validation = Some(metrics.brief());
        }
        let steps = self.training.batches().div_ceil(recipe.accumulate);
        let progress = &mut self.state.progress;
        let last = progress.step.saturating_sub(1) as usize;
        let record = EpochRecord {
            epoch: progress.epoch + 1,
            step: progress.step,
            train_loss: progress.loss_sum / progress.images.max(1) as f64,
            lr: recipe.optimizer.lr() * recipe.schedule.factor(last, steps, recipe.epochs),
            seconds: progress.epoch_seconds,
            validation,
            score,
        };
        let best = progress.best.map(|best| &progress.history[best]);
        let better = record.validation.is_some() && best.is_none_or(|best| record.beats(best));
        self.reporter.finish_epoch(&record, recipe.epochs, better);
        progress.history.push(record);
        if better {
            progress.best = Some(progress.history.len() - 1);
            // The model trains on, so the best values are copied out. They are few: adapters, head,
            // tuned parameters.
            if recipe.select == Select::Best {
                self.state.best = Some(adapter_file::tensors(&self.state.model));
            }
        }
        // From here on the state is that of the start of the next epoch, and this is what is saved.
        progress.epoch += 1;
        progress.batch = 0;
        progress.loss_sum = 0.0;
        progress.images = 0;
        progress.epoch_seconds = 0.0;
        // Validating counts as time of the run but not of the epoch.
        progress.total_seconds += start.elapsed().as_secs_f64();
        self.save()?;
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(Failure::interrupted());
        }
        Ok(())
    }
}
