//! The program as a user types it: results, resuming after kills and signals, wrong input.

mod adapters;
mod backbones;
mod cache;
mod checkpoints;
mod classes;
mod commands;
mod compare;
mod costs;
mod data;
mod data_fetch;
mod data_kinds;
mod data_protocol;
mod devices;
mod documentation;
mod facts;
mod hub;
mod init;
mod label_maps;
mod leaving;
mod library;
mod methods;
mod pins;
mod server;
mod studies;
mod tasks;
mod weights_files;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use peft_core::registry::{PluginKind, plugins};
use serde_json::Value;

/// A small trial that ends within seconds: a random micro ViT on procedural images.
const SMALL: &[&str] = &[
    "--config",
    "peft/lora-r10.yaml",
    "--device",
    "cpu",
    "--set",
    "backbone={name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2}",
    "--set",
    "dataset={name: shapes, size: 16, train: 192, validation: 64, test: 64}",
    "--set",
    "recipe.epochs=4",
];

/// The program, which finds what is here and asks no hub for more.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.env("HF_HUB_OFFLINE", "1");
    command
}

fn runner(args: &[&str], runs: &Path) -> Command {
    let mut command = program();
    command.args(args).arg("--runs").arg(runs);
    command
}

fn run(args: &[&str], runs: &Path) -> Output {
    runner(args, runs).output().unwrap()
}

fn small(more: &[&str], runs: &Path) -> Output {
    run(&[SMALL, more].concat(), runs)
}

fn succeeded(output: Output) -> String {
    let (out, err) = (output.stdout, output.stderr);
    let err = String::from_utf8_lossy(&err).into_owned();
    assert!(output.status.success(), "{err}");
    String::from_utf8(out).unwrap()
}

/// The only run folder below `runs`.
fn folder(runs: &Path) -> PathBuf {
    let only = |path: &Path| {
        let mut entries = std::fs::read_dir(path).unwrap();
        let entry = entries.next().unwrap().unwrap().path();
        assert!(
            entries.next().is_none(),
            "more than one in {}",
            path.display()
        );
        entry
    };
    only(&only(runs))
}

fn summary(runs: &Path) -> Value {
    let text = std::fs::read_to_string(folder(runs).join("summary.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Metrics, epochs and weights of two runs are the same to the bit.
fn assert_same(a: &Path, b: &Path) {
    let (x, y) = (summary(a), summary(b));
    for key in [
        "test",
        "validation",
        "best_epoch",
        "epochs",
        "config_hash",
        "params",
    ] {
        assert_eq!(x[key], y[key], "{key}");
    }
    for name in [
        "adapter.safetensors",
        "steps.jsonl",
        "predictions.csv",
        "predictions.parquet",
    ] {
        let file = |runs| std::fs::read(folder(runs).join(name)).unwrap();
        assert!(file(a) == file(b), "{name} differs");
    }
    let losses = |runs| {
        let text = std::fs::read_to_string(folder(runs).join("metrics.jsonl")).unwrap();
        let line = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        let lines = text.lines().map(line);
        lines
            .map(|l| (l["train_loss"].clone(), l["validation"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(a), losses(b));
}

#[test]
fn tensorboard_files_are_written_on_request_and_do_not_change_the_run() {
    let (plain, tracked) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    succeeded(small(&[], plain.path()));
    assert!(!folder(plain.path()).join("tensorboard").exists());
    succeeded(small(&["--set", "tensorboard=true"], tracked.path()));
    assert_same(plain.path(), tracked.path());
    let files = std::fs::read_dir(folder(tracked.path()).join("tensorboard")).unwrap();
    let mut files: Vec<Vec<u8>> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(files.len(), 2, "one of the training and one of its results");
    files.sort_by_key(Vec::len);
    let tags = [&b"step/loss"[..], b"epoch/validation_score"];
    let results = [&b"test/confusion"[..], b"_hparams_/session_end_info"];
    for tag in tags.into_iter().chain(results) {
        let holds = |file: &Vec<u8>| file.windows(tag.len()).any(|bytes| bytes == tag);
        assert_eq!(files.iter().filter(|file| holds(file)).count(), 1);
    }
}

#[test]
fn a_run_reports_what_it_did_and_is_skipped_the_second_time() {
    let runs = tempfile::tempdir().unwrap();
    let out = succeeded(small(&[], runs.path()));
    assert!(out.contains("test top-1"), "{out}");
    let summary = summary(runs.path());
    assert_eq!(summary["status"], "done");
    for pointer in [
        "/test/top1",
        "/test/top5",
        "/test/loss",
        "/validation/top1",
        "/best_epoch",
        "/params/trainable",
        "/params/total",
        "/memory/peak_bytes",
        "/time/seconds_per_epoch",
        "/time/total_seconds",
        "/inference/images_per_second",
        "/seed",
    ] {
        assert!(
            summary.pointer(pointer).is_some_and(Value::is_number),
            "{pointer}"
        );
    }
    let formula = summary["params"]["formula"].as_u64();
    assert_eq!(formula, summary["params"]["adapter"].as_u64());
    assert_eq!(summary["test"]["images"], 64);
    for file in [
        "config.resolved.yaml",
        "env.json",
        "metrics.jsonl",
        "log.txt",
        "report.html",
    ] {
        assert!(
            folder(runs.path()).join(file).metadata().unwrap().len() > 0,
            "{file}"
        );
    }
    let again = small(&[], runs.path());
    assert!(String::from_utf8_lossy(&again.stderr).contains("finished before"));
    // Evaluating the adapter file gives the same numbers.
    let run_folder = folder(runs.path());
    let eval = program()
        .args(["eval", "--device", "cpu", "--format", "json"])
        .arg(&run_folder)
        .output()
        .unwrap();
    let eval: Value = serde_json::from_str(&succeeded(eval)).unwrap();
    assert_eq!(eval["test"], summary["test"]);
}

/// When the checkpoint below `runs` was written last.
fn checkpoint_time(runs: &Path) -> Option<SystemTime> {
    let first = |path: PathBuf| Some(std::fs::read_dir(path).ok()?.next()?.ok()?.path());
    let folder = first(first(runs.to_owned())?)?;
    let checkpoint = folder.join("checkpoints/last.safetensors");
    checkpoint.metadata().ok()?.modified().ok()
}

/// Starts the run, and waits until it has written a checkpoint and for another `wait`.
fn until_a_checkpoint(args: &[&str], runs: &Path, wait: Duration) -> Child {
    let before = checkpoint_time(runs);
    let mut child = runner(args, runs)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() && checkpoint_time(runs) == before {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(wait);
    child
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Dropout, augmentation, accumulation and the schedule depend on the step number, which must be restored; the
    // optimiser's state belongs to two groups, and what is tested is an average.
    let more = [
        "--set",
        "method.dropout=0.2",
        "--set",
        "recipe.augmentation={random_resized_crop: {scale: [0.5, 1]}, hflip: 0.5, auto_augment: \
         rand-m5-mstd0.5-inc1, re_prob: 0.5, re_mode: pixel, mixup: 0.2, cutmix: 1}",
        "--set",
        "recipe.accumulate=2",
        "--set",
        "recipe.batch_size=16",
        "--set",
        "recipe.epochs=16",
        "--set",
        "recipe.optimizer={name: adamw, lr: 0.01, weight_decay: 0.1}",
        "--set",
        "recipe.decays=matrices",
        "--set",
        "recipe.drop_path=0.3",
        "--set",
        "recipe.ema={decay: 0.9, warmup: true}",
        "--set",
        "recipe.schedule={name: cosine, per: epoch, warmup_epochs: 2, warmup_start: 0.1, floor: 0.01}",
    ];
    succeeded(small(&more, whole.path()));
    let args = [SMALL, &more].concat();
    let mut kills = 0;
    for wait in [0, 3, 7, 12, 20] {
        let mut child = until_a_checkpoint(&args, broken.path(), Duration::from_millis(wait));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills > 0, "no kill came in time");
    succeeded(small(&more, broken.path()));
    assert_same(whole.path(), broken.path());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_exits_with_75_and_goes_on() {
    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Full fine-tuning with batch statistics: buffers are restored too, and so are the entries that were selected.
    let more = [
        "--set",
        "method={name: full-finetune, select: {fraction: 0.3, batches: 3}}",
        "--set",
        "backbone={name: resnet, img_size: 32, block: basic, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}",
        "--set",
        "recipe.epochs=8",
        "--set",
        "recipe.batch_size=8",
        "--set",
        "recipe.ema={decay: 0.8}",
    ];
    succeeded(small(&more, whole.path()));
    let args = [SMALL, &more].concat();
    let mut interrupted = 0;
    for wait in [0, 10, 25] {
        let child = until_a_checkpoint(&args, broken.path(), Duration::from_millis(wait));
        let pid = child.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.code() == Some(75) {
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                message.contains("run the same command to go on"),
                "{message}"
            );
            interrupted += 1;
        }
    }
    assert!(interrupted > 0, "no interrupt came in time");
    succeeded(small(&more, broken.path()));
    assert_same(whole.path(), broken.path());
}

#[test]
fn a_loss_that_is_not_finite_ends_with_3_and_names_the_step() {
    let runs = tempfile::tempdir().unwrap();
    let more = [
        "--set",
        "method=full-finetune",
        "--set",
        "recipe.optimizer={name: sgd, lr: 1e12}",
        "--set",
        "recipe.schedule={name: constant}",
    ];
    let output = small(&more, runs.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(
        message.contains("not finite") && message.contains("step"),
        "{message}"
    );
    assert!(!folder(runs.path()).join("summary.json").exists());
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let runs = tempfile::tempdir().unwrap();
    let out = succeeded(small(&["--dry-run"], runs.path()));
    for part in [
        "blocks.0-2.attn.qkv (block 1 to block 3), linear 16 -> 48",
        "frozen up to boundary 1 (input of blocks.0)",
        "without the head: equal",
        "192 train, 64 validation, 64 test",
    ] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    assert!(!out.contains("blocks.1.attn.qkv"), "{out}");
    let verbose = succeeded(small(&["--dry-run", "--verbose"], runs.path()));
    let site = "blocks.1.attn.qkv (block 2), linear 16 -> 48";
    assert!(verbose.contains(site), "{verbose}");
    assert_eq!(std::fs::read_dir(runs.path()).unwrap().count(), 0);
}

#[test]
fn no_plan_is_longer_than_a_screen() {
    let runs = tempfile::tempdir().unwrap();
    for backbone in [
        "{name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 24, num_heads: 2}",
        "{name: resnet, img_size: 32, block: bottleneck, layers: [3, 4, 23, 3], channels: [4, 4, 8, 8]}",
        "{name: swin, img_size: 36, patch_size: 4, embed_dim: 8, depths: [2, 2, 18, 2], \
         num_heads: [2, 2, 4, 4], window_size: 4}",
    ] {
        let backbone = format!("backbone={backbone}");
        for method in ["ssf", "lora", "ap", "adapter"] {
            let method = format!("method={method}");
            let sets = ["--dry-run", "--set", &backbone, "--set", &method];
            let out = succeeded(small(&sets, runs.path()));
            assert!((12..=24).contains(&out.lines().count()), "{out}");
        }
    }
}

#[test]
fn an_adapter_is_refused_by_another_backbone() {
    let runs = tempfile::tempdir().unwrap();
    succeeded(small(&["--set", "recipe.epochs=1"], runs.path()));
    let folder = folder(runs.path());
    // Another seed draws another random backbone, but the structure is the same: change the width.
    let config = folder.join("config.resolved.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("embed_dim: 16", "embed_dim: 32")).unwrap();
    let output = program()
        .args(["eval", "--device", "cpu"])
        .arg(&folder)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("whose parameters differ"), "{message}");
}

/// The shipped trials that run on bundled weights and data.
const BUNDLED: [&str; 4] = [
    "peft/lora-r10.yaml",
    "peft/ap.yaml",
    "peft/linear-probe.yaml",
    "peft/full-finetune.yaml",
];

/// The trials that the bundled residual network refuses, and the reason.
const NOT_ON_MAPS: [(&str, &str); 8] = [
    ("peft/boft.yaml", "2 factors of blocks of 8 do not divide"),
    ("peft/fact-tk.yaml", "expected tokens of one width"),
    ("peft/fact-tt.yaml", "expected tokens of one width"),
    ("peft/lst.yaml", "its ladder needs tokens of one width"),
    ("peft/rep-adapter.yaml", "\"qkv\" matches no site of resnet"),
    ("peft/vpt-shallow.yaml", "a sequence under global attention"),
    ("peft/vpt-deep.yaml", "a sequence under global attention"),
    ("peft/vqt.yaml", "a sequence under global attention"),
];

#[test]
fn every_shipped_trial_trains_on_both_bundled_backbones_or_is_refused_with_a_reason() {
    let runs = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/peft");
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    // Those of the paper's setting need a checkpoint of 1.2 GB.
    let mut configs: Vec<_> = names
        .filter(|name| !name.starts_with("vit-large-"))
        .map(|name| format!("peft/{name}"))
        .collect();
    configs.sort();
    for config in BUNDLED
        .iter()
        .chain(NOT_ON_MAPS.iter().map(|(name, _)| name))
    {
        assert!(configs.iter().any(|name| name == config), "{config}");
    }
    for config in &configs {
        for backbone in ["vit-micro", "resnet-micro"] {
            let set = format!("backbone={backbone}");
            let few = ["dataset=digits", "dataset.shots=10", "recipe.epochs=1"];
            let sets = [&set, few[0], few[1], few[2]].map(|set| ["--set", set]);
            let args = [
                &["--config", config, "--device", "cpu"],
                sets.as_flattened(),
            ]
            .concat();
            let output = run(&args, runs.path());
            let refused = NOT_ON_MAPS.iter().find(|(name, _)| name == config);
            match refused.filter(|_| backbone == "resnet-micro") {
                None => {
                    let out = succeeded(output);
                    assert!(out.contains("test top-1"), "{config} on {backbone}: {out}");
                }
                Some((_, reason)) => {
                    let message = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert_eq!(output.status.code(), Some(2), "{config}: {message}");
                    assert!(message.contains(reason), "{config}: {message}");
                }
            }
        }
    }
}

#[test]
fn every_shipped_trial_of_the_paper_says_which_file_is_missing() {
    let runs = tempfile::tempdir().unwrap();
    for config in BUNDLED {
        let config = config.replace("peft/", "peft/vit-large-");
        let output = run(&["--config", &config, "--device", "cpu"], runs.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{config}: {message}");
        assert!(
            message.contains("timm/vit_large_patch16_224.augreg_in21k_ft_in1k"),
            "{config}: {message}"
        );
    }
}

#[test]
fn predictions_name_classes_and_a_bad_image_is_named() {
    let runs = tempfile::tempdir().unwrap();
    succeeded(small(&["--set", "recipe.epochs=1"], runs.path()));
    let folder = folder(runs.path());
    let image = runs.path().join("disc.png");
    image::RgbImage::from_pixel(20, 10, image::Rgb([9, 200, 30]))
        .save(&image)
        .unwrap();
    let predict = |image: &Path, more: &[&str]| {
        program()
            .arg("predict")
            .arg(&folder)
            .arg(image)
            .args(["--device", "cpu"])
            .args(more)
            .output()
            .unwrap()
    };
    let json = succeeded(predict(&image, &["--format", "json", "--top", "3"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    let predictions = json[0]["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 3);
    assert!(predictions[0]["class"].as_str().unwrap().contains('/'));
    let probabilities = predictions
        .iter()
        .map(|p| p["probability"].as_f64().unwrap());
    let probabilities: Vec<f64> = probabilities.collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b), "{json}");
    assert!(probabilities.iter().sum::<f64>() < 1.0, "{json}");
    assert!(probabilities[2] > 0.0, "{json}");
    let bad = runs.path().join("bad.png");
    std::fs::write(&bad, b"no image").unwrap();
    let output = predict(&bad, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.png"));
}
