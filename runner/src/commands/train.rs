//! `runner --config ..`: trains, tests once, and leaves a run folder.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::adapter_file::{self, AdapterInfo};
use peft_core::data::Split;
use peft_core::{Model, weights};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::TrainArgs;
use crate::commands::on_pool;
use crate::data::Loader;
use crate::device::Chosen;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::experiment::Experiment;
use crate::folder::RunFolder;
use crate::plan::plan;
use crate::progress::Reporter;
use crate::report;
use crate::summary::{Inference, Memory, Params, Summary, Time};
use crate::train::{Trained, Trainer, evaluate};
use crate::trial::{Trial, checkpoint_tensors};
use peft_datasets::Preprocess;

/// Trains and evaluates.
pub fn train(args: &TrainArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/",
        ));
    };
    let mut experiment = Experiment::read(config, &args.config.set)?;
    if args.adapter.is_some() {
        experiment.adapter.clone_from(&args.adapter);
    }
    on_pool(&args.place, |device| {
        let (trial, model) = Trial::open(experiment, &device)?;
        if args.dry_run {
            print!("{}", plan(&trial, &model, &device));
            trial.remarks.iter().for_each(|remark| println!("{remark}"));
            return Ok(());
        }
        let path = trial.folder(&args.runs);
        let folder = RunFolder::open(path, &trial, &device.name)?;
        let summary = match folder.finished() {
            Some(summary) => {
                eprintln!("finished before: {}", folder.path().display());
                summary
            }
            None => run(&trial, model, &folder, &device)?,
        };
        print(&summary, &folder);
        Ok(())
    })
}

fn run(
    trial: &Trial,
    model: Model,
    folder: &RunFolder,
    device: &Chosen,
) -> Result<Summary, Failure> {
    let mut reporter = Reporter::new(Some(&folder.file("log.txt")));
    for line in plan(trial, &model, device)
        .lines()
        .chain(trial.remarks.iter().map(String::as_str))
    {
        reporter.line(line);
    }
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the process at once.
        signal_hook::flag::register_conditional_default(signal, interrupt.clone())?;
        signal_hook::flag::register(signal, interrupt.clone())?;
    }
    let model = trial.started(model)?;
    let counts = model.counts();
    let info = AdapterInfo::of(&model, trial.weights_hash.clone(), trial.classes.clone());
    let checkpoint = folder.file("checkpoints/last.safetensors");
    let trainer = Trainer::new(trial, model, device, checkpoint, interrupt, &mut reporter)?;
    let trained = trainer.run();
    reporter.finish();
    let Trained {
        model,
        tensors,
        progress,
        selected,
    } = trained?;

    let loader = |split| Loader {
        dataset: &*trial.dataset,
        split,
        preprocess: Preprocess::new(&trial.input),
        batch_size: trial.experiment.recipe.batch_size,
    };
    let compute = trial.compute_type();
    let (validation, _) = evaluate(&model, &loader(Split::Validation), device, compute)?;
    let (test, seconds) = evaluate(&model, &loader(Split::Test), device, compute)?;

    adapter_file::write(&folder.file("adapter.safetensors"), &tensors, &info)?;
    if trial.experiment.save_model {
        let path = folder.file("model.safetensors");
        weights::write(&path, &checkpoint_tensors(&model), [].into())?;
    }
    let lines = progress.history.iter().map(serde_json::to_string);
    let lines = lines
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| failure(Exit::Unexpected, e))?;
    folder.write(
        "metrics.jsonl",
        format!("{}\n", lines.join("\n")).as_bytes(),
    )?;

    let epochs = progress.history.len();
    let epoch_seconds: f64 = progress.history.iter().map(|record| record.seconds).sum();
    let methods = trial.experiment.method.iter();
    let summary = Summary {
        status: "done".to_owned(),
        experiment: trial.experiment.name.clone(),
        trial: trial.slug(),
        methods: methods
            .map(|method| method.typetag_name().to_owned())
            .collect(),
        inference: Inference {
            images_per_second: test.images as f64 / seconds,
        },
        test,
        validation,
        best_epoch: selected + 1,
        epochs,
        params: Params::new(counts, trial.formula),
        memory: Memory {
            peak_bytes: progress.peak_bytes,
        },
        time: Time {
            seconds_per_epoch: epoch_seconds / epochs as f64,
            total_seconds: progress.total_seconds,
        },
        device: device.name.clone(),
        config_hash: trial.hash.clone(),
        seed: trial.experiment.seed,
    };
    let html = report::html(
        &summary,
        &progress.history,
        &info.classes,
        &trial.experiment,
    );
    folder.write("report.html", html.as_bytes())?;
    folder.write_json("summary.json", &summary)?;
    Ok(summary)
}

/// The result, on stdout.
fn print(summary: &Summary, folder: &RunFolder) {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let rows = [
        ("test top-1", percent(summary.test.top1)),
        ("test top-5", percent(summary.test.top5)),
        ("test loss", format!("{:.4}", summary.test.loss)),
        ("validation top-1", percent(summary.validation.top1)),
        (
            "epoch",
            format!("{} of {}", summary.best_epoch, summary.epochs),
        ),
        (
            "trainable",
            format!("{} of {}", summary.params.trainable, summary.params.total),
        ),
        (
            "peak memory",
            format!(
                "{:.1} MiB",
                summary.memory.peak_bytes as f64 / (1 << 20) as f64
            ),
        ),
        (
            "time",
            format!(
                "{:.2} s an epoch, {:.1} s in all",
                summary.time.seconds_per_epoch, summary.time.total_seconds
            ),
        ),
        (
            "inference",
            format!("{:.0} images/s", summary.inference.images_per_second),
        ),
        ("run", folder.path().display().to_string()),
    ];
    for (key, value) in rows {
        println!("{key:<18}{value}");
    }
}
