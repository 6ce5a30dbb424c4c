//! An epoch of a training: its batches, and what is done at its end.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::optim::GradientsAccumulator;
use burn::tensor::Tensor;
use peft_core::{Model, adapter_file};

use crate::config::recipe::Select;
use crate::data::batch::Batch;
use crate::data::random::Pass;
use crate::exit::{Exit, Failure, failure};
use crate::measure::memory;
use crate::train::Trainer;
use crate::train::checkpoint::{EpochRecord, State};
use crate::train::evaluate::{evaluate, evaluate_all, none_readable};
use crate::train::losses::Losses;
use crate::train::metrics::Metric;
use crate::train::step::{Images, Part, Phase, PhaseEnded};

/// The reason why an epoch ended early.
enum Stop {
    Interrupted,
    Diverged(u64),
}

impl<'a> Trainer<'a> {
    /// Trains what is left of the current epoch, and validates.
    pub(super) fn epoch(&mut self) -> Result<(), Failure> {
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
        let rates = self.rates();
        let mut losses = Losses::new(self.device.is_cpu(), &self.state.progress);
        let mut accumulator = GradientsAccumulator::new();
        let mut stop = None;
        let plain = &self.device.device;
        loader.each_or_none(first..batches, pass, plain, |index, batch| {
            let images = batch.as_ref().map_or(0, |batch| batch.targets.len());
            let step = self.state.progress.step + 1;
            let loss = self.batch(index, batches, batch, &mut accumulator, &mut |_| ());
            self.state.progress.batch = index + 1;
            // Accumulated gradients are not saved, so training can resume only at a whole step.
            let whole = (index + 1) % self.recipe().accumulate == 0 || index + 1 == batches;
            if let Some(loss) = loss
                && let Err(step) = losses.push(loss, images, step, whole && index + 1 == batches)
            {
                stop = Some(Stop::Diverged(step));
                return Ok(false);
            }
            if let Some(journal) = &mut self.journal {
                journal.batches(epoch + 1, losses.take(), &rates)?;
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
        if let Some(journal) = &mut self.journal {
            journal.batches(epoch + 1, losses.take(), &rates)?;
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
            Some(Stop::Diverged(step)) => {
                Err(diverged(step, epoch + 1, self.checkpoint.as_deref()))
            }
        }
    }

    /// The learning rate of each step, counted from 1.
    fn rates(&self) -> impl Fn(u64) -> f64 + use<'a> {
        let recipe = self.recipe();
        let steps = self.training.batches().div_ceil(recipe.accumulate);
        move |step| {
            let before = step.saturating_sub(1) as usize;
            recipe.optimizer.lr() * recipe.schedule.factor(before, steps, recipe.epochs)
        }
    }

    fn note_peak(&mut self) {
        let weights = self.state.model.counts().total_bytes;
        let peak = memory::own_peak(&self.device.device, weights);
        let progress = &mut self.state.progress;
        progress.peak_bytes = progress.peak_bytes.max(peak);
    }

    /// Runs the forward and the backward pass of one batch, and the step of the optimiser if the
    /// batch is the last of its part. Returns the loss `[1]`. A batch without a readable image is
    /// `None` and counts like the others, so that every epoch has the same number of steps.
    pub(super) fn batch(
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
            average,
            ..
        } = &mut self.state;
        // Gradients and random numbers are functions of this number; the schedule is too, so that
        // resuming needs no other state.
        let number = progress.step;
        let (value, step) = batch
            .map(|batch| {
                let (stepper, model) = (&self.stepper, &**model);
                let (value, step, gradients) = match &mut self.replicas {
                    None => {
                        let (images, prefix) = (Images::all(batch), stepper.prefix.as_ref());
                        stepper.gradients(model, prefix, number, images, part, ended)
                    }
                    Some(all) => all.gradients(stepper, model, number, batch, part, ended),
                };
                accumulator.accumulate(model, gradients);
                ended(Phase::Backward);
                (value, step)
            })
            .unzip();
        let gradients = part.is_last().then(|| accumulator.grads());
        let steps_per_epoch = batches.div_ceil(recipe.accumulate);
        let schedule = &recipe.schedule;
        let factor = schedule.factor(number as usize, steps_per_epoch, recipe.epochs);
        let lr = recipe.optimizer.lr() * factor;
        let steps = gradients.is_some();
        progress.step += u64::from(steps);
        let stepper = &self.stepper;
        model.update(|model| stepper.update(model, optimizer, lr, step, gradients));
        if let (Some(average), true) = (average, steps) {
            average.follow(model, progress.step);
        }
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
            let model = self.state.judged();
            let compute = self.trial.compute_type();
            let metrics = match metric {
                Metric::Auroc => evaluate_all(&model, loader, self.device, compute)?.0,
                _ => evaluate(&model, loader, self.device, compute)?.0,
            };
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
        let lr = self.rates()(self.state.progress.step);
        let progress = &mut self.state.progress;
        let record = EpochRecord {
            epoch: progress.epoch + 1,
            step: progress.step,
            train_loss: progress.loss_sum / progress.images.max(1) as f64,
            lr,
            seconds: progress.epoch_seconds,
            validation,
            score,
        };
        let best = progress.best.map(|best| &progress.history[best]);
        let better = record.validation.is_some() && best.is_none_or(|best| record.beats(best));
        self.reporter.finish_epoch(&record, recipe.epochs, better);
        if let Some(journal) = &mut self.journal {
            journal.epoch(&record)?;
        }
        progress.history.push(record);
        if better {
            progress.best = Some(progress.history.len() - 1);
            // The model trains on, so the best values are copied out. They are few: adapters, head,
            // tuned parameters.
            if recipe.select == Select::Best {
                self.state.best = Some(adapter_file::tensors(&self.state.judged()));
            }
        }
        let progress = &mut self.state.progress;
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

/// The error of a loss that is not finite at a step of an epoch, both counted from 1.
fn diverged(step: u64, epoch: usize, checkpoint: Option<&Path>) -> Failure {
    let good = match checkpoint.filter(|path| path.is_file()) {
        Some(path) => path.display().to_string(),
        None => "none, the first epoch did not end".to_owned(),
    };
    failure(
        Exit::Diverged,
        format_args!(
            "the loss is not finite at step {step} (epoch {epoch}); the last good checkpoint is {good}. A \
             smaller recipe.optimizer.lr or a recipe.clip_norm may help"
        ),
    )
}
