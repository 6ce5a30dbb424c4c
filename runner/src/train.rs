//! The training loop: a step is a pure function of model, batch and step number.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use peft_core::loss::{cross_entropy, mixed_cross_entropy};
use peft_core::params::{self, Tensors, floats};
use peft_core::{BoxedBackbone, Hooks, Model, Step, adapter_file};
use replace_with::replace_with_or_abort;

use crate::cache::{Caches, Cost, Prefix};
use crate::checkpoint::{self, EpochRecord, Progress, State};
use crate::data::{Batch, EpochRandom, Loader, Pass, names};
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::memory;
use crate::metrics::{Metrics, Tally};
use crate::progress::Reporter;
use crate::recipe::{Recipe, Select, TrainOn};
use crate::trial::Trial;

/// A trained model and how it went.
pub struct Trained {
    /// The model of the selected epoch, on the plain device.
    pub model: Model,
    /// What trains of it.
    pub tensors: Tensors,
    /// The way there.
    pub progress: Progress,
    /// The selected epoch, an index into the history.
    pub selected: usize,
    /// What caching the prefix took.
    pub cache: Cost,
}

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// What is frozen below the first cut.
    Prefix,
    /// From there to the loss.
    Forward,
    /// To the gradients.
    Backward,
    /// To the next parameters.
    Optimizer,
}

/// How a batch failed.
enum Stop {
    Interrupted,
    Diverged(u64),
}

/// A trial in training.
pub struct Trainer<'a> {
    trial: &'a Trial,
    device: &'a Chosen,
    checkpoint: PathBuf,
    interrupt: Arc<AtomicBool>,
    reporter: &'a mut Reporter,
    /// The frozen part on the plain device: autodiff records nothing below the first cut.
    prefix: Option<BoxedBackbone>,
    /// What gradients see.
    training: Loader<'a>,
    /// What choices see; none where it is trained on.
    validation: Option<Loader<'a>>,
    cache: Cost,
    rates: Rates,
    state: State,
}

impl<'a> Trainer<'a> {
    /// Starts, or goes on from the checkpoint if there is one.
    ///
    /// # Errors
    /// If the checkpoint is there and cannot be used.
    pub fn new(
        trial: &'a Trial,
        model: Model,
        device: &'a Chosen,
        checkpoint: PathBuf,
        interrupt: Arc<AtomicBool>,
        reporter: &'a mut Reporter,
    ) -> Result<Self, Failure> {
        // Kept only where something lies below the first cut, so that tuned weights are not held
        // twice.
        let prefix = (model.first_cut() > 0).then(|| model.backbone.valid());
        let rates = Rates::of(&model);
        let recipe = &trial.experiment.recipe;
        let mut state = State {
            model: model.train(),
            optimizer: recipe.optimizer.init(),
            progress: Progress {
                config_hash: trial.hash.clone(),
                ..Progress::default()
            },
            best: None,
        };
        if checkpoint.is_file() {
            state = checkpoint::load(&checkpoint, state, &trial.hash)?;
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
            prefix,
            rates,
            training,
            validation,
            cache: Cost::default(),
            trial,
            device,
            checkpoint,
            interrupt,
            reporter,
            state,
        })
    }

    /// Lets the frozen prefix be computed once: from now on, batches are read from a cache where the
    /// trial allows it and it pays.
    ///
    /// # Errors
    /// If an image cannot be read, or the run is interrupted.
    pub fn with_caches(mut self, caches: &Caches) -> Result<Self, Failure> {
        let left = self.recipe().last_epoch() - self.state.progress.epoch;
        if left == 0 {
            return Ok(self);
        }
        let random = self.random(self.state.progress.epoch);
        let prefix = Prefix {
            trial: self.trial,
            backbone: self.prefix.as_ref(),
            cut: self.state.model.first_cut(),
            device: self.device,
        };
        let mut attach = |loader, random| {
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

    /// Trains to the end of the recipe or of patience.
    ///
    /// # Errors
    /// [`Exit::Interrupted`] after saving, [`Exit::Diverged`] with the step, or what a record or
    /// the disk failed with.
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

    /// Trains as a candidate of a search, to the end of `epochs` or of patience, and gives no model:
    /// how it did on validation is all that is seen of it. It goes on from there when it is called for
    /// more epochs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn try_out(mut self, epochs: usize) -> Result<(Progress, Cost), Failure> {
        self.train_to(epochs.min(self.recipe().last_epoch()))?;
        Ok((self.state.progress, self.cache))
    }

    /// Seconds that an interrupted run spent before.
    pub fn seconds_before(&self) -> f64 {
        self.state.progress.total_seconds
    }

    fn train_to(&mut self, epochs: usize) -> Result<(), Failure> {
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
        Ok(checkpoint::save(&self.checkpoint, &self.state)?)
    }

    fn epoch(&mut self) -> Result<(), Failure> {
        // Lent to the loop, which changes the rest of the trainer.
        let loader = self.training.clone();
        let (batches, epoch) = (loader.batches(), self.state.progress.epoch);
        let pass = Pass::Training(self.random(epoch));
        self.reporter
            .start_epoch(epoch, self.recipe().epochs, loader.len());
        let first = self.state.progress.batch;
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
            // Progress is known only at a step: accumulated gradients are not saved.
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
                Err(failure(
                    Exit::Interrupted,
                    "interrupted; run the same command to go on",
                ))
            }
            Some(Stop::Diverged(step)) => Err(failure(
                Exit::Diverged,
                format_args!(
                    "the loss is not finite at step {step} (epoch {}); the last good checkpoint \
                     is {}. A smaller recipe.optimizer.lr or a recipe.clip_norm may help",
                    epoch + 1,
                    match self.checkpoint.is_file() {
                        true => self.checkpoint.display().to_string(),
                        false => "none, the first epoch did not end".to_owned(),
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

    /// A whole step on one batch, as an epoch takes it; `ended` hears of each part: for benchmarks.
    pub(crate) fn step(&mut self, batch: Batch, ended: &mut dyn FnMut(Phase)) -> Option<Tensor<1>> {
        self.batch(0, 1, Some(batch), &mut GradientsAccumulator::new(), ended)
    }

    /// The images that gradients see: for benchmarks.
    pub(crate) fn training(&self) -> &Loader<'a> {
        &self.training
    }

    /// The model as it is now, on the plain device: for benchmarks.
    pub(crate) fn model(&self) -> Model {
        self.state.model.valid()
    }

    /// Forward and backward of one batch; a step of the optimiser after `accumulate` of them, so that an
    /// epoch has as many steps if no image of a batch can be read. Returns the loss `[1]`.
    fn batch(
        &mut self,
        index: usize,
        batches: usize,
        batch: Option<Batch>,
        accumulator: &mut GradientsAccumulator<Model>,
        ended: &mut dyn FnMut(Phase),
    ) -> Option<Tensor<1>> {
        let recipe = self.recipe();
        let part = index % recipe.accumulate;
        let parts = recipe.accumulate.min(batches - (index - part));
        let (value, step) = batch
            .map(|batch| self.backward(batch, part, parts, accumulator, ended))
            .unzip();
        let State {
            model,
            optimizer,
            progress,
            ..
        } = &mut self.state;
        let mut gradients = (part + 1 == parts).then(|| accumulator.grads());
        if let Some(limit) = recipe.clip_norm {
            gradients = gradients.map(|gradients| clip_norm(model, gradients, limit));
        }
        let steps_per_epoch = batches.div_ceil(recipe.accumulate);
        let number = progress.step as usize;
        let factor = recipe
            .schedule
            .factor(number, steps_per_epoch, recipe.epochs);
        let lr = recipe.optimizer.lr() * factor;
        progress.step += u64::from(gradients.is_some());
        // In place: two copies of what trains are never alive together.
        replace_with_or_abort(model, |model| {
            let model = match step {
                Some(step) => model.with_updates(step),
                None => model,
            };
            match gradients {
                Some(gradients) => self.rates.step(optimizer, lr, model, gradients),
                None => model,
            }
        });
        ended(Phase::Optimizer);
        value
    }

    /// Adds the gradients of one batch, the `part`-th of `parts`. Returns the loss `[1]` and what the
    /// forward pass left for the buffers.
    fn backward(
        &self,
        batch: Batch,
        part: usize,
        parts: usize,
        accumulator: &mut GradientsAccumulator<Model>,
        ended: &mut dyn FnMut(Phase),
    ) -> (Tensor<1>, Step) {
        let smoothing = self.recipe().label_smoothing;
        let model = &self.state.model;
        let cut = model.first_cut();
        let mut x = batch.x.cast(self.trial.compute_type());
        if let Some(prefix) = &self.prefix
            && batch.from < cut
        {
            x = prefix.forward(x, batch.from..cut, &Hooks::none());
        }
        ended(Phase::Prefix);
        let seed = self.trial.experiment.seed;
        let step = model.step(seed, self.state.progress.step, part);
        let logits = model.logits(x.into_autodiff(), cut, Some(&step));
        let labels = Tensor::from_inner(batch.labels);
        let loss = match batch.lambda {
            None => cross_entropy(logits, labels, smoothing),
            Some(lambda) => {
                let lambda = Tensor::from_inner(lambda);
                mixed_cross_entropy(logits, labels, lambda, smoothing)
            }
        };
        let value = loss.clone().inner();
        ended(Phase::Forward);
        let gradients = (loss * (1.0 / parts as f64)).backward();
        let gradients = GradientsParams::from_grads(gradients, model);
        accumulator.accumulate(model, gradients);
        ended(Phase::Backward);
        (value, step)
    }

    /// Validates, keeps the best, saves.
    fn finish_epoch(&mut self) -> Result<(), Failure> {
        let recipe = self.recipe();
        let start = Instant::now();
        let metric = self.trial.experiment.metric;
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
        self.reporter.finish_epoch(&record, better);
        progress.history.push(record);
        if better {
            progress.best = Some(progress.history.len() - 1);
            if recipe.select == Select::Best {
                self.state.best = Some(adapter_file::tensors(&self.state.model));
            }
        }
        progress.epoch += 1;
        progress.batch = 0;
        progress.loss_sum = 0.0;
        progress.images = 0;
        progress.epoch_seconds = 0.0;
        progress.total_seconds += start.elapsed().as_secs_f64();
        self.save()?;
        if self.interrupt.load(Ordering::Relaxed) {
            return Err(failure(
                Exit::Interrupted,
                "interrupted; run the same command to go on",
            ));
        }
        Ok(())
    }
}

/// What the learning rates of some parameters are multiplied by: of all where it is not 1.
struct Rates(BTreeMap<ParamId, f64>);

impl Rates {
    fn of(model: &Model) -> Self {
        let infos = params::infos(model).into_iter();
        let rates = infos.map(|info| (info.id, model.rate(&info.name)));
        Self(rates.filter(|(_, rate)| *rate != 1.0).collect())
    }

    /// A step in which every parameter has its own learning rate, and AdamW's weight decay follows
    /// it, as in PyTorch's parameter groups.
    fn step(
        &self,
        optimizer: &mut ModuleOptimizer,
        lr: f64,
        model: Model,
        gradients: GradientsParams,
    ) -> Model {
        if self.0.is_empty() {
            return optimizer.step(lr, model, gradients);
        }
        // The optimiser touches only what has a gradient.
        let groups = self.split(&model, gradients);
        groups.into_iter().fold(model, |model, (rate, gradients)| {
            optimizer.step(lr * rate, model, gradients)
        })
    }

    /// The gradients by factor.
    fn split(&self, model: &Model, gradients: GradientsParams) -> Vec<(f64, GradientsParams)> {
        struct Split<'a> {
            rates: &'a BTreeMap<ParamId, f64>,
            gradients: GradientsParams,
            groups: Vec<(f64, GradientsParams)>,
        }
        impl ModuleVisitor for Split<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(gradient) = self.gradients.remove::<D>(param.id) else {
                    return;
                };
                let rate = self.rates.get(&param.id).copied().unwrap_or(1.0);
                let same = self.groups.iter().position(|(other, _)| *other == rate);
                let at = same.unwrap_or_else(|| {
                    self.groups.push((rate, GradientsParams::new()));
                    self.groups.len() - 1
                });
                self.groups[at].1.register(param.id, gradient);
            }
        }
        let mut split = Split {
            rates: &self.0,
            gradients,
            groups: Vec::new(),
        };
        model.visit(&mut split);
        split.groups
    }
}

fn none_readable(which: &str) -> Failure {
    config_error(format!("dataset: none of the {which} images can be read"))
}

/// Metrics of a model on a loader's images, and the seconds that its forward passes took: from where
/// the batches are.
///
/// # Errors
/// If a record cannot be read and that is not forgiven, or none can.
pub fn evaluate(
    model: &Model,
    loader: &Loader,
    device: &Chosen,
    compute: burn::tensor::DType,
) -> Result<(Metrics, f64), Failure> {
    let groups = loader.images().dataset().groups();
    let mut tally = Tally::new(model.head.classes(), groups);
    let mut seconds = 0.0;
    loader.each(
        0..loader.batches(),
        Pass::Plain,
        &device.device,
        |_, batch| {
            let start = Instant::now();
            let x = batch.x.cast(compute);
            let logits = floats(model.logits(x, batch.from, None).into_data());
            seconds += start.elapsed().as_secs_f64();
            tally.add(&logits, &batch.targets, &batch.groups);
            Ok::<_, Failure>(true)
        },
    )?;
    let metrics = Metrics {
        skipped: loader.skipped(),
        ..tally.finish()
    };
    match metrics.images {
        0 => Err(none_readable(&names(loader.splits()))),
        _ => Ok((metrics, seconds)),
    }
}

/// Losses on their way to the host: read at once on the CPU, sixteen at a time elsewhere, so that
/// a queue is not waited for at every step.
struct Losses {
    pending: Vec<(Tensor<1>, usize, u64)>,
    limit: usize,
    sum: f64,
    images: usize,
    last: f64,
}

impl Losses {
    fn new(cpu: bool, progress: &Progress) -> Self {
        Self {
            pending: Vec::new(),
            limit: if cpu { 1 } else { 16 },
            sum: progress.loss_sum,
            images: progress.images,
            last: f64::NAN,
        }
    }

    /// The step of the first loss that is not finite is an error.
    fn push(&mut self, loss: Tensor<1>, images: usize, step: u64, flush: bool) -> Result<(), u64> {
        self.pending.push((loss, images, step));
        match flush || self.pending.len() >= self.limit {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), u64> {
        for (loss, images, step) in self.pending.drain(..) {
            let value = floats(loss.into_data())
                .into_iter()
                .next()
                .map_or(f64::NAN, f64::from);
            if !value.is_finite() {
                return Err(step);
            }
            self.sum += value * images as f64;
            self.images += images;
            self.last = value;
        }
        Ok(())
    }
}

/// Scales all gradients down together if their Euclidean norm is above `limit` (Pascanu et al.
/// 2013), on the device.
fn clip_norm(model: &Model, gradients: GradientsParams, limit: f64) -> GradientsParams {
    struct Squares<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let square = gradient.square().sum();
                self.1 = Some(match self.1.take() {
                    Some(sum) => sum + square,
                    None => square,
                });
            }
        }
    }
    struct Scale(GradientsParams, Tensor<1>);
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                let scaled = gradient * self.1.clone().reshape([1; D]);
                self.0.register(param.id, scaled);
            }
        }
    }
    let mut squares = Squares(&gradients, None);
    model.visit(&mut squares);
    let Some(sum) = squares.1 else {
        return gradients;
    };
    // PyTorch's `clip_grad_norm_` adds 1e-6 to the norm as well.
    let factor = (sum.sqrt() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    let mut scale = Scale(gradients, factor);
    model.visit(&mut scale);
    scale.0
}

#[cfg(test)]
mod tests {
    use burn::optim::SgdConfig;
    use burn::tensor::{Device, Int};
    use peft_core::Activation;
    use peft_core::backbone::{BackboneConfig, Init};
    use peft_core::method::AdaptationMethod;
    use peft_core::{LinearHead, Plug};

    use super::*;

    fn model(method: &str) -> Model {
        let backbone =
            "{name: vit, img_size: 32, patch_size: 16, embed_dim: 8, depth: 2, num_heads: 2}";
        let backbone: Box<dyn BackboneConfig> = serde_yaml::from_str(backbone).unwrap();
        let method: Box<dyn AdaptationMethod> = serde_yaml::from_str(method).unwrap();
        let init = Init::seeded(&Device::flex(), 4);
        let head = LinearHead::new(8, 3, &init);
        let backbone = Plug::new(backbone.build(&init).unwrap());
        Model::assemble(backbone, &[method], head, &init).unwrap()
    }

    /// What one step of plain gradient descent changes, by name.
    fn change(method: &str) -> BTreeMap<String, Vec<f32>> {
        let model = model(method);
        let values = |model: &Model| params::read(model, |info| model.trains(&info.name));
        let before = values(&model);
        let (rates, model) = (Rates::of(&model), model.train());
        let device = Device::flex();
        let images = Tensor::<1, Int>::arange(0..2 * 3 * 32 * 32, &device).float();
        let images = images.reshape([2, 3, 32, 32]).sin();
        let x = Activation::Map(images).into_autodiff();
        let logits = model.logits(x, 0, Some(&model.step(0, 0, 0)));
        let labels = Tensor::from_data([0, 2], &device.autodiff());
        let gradients = cross_entropy(logits, labels, 0.0).backward();
        let gradients = GradientsParams::from_grads(gradients, &model);
        let model = rates.step(&mut SgdConfig::new().init(), 1.0, model, gradients);
        let after = values(&model.valid());
        let difference = |(name, after): (String, _)| {
            let before = floats(before[&name].clone());
            let pairs = floats(after).into_iter().zip(before);
            (name, pairs.map(|(a, b)| a - b).collect())
        };
        after.into_iter().map(difference).collect()
    }

    #[test]
    fn a_step_is_as_large_as_its_factor() {
        let whole = change("{name: full-finetune}");
        let decayed = change("{name: full-finetune, layer_decay: 0.5}");
        let rates = model("{name: full-finetune, layer_decay: 0.5}");
        let mut seen = Vec::new();
        for (name, whole) in &whole {
            let rate = rates.rate(name) as f32;
            let largest = whole.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(largest > 0.0, "{name} does not move");
            for (got, whole) in decayed[name].iter().zip(whole) {
                // Both differences are rounded where the parameter lies, around 1.
                assert!(
                    (got - rate * whole).abs() <= 2e-6 + 1e-5 * largest,
                    "{name}"
                );
            }
            seen.push(rate);
        }
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen, [0.125, 0.25, 0.5, 1.0]);
    }
}
