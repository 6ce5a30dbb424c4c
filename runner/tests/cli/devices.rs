//! Devices: which may train, and one trial on several.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::{SMALL, assert_same, folder, runner, succeeded, summary};

/// One epoch of the small trial on `--devices`, if any are given, with a cache of its own.
fn on(devices: Option<&str>, more: &[&str], runs: &Path) -> Output {
    let mut args: Vec<&str> = SMALL.to_vec();
    if let Some(devices) = devices {
        let device = args.iter().position(|arg| *arg == "--device").unwrap();
        args.splice(device..device + 2, ["--devices", devices]);
    }
    runner(&[&args[..], more].concat(), runs).output().unwrap()
}

/// The losses of all epochs.
fn losses(runs: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(folder(runs).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| -> f64 {
        let record: Value = serde_json::from_str(line).unwrap();
        record["train_loss"].as_f64().unwrap()
    };
    text.lines().map(loss).collect()
}

#[test]
fn several_devices_train_what_one_does() {
    let place = || tempfile::tempdir().unwrap();
    let (one, two, again, three) = (place(), place(), place(), place());
    let dropout = ["--set", "method.dropout=0.2"];
    succeeded(on(None, &dropout, one.path()));
    succeeded(on(Some("cpu,cpu"), &dropout, two.path()));
    succeeded(on(Some("cpu,cpu"), &dropout, again.path()));
    succeeded(on(Some("cpu,cpu,cpu"), &dropout, three.path()));
    // The gradients are added in one order, whichever device is done first.
    assert_same(two.path(), again.path());
    for several in [&two, &three] {
        for (a, b) in losses(one.path()).iter().zip(losses(several.path())) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }
    assert_eq!(summary(three.path())["device"], "cpu,cpu,cpu");
    // The number of devices is no part of the trial: it is finished for any of them.
    let finished = on(None, &dropout, two.path());
    assert!(String::from_utf8_lossy(&finished.stderr).contains("finished before"));
}

#[test]
fn statistics_of_a_batch_are_not_computed_in_parts() {
    let runs = tempfile::tempdir().unwrap();
    let resnet = [
        "--set",
        "backbone=resnet-micro",
        "--set",
        "method={name: full-finetune}",
    ];
    let output = on(Some("cpu,cpu"), &resnet, runs.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("--devices: expected one device"),
        "{message}"
    );
}

/// The CPU that runs what accelerators run is compared with its usual operations before it trains.
#[test]
fn a_device_trains_only_what_it_computes_rightly() {
    let (cache, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let train = |seed: &str, more: &[&str]| -> Output {
        let seed = format!("seed={seed}");
        let args = [SMALL, &["--set", "recipe.epochs=1", "--set", &seed], more].concat();
        let mut command = runner(&args, &place.path().join(&seed));
        let command = command.arg("--cache").arg(cache.path());
        command.env("PEFT_OPS", "composed").output().unwrap()
    };
    let message = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let first = train("0", &[]);
    assert!(
        message(&first).contains("compared with the CPU once"),
        "{}",
        message(&first)
    );
    succeeded(first);
    let second = train("1", &[]);
    assert!(
        !message(&second).contains("compared"),
        "{}",
        message(&second)
    );
    succeeded(second);

    // As if the gradients of LoRA on ViTs had been wrong.
    let entries = std::fs::read_dir(cache.path().join("devices")).unwrap();
    let file = entries.map(|entry| entry.unwrap().path()).next().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    let kinds = record["tests"]["kinds"].as_array_mut().unwrap().iter_mut();
    let mut vit = kinds.filter(|test| test["family"] == "vit");
    let lora = vit.find(|test| test["kind"] == "lora").unwrap();
    assert_eq!(lora["result"], "pass");
    lora["result"] = "fail".into();
    lora["reason"] = "a.weight: relative error 7.8e-1".into();
    std::fs::write(&file, record.to_string()).unwrap();

    let refused = train("2", &[]);
    assert_eq!(refused.status.code(), Some(2), "{}", message(&refused));
    for part in ["--device cpu: vit, lora", "7.8e-1", "--trust-device"] {
        assert!(message(&refused).contains(part), "{}", message(&refused));
    }
    assert!(!place.path().join("seed=2").exists());
    succeeded(train("2", &["--trust-device"]));
    assert_eq!(
        summary(&place.path().join("seed=2"))["device_vouched"],
        true
    );
    assert!(
        summary(&place.path().join("seed=0"))
            .get("device_vouched")
            .is_none()
    );
    succeeded(train("3", &["--set", "method={name: linear-probe}"]));
}
