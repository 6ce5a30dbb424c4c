//! Devices: which may train.

use std::process::Output;

use serde_json::Value;

use crate::{SMALL, runner, succeeded, summary};

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
