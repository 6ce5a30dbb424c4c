//! What an experiment costs, as `runner profile` and `runner bench` print it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::succeeded;

const VIT: &str =
    "backbone={name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2}";
const SHAPES: &str = "dataset={name: shapes, size: 16, train: 192, validation: 64, test: 64}";

fn command(verb: &str, method: &str, more: &[&str]) -> Command {
    let mut command = crate::program();
    command.args([verb, "--config", "quickstart", "--device", "cpu"]);
    command.args([
        "--warmup", "1", "--steps", "2", "--set", VIT, "--set", SHAPES,
    ]);
    command
        .args(["--set", &format!("method={method}")])
        .args(more);
    command
}

fn profile(method: &str) -> Value {
    let output = command("profile", method, &["--format", "json"]).output();
    serde_json::from_str(&succeeded(output.unwrap())).unwrap()
}

fn number(value: &Value, pointer: &str) -> u64 {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.unwrap_or_else(|| panic!("no number at {pointer}"))
}

#[test]
fn a_profile_adds_up() {
    let profile = profile("{name: lora, rank: 2}");
    let flops = |key: &str| number(&profile, &format!("/flops_per_image/{key}"));
    assert_eq!(
        flops("forward"),
        flops("prefix") + flops("suffix") + flops("adapter")
    );
    assert_eq!(flops("backward"), flops("activations") + flops("weights"));
    assert_eq!(flops("step"), flops("forward") + flops("backward"));

    let params = |key: &str| number(&profile, &format!("/params/{key}"));
    assert_eq!(params("adapter"), params("formula"));
    assert_eq!(params("trainable"), params("adapter") + params("head"));
    let memory = |key: &str| number(&profile, &format!("/memory/{key}"));
    let float = size_of::<f32>() as u64;
    // Nothing of this backbone is a buffer.
    assert_eq!(memory("adapter"), float * params("adapter"));
    assert_eq!(
        memory("weights"),
        float * (params("total") - params("adapter"))
    );
    // A gradient for everything that trains, and two moments of AdamW.
    assert_eq!(memory("gradients"), float * params("trainable"));
    assert!(memory("optimizer") >= 2 * float * params("trainable"));
    assert!(memory("peak") > memory("kept_for_backward") + memory("weights"));

    for part in [
        "data",
        "prefix",
        "forward",
        "backward",
        "optimizer",
        "step",
        "inference",
    ] {
        let seconds = profile["seconds"][part].as_f64().unwrap();
        assert!(seconds > 0.0, "{part}");
    }
    assert!(profile["speed"]["share_step"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_probe_keeps_and_differentiates_its_head_alone() {
    let (probe, full) = (
        profile("{name: linear-probe}"),
        profile("{name: full-finetune}"),
    );
    assert_eq!(number(&probe, "/flops_per_image/activations"), 0);
    let kept = |profile| number(profile, "/memory/kept_for_backward");
    assert!(10 * kept(&probe) < kept(&full));
    assert_eq!(probe["first_cut"], "the features");
    assert_eq!(number(&full, "/flops_per_image/prefix"), 0);
    // No operation, no share.
    assert!(full["speed"]["share_prefix"].is_null());
}

#[test]
fn a_profile_is_also_for_people() {
    let output = command("profile", "{name: ap}", &[]).output().unwrap();
    let text = succeeded(output);
    for heading in [
        "parameters",
        "GFLOP per image, by formula",
        "memory, MiB",
        "milliseconds per step",
        "images/s",
    ] {
        assert!(text.contains(heading), "{heading}: {text}");
    }
    assert!(text.contains("medians of 2 after 1"), "{text}");
}

/// Three significant digits and the unit, and no key that runs into its value.
#[test]
fn a_benchmark_prints_the_digits_that_mean_something() {
    let text = succeeded(command("bench", "{name: ap}", &[]).output().unwrap());
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let line = line.unwrap_or_else(|| panic!("{key} is not in\n{text}"));
        line[key.len()..].trim().to_owned()
    };
    for key in ["training", "inference"] {
        let speed = value(key);
        let digits = speed.strip_suffix(" images/s").expect("a speed");
        let digits = digits.chars().filter(char::is_ascii_digit).count();
        assert!((3..=7).contains(&digits), "{speed}");
        assert!(!speed.contains('.') || digits <= 4, "{speed}");
    }
    assert!(value("step").contains(" ms (median of 2; mean "), "{text}");
    assert!(value("peak memory").ends_with(" MiB"), "{text}");
    assert!(value("kept for backward").ends_with(" MiB"), "{text}");
}

#[test]
fn a_benchmark_takes_turns() {
    let more = ["--format", "json", "--what", "inference", "--again"];
    let mut child = command("bench", "{name: ap}", &more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\n\n").unwrap();
    let text = succeeded(child.wait_with_output().unwrap());
    let rounds: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        assert_eq!(round["inference_seconds"].as_array().unwrap().len(), 2);
        assert!(round["median_seconds"].is_null());
        assert!(number(&round, "/peak_bytes") > number(&round, "/weights_bytes"));
    }
}
