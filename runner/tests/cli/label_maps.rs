//! Heads without trained weights: a map from the checkpoint's classes to those of the data set.

use serde_json::Value;

use super::{folder, run, succeeded, summary};

/// A prompt on a frozen classifier whose classes stand for the data set's.
const MAPPED: [&str; 16] = [
    "--config",
    "peft/vp.yaml",
    "--device",
    "cpu",
    "--set",
    "backbone=resnet-micro",
    "--set",
    "dataset={name: shapes, size: 64, train: 192, validation: 128, test: 128}",
    "--set",
    "recipe.epochs=3",
    "--set",
    "recipe.schedule={name: constant}",
    "--set",
    "recipe.batch_size=16",
    "--set",
    "head={name: label-mapping, kind: iterative}",
];

#[test]
fn a_label_map_is_saved_with_what_trains_and_predicts_again() {
    let runs = tempfile::tempdir().unwrap();
    succeeded(run(&MAPPED, runs.path()));
    let found = summary(runs.path());
    let params = &found["params"];
    assert_eq!(
        params["trainable"], params["adapter"],
        "only the prompt trains"
    );
    assert_eq!(params["head"], 0);
    let eval = crate::program()
        .args(["eval", "--device", "cpu", "--format", "json"])
        .arg(folder(runs.path()))
        .output()
        .unwrap();
    let eval: Value = serde_json::from_str(&succeeded(eval)).unwrap();
    assert_eq!(eval["test"], found["test"]);
    let random = tempfile::tempdir().unwrap();
    let head = ["--set", "head.kind=random", "--set", "recipe.epochs=1"];
    succeeded(run(&[&MAPPED, &head[..]].concat(), random.path()));
    // The classes of the checkpoint are those of the data, so that finding them beats drawing them.
    let top1 = |runs| summary(runs)["test"]["top1"].as_f64().unwrap();
    assert!(top1(runs.path()) > top1(random.path()) + 0.2);
    for (more, expected) in [
        (
            "backbone={name: resnet, img_size: 64, block: basic, layers: [1, 1, 1, 1], channels: [4, 4, 8, 8]}",
            "the checkpoint has no head",
        ),
        ("head.sources=2", "need 128, and the checkpoint has 64"),
        ("method=linear-probe", "nothing trains"),
    ] {
        let output = run(&[&MAPPED, &["--set", more][..]].concat(), random.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn an_iterative_label_map_resumes_to_the_bit() {
    use std::time::Duration;

    use super::{assert_same, until_a_checkpoint};

    let (whole, broken) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The average of a run has the map of the run: one of indices cannot be averaged.
    let mapped = [&MAPPED, &["--set", "recipe.ema={decay: 0.9}"][..]].concat();
    succeeded(run(&mapped, whole.path()));
    let mut kills = 0;
    for wait in [0, 40] {
        let mut child = until_a_checkpoint(&mapped, broken.path(), Duration::from_millis(wait));
        let pid = child.id().to_string();
        if child.try_wait().unwrap().is_none() {
            std::process::Command::new("kill")
                .args(["-INT", &pid])
                .status()
                .unwrap();
            kills += 1;
        }
        child.wait().unwrap();
    }
    assert!(kills > 0, "no interrupt came in time");
    succeeded(run(&mapped, broken.path()));
    assert_same(whole.path(), broken.path());
}
