//! Runs a trial from its first step to its summary: trains it, tests it once, and fills its run
//! folder.

pub mod folder;
pub mod journal;
pub mod plan;
mod predictions;
pub mod progress;
pub mod summary;
mod tensorboard;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use peft_core::adapter_file::{self, AdapterInfo};
use peft_core::data::Split;
use peft_core::params::floats;
use peft_core::{Model, weights};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cache::{Caches, Prefix};
use crate::data::held_out::Choice;
use crate::data::loader::Loader;
use crate::data::random::Pass;
use crate::device::ComputeDevice;
use crate::exit::{Exit, Failure, failure};
use crate::model::export::checkpoint_tensors;
use crate::model::trial::Trial;
use crate::report;
use crate::run::folder::{Environment, RunFolder};
use crate::run::plan::plan;
use crate::run::progress::Reporter;
use crate::run::summary::{Cell, Inference, Memory, Outcome, Params, Summary, Time, Tuning};
use crate::train::evaluate::evaluate_all;
use crate::train::{Trained, Trainer};
use crate::trust::is_examined;

/// The number of batches on which the speed of inference is measured, after one to warm up.
const TIMED_BATCHES: usize = 8;

/// The file of a run folder from which training resumes.
pub const CHECKPOINT: &str = "checkpoints/last.safetensors";

/// What a trial shares with others, and its place in a comparison.
pub struct Part<'a> {
    /// The caches of frozen work.
    pub caches: &'a Caches,
    /// A flag that a signal sets, to stop after the current step.
    pub interrupt: Arc<AtomicBool>,
    /// The place of the trial in the comparison.
    pub cell: Option<Cell>,
    /// The search that chose the tuned settings of the trial.
    pub tuning: Option<Tuning>,
    /// The devices that share each batch with the first.
    pub others: &'a [ComputeDevice],
    /// Reports the progress.
    pub reporter: Reporter,
}

/// The signals to stop. Job schedulers send SIGUSR1 before the time is up.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGUSR1];
/// The signals to stop.
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// A flag that the signals to stop set: SIGINT, SIGTERM, and SIGUSR1 where the system has it. The second signal ends the process at once.
///
/// # Errors
/// If they cannot be registered.
pub fn interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in SIGNALS {
        // In this order the first signal sets the flag and the second, which finds it set, ends the
        // process.
        signal_hook::flag::register_conditional_default(signal, interrupt.clone())?;
        signal_hook::flag::register(signal, interrupt.clone())?;
    }
    Ok(interrupt)
}

/// Trains and tests a trial.
///
/// # Errors
/// [`Exit::Interrupted`] after saving, [`Exit::Diverged`], an image that cannot be read, or a disk
/// that cannot be written.
pub fn run(
    trial: &Trial,
    model: Model,
    folder: &RunFolder,
    device: &ComputeDevice,
    part: Part,
) -> Result<Summary, Failure> {
    let reporter = &part.reporter;
    for line in plan(trial, &model, device)
        .lines()
        .chain(trial.remarks.iter().map(String::as_str))
    {
        reporter.line(line);
    }
    // Where few entries train, they alone are saved: those that differ from the backbone's.
    let frozen = model.selection().map(|_| model.backbone.clone());
    let model = trial.started(model)?;
    let counts = model.counts();
    let info = AdapterInfo::of(
        &model,
        trial.weights_hash().map(str::to_owned),
        trial.classes.clone(),
    )
    .with_multi_label(trial.data.is_multi_label());
    let (checkpoint, stop) = (folder.file(CHECKPOINT), &part.interrupt);
    let start = Instant::now();
    let checkpoint = Some(checkpoint);
    let trainer = Trainer::new(trial, model, device, checkpoint, stop.clone(), reporter)?;
    let before = trainer.seconds_before();
    let trainer = trainer.on_devices(part.others)?.with_journal(folder)?;
    let trained = trainer.with_caches(part.caches).and_then(Trainer::run);
    // The live view is removed before an error is printed.
    reporter.finish();
    let trained = trained?;

    // From here on the epoch is chosen: only this proof opens the test split.
    let choice = Choice::after(&trained);
    let Trained {
        model,
        tensors,
        progress,
        selected,
        mut cache,
    } = trained;
    let (recipe, compute) = (&trial.experiment.recipe, trial.compute_type());
    let images = || {
        let images = trial.preprocess();
        let loader = trial.data.test(&choice, images, recipe.batch_size);
        loader.with_warnings(reporter)
    };
    let backbone = (model.first_cut() > 0).then_some(&model.backbone);
    let prefix = Prefix {
        trial,
        backbone,
        taps: model.taps(),
        device,
    };
    let mut attach = |loader| {
        let attached = part.caches.attach(loader, &prefix, None, 1, stop, reporter);
        attached.inspect(|(_, cost)| cache.seconds += cost.seconds)
    };
    let (tested, _) = attach(images())?;
    let (test, _, outputs) = evaluate_all(&model, &tested, device, compute)?;
    let mut predictions = vec![(Split::Test, outputs)];
    // The history keeps only brief metrics, so the selected epoch is validated once more with the
    // confusion matrix.
    let validation = match progress.history[selected].validation {
        None => None,
        Some(_) => {
            let loader = trial.data.validation(trial.preprocess(), recipe.batch_size);
            let (loader, _) = attach(loader.with_warnings(reporter))?;
            let (metrics, _, outputs) = evaluate_all(&model, &loader, device, compute)?;
            predictions.insert(0, (Split::Validation, outputs));
            Some(metrics)
        }
    };
    // The speed includes the whole network, so it is measured on images even if the test read
    // cached rows.
    let images_per_second = inference(&model, &images(), trial, device)?;

    // The summary is written after everything else, because its presence means that all other files
    // are complete.
    let tensors = match frozen {
        Some(frozen) => adapter_file::sparse(tensors, &frozen),
        None => tensors,
    };
    adapter_file::write(&folder.file("adapter.safetensors"), &tensors, &info)?;
    if trial.experiment.save_model {
        let path = folder.file("model.safetensors");
        weights::write(&path, &checkpoint_tensors(&model), [].into())?;
    }
    predictions::write(folder, tested.images().dataset(), &predictions)?;
    let lines = progress.history.iter().map(serde_json::to_string);
    let lines = lines
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| failure(Exit::Unexpected, e))?;
    folder.write(
        "metrics.jsonl",
        format!("{}\n", lines.join("\n")).as_bytes(),
    )?;

    let epochs = progress.history.len();
    let seconds = progress.history.iter().map(|record| record.seconds);
    let seconds: Vec<f64> = seconds.collect();
    let methods = trial.experiment.method.iter();
    let value = |value| serde_json::to_value(value).map_err(|e| failure(Exit::Unexpected, e));
    let summary = Summary {
        experiment: trial.experiment.name.clone(),
        trial: folder.name(),
        cell: part.cell,
        methods: methods
            .map(|method| method.typetag_name().to_owned())
            .collect(),
        metric: trial.experiment.metric,
        inference: Inference { images_per_second },
        test,
        validation,
        skipped: Split::ALL
            .map(|split| trial.data.skipped(split))
            .iter()
            .sum(),
        best_epoch: selected + 1,
        epochs,
        params: Params::new(counts, trial.formula),
        memory: Memory {
            peak_bytes: progress.peak_bytes,
            cache_bytes: cache.bytes,
        },
        time: Time::of(
            &seconds,
            cache.seconds,
            before + start.elapsed().as_secs_f64(),
        ),
        device: names(device, part.others),
        device_vouched: device.vouched && is_examined(device),
        random_weights: trial.weights_hash().is_none(),
        config_hash: trial.hash.clone(),
        seed: trial.experiment.seed,
        classes: trial.classes.clone(),
        history: progress.history,
        tuning: part.tuning,
        config: value(&trial.experiment)?,
        environment: serde_json::to_value(Environment::here(&names(device, part.others)))
            .map_err(|e| failure(Exit::Unexpected, e))?,
    };
    if trial.experiment.tensorboard {
        tensorboard::write_results(folder, &summary)?;
    }
    let html = report::html(&summary, &trial.experiment);
    folder.write("report.html", html.as_bytes())?;
    folder.write_json("summary.json", &Outcome::Done(Box::new(summary.clone())))?;
    Ok(summary)
}

/// The names of the devices of a run, in order.
pub fn names(device: &ComputeDevice, others: &[ComputeDevice]) -> String {
    let devices = std::iter::once(device).chain(others);
    let names: Vec<&str> = devices.map(|device| device.name.as_str()).collect();
    names.join(",")
}

/// Measures the images per second from image to logits, reading excluded: the median over a few
/// batches of one size.
fn inference(
    model: &Model,
    loader: &Loader,
    trial: &Trial,
    device: &ComputeDevice,
) -> Result<f64, Failure> {
    let mut speeds = Vec::new();
    let batches = loader.batches().min(TIMED_BATCHES + 1);
    loader.each(0..batches, Pass::Plain, &device.device, |index, batch| {
        let images = batch.targets.len();
        let start = Instant::now();
        let x = batch.x.cast(trial.compute_type());
        floats(model.logits(x, 0, None).into_data());
        let speed = images as f64 / start.elapsed().as_secs_f64();
        // The first batch warms up, and the last one may be smaller. A split of a single batch is
        // measured all the same.
        if index == 0 || images == loader.batch_size() {
            speeds.push(speed);
        }
        Ok::<_, Failure>(true)
    })?;
    if speeds.len() > 1 {
        speeds.remove(0);
    }
    speeds.sort_by(f64::total_cmp);
    Ok(speeds[speeds.len() / 2])
}
