//! `runner study`: every study in its smallest form, the values that are known, and what is refused.

mod counts;

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use super::{folder, run, succeeded, summary};
use crate::methods::root;

fn fixture(name: &str) -> String {
    root().join("fixtures").join(name).display().to_string()
}

fn study(args: &[&str], runs: &Path) -> Output {
    run(&[&["study"], args, &["--device", "cpu"]].concat(), runs)
}

fn json(args: &[&str]) -> Value {
    let runs = tempfile::tempdir().unwrap();
    json_in(args, runs.path())
}

fn json_in(args: &[&str], runs: &Path) -> Value {
    let output = study(&[args, &["--format", "json"]].concat(), runs);
    let found: Value = serde_json::from_str(&succeeded(output)).unwrap();
    for key in ["study", "claims", "result", "settings", "seconds"] {
        assert!(!found[key].is_null(), "{args:?}: {key}");
    }
    found
}

fn verdict<'a>(found: &'a Value, id: &str) -> &'a str {
    let claims = found["claims"].as_array().unwrap();
    let claim = claims.iter().find(|claim| claim["id"] == id);
    let claim = claim.unwrap_or_else(|| panic!("no claim {id} in {found:#}"));
    assert!(!claim["reason"].as_str().unwrap().is_empty());
    claim["verdict"].as_str().unwrap()
}

/// The shipped configurations with their studies.
fn configs() -> Vec<(String, String)> {
    let files = std::fs::read_dir(root().join("configs/study")).unwrap();
    let mut configs: Vec<(String, String)> = files
        .map(|file| {
            let path: PathBuf = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let study = text.lines().find_map(|line| line.strip_prefix("study: "));
            let study = study.unwrap_or_else(|| panic!("{}: no study", path.display()));
            let stem = path.file_stem().unwrap().to_str().unwrap();
            (format!("study/{stem}.yaml"), study.to_owned())
        })
        .collect();
    configs.sort();
    configs
}

#[test]
fn every_shipped_study_opens_and_one_without_its_files_says_what_is_missing() {
    let configs = configs();
    assert!(configs.len() >= 14, "{configs:?}");
    for (config, name) in configs {
        let planned = json(&[&name, "--config", &config, "--dry-run"]);
        assert_eq!(planned["study"], name.as_str());
        let counted = ["micro", "portrait", "paper-counts"];
        let full = !counted.iter().any(|part| config.contains(part));
        if full {
            let found = json(&[&name, "--config", &config]);
            for claim in found["claims"].as_array().unwrap() {
                // Work is counted, whatever is missing.
                if claim["id"] == "cost" {
                    assert_eq!(claim["verdict"], "holds", "{config}: {claim}");
                    continue;
                }
                assert_eq!(claim["verdict"], "needs_data", "{config}: {claim}");
                let reason = claim["reason"].as_str().unwrap();
                assert!(reason.contains("missing"), "{config}: {reason}");
            }
        }
    }
}

#[test]
fn the_plan_of_a_sweep_has_the_known_sizes() {
    let plan = |config: &str| {
        let plan = json(&["layer-sweep", "--config", config, "--dry-run"]);
        let rows = plan["result"]["rows"].as_array().unwrap().clone();
        rows.into_iter()
            .filter(|row| row["method"] == "ap")
            .collect::<Vec<_>>()
    };
    let rows = plan("study/fig2.yaml");
    assert_eq!(rows.len(), 34);
    let mut before = u64::MAX;
    for row in &rows {
        let boundary = row["boundary"].as_u64().unwrap();
        let expected = match boundary {
            1 => 200_704,
            2..=4 => 802_816,
            5..=8 => 401_408,
            9..=31 => 200_704,
            _ => 100_352,
        };
        assert_eq!(row["trainable"], expected, "boundary {boundary}");
        let work = row["work_per_step"].as_u64().unwrap();
        assert!(work <= before, "boundary {boundary}");
        before = work;
        assert!(row["test"].is_null() && row["validation"].is_null());
    }
    let rows = plan("study/figA2.yaml");
    let swin: Vec<u64> = rows
        .iter()
        .filter(|row| row["backbone"] == "swin-base")
        .map(|row| row["trainable"].as_u64().unwrap())
        .collect();
    assert_eq!(swin.len(), 25);
    assert_eq!(
        [swin[0], swin[2], swin[4], swin[24]],
        [401_408, 200_704, 100_352, 50_176]
    );
    let rows = plan("study/figA3.yaml");
    assert!(rows.iter().all(|row| row["trainable"] == 201_728));
}

#[test]
fn the_theorem_is_judged_by_its_exponents() {
    let runs = tempfile::tempdir().unwrap();
    let found = json_in(&["theory"], runs.path());
    for (id, expected) in [
        ("theorem1-order", "holds"),
        ("theorem1-rate-1/zero_one", "holds"),
        ("theorem1-rate-1/hinge", "does_not_hold"),
        ("theorem1-rate-2/zero_one", "does_not_hold"),
        ("theorem1-rate-2/hinge", "does_not_hold"),
        ("lemma1", "holds"),
        ("lemma1/noise", "does_not_hold"),
    ] {
        assert_eq!(verdict(&found, id), expected, "{id}");
    }
    let flow = &found["result"]["flow"][0];
    assert_eq!((&flow["P"], &flow["layer"]), (&16.into(), &1.into()));
    let exponents = found["result"]["exponents"].as_array().unwrap();
    let of = |layer: u64, key: &str| {
        let mut own = exponents.iter().filter(|row| row["layer"] == layer);
        own.next_back().unwrap()[key].as_f64().unwrap()
    };
    for (layer, key, known) in [
        (1, "hinge", 2.04),
        (1, "zero_one", 1.03),
        (2, "hinge", 4.95),
        (2, "zero_one", 2.98),
    ] {
        let own = of(layer, key);
        assert!((own - known).abs() < 0.02, "{layer} {key}: {own}");
    }
    // The page and the file are written below --runs, and the file is what was printed.
    let text = std::fs::read_to_string(runs.path().join("theory/study.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["result"], found["result"]);
    let page = std::fs::read_to_string(runs.path().join("theory/report.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("<script") && !page.contains("http"));
    let tensors = fixture("studies/theory_m4.safetensors");
    let model = json(&[
        "theory",
        "--tensors",
        &tensors,
        "--set",
        "beta_sq=[2.2,1.7]",
    ]);
    assert_eq!(verdict(&model, "lemma1"), "none");
    assert_eq!(model["result"]["model"]["f0"].as_array().unwrap().len(), 6);
    assert_eq!(
        model["result"]["model"]["grad2"][7]
            .as_array()
            .unwrap()
            .len(),
        4
    );
}

#[test]
fn tensors_of_files_are_measured_without_a_verdict() {
    let (a, b) = (
        fixture("studies/cka_a.safetensors"),
        fixture("studies/cka_b.safetensors"),
    );
    let found = json(&[
        "cka",
        "--features",
        &a,
        "--features",
        &b,
        "--set",
        "batch=10",
    ]);
    let result = &found["result"];
    assert_eq!(
        (&result["images_used"], &result["batch"]),
        (&20.into(), &10.into())
    );
    assert!((result["cka"][0][0].as_f64().unwrap() - 0.777_500_309_289_004_7).abs() < 1e-9);
    assert!(result["cka"][2][3].is_null());
    assert_eq!(verdict(&found, "deep-cnn-middle-vit"), "none");

    let weights = fixture("studies/attention_registers.safetensors");
    let sets = [
        "--set",
        "grid=[3,5]",
        "--set",
        "patch=14",
        "--set",
        "prefix=5",
    ];
    let found = json(&[&["attention-distance", "--attention", &weights], &sets[..]].concat());
    let layer = &found["result"]["layers"][1];
    assert!((layer["pixels"][0].as_f64().unwrap() - 22.466_936_857_894_687).abs() < 1e-8);
    assert!(found["result"]["uniform_pixels"].is_f64());

    let block = fixture("studies/prop1_block.safetensors");
    let found = json(&["prop1", "--tensors", &block, "--set", "stride=2"]);
    let cases = found["result"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    assert!((cases[1]["residual"].as_f64().unwrap() - 0.125_478_913_642_104_7).abs() < 1e-9);

    let io = fixture("label_mapping/io.safetensors");
    let found = json(&[
        "label-mapping",
        "--logits",
        &io,
        "--set",
        "tensor=logits.2",
        "--set",
        "sources=2",
    ]);
    assert_eq!(found["result"]["mapping"][4], serde_json::json!([6, 9]));
    assert_eq!(found["result"]["counts"].as_array().unwrap().len(), 11);
}

#[test]
fn the_networks_at_hand_are_measured() {
    let shapes = "dataset={name: shapes, train: 64, validation: 64, test: 64}";
    let sets = ["--set", shapes, "--set", "images=64", "--set", "batch=16"];
    let found = json(&[&["cka"], &sets[..], &["--set", "kind=plain"]].concat());
    let decided = ["holds", "does_not_hold", "undecided"];
    assert!(decided.contains(&verdict(&found, "deep-cnn-middle-vit")));
    let again = found["result"]["again"].as_array().unwrap();
    assert_eq!(again[0]["cka"].as_array().unwrap().len(), 10);
    let result = &found["result"];
    assert_eq!(
        (
            result["a"].as_array().unwrap().len(),
            result["b"].as_array().unwrap().len()
        ),
        (10, 8)
    );
    assert_eq!(result["plain"].as_array().unwrap().len(), 10);
    // A network is compared with itself if there is one.
    let own = ["other=null", "again=[]", "backbone=vit-micro"];
    let own: Vec<&str> = own.iter().flat_map(|set| ["--set", *set]).collect();
    let found = json(&[&["cka"], &sets[..], &own[..]].concat());
    for at in 0..8 {
        let cell = found["result"]["cka"][at][at].as_f64().unwrap();
        assert!((cell - 1.0).abs() < 1e-12, "{cell}");
    }
    assert_eq!(verdict(&found, "deep-cnn-middle-vit"), "none");

    let found = json(&["attention-distance", "--set", shapes, "--set", "images=20"]);
    let layers = found["result"]["layers"].as_array().unwrap();
    assert_eq!(
        (layers.len(), layers[0]["pixels"].as_array().unwrap().len()),
        (6, 5)
    );
    // One image more or less changes the means, so that all 20 and no other count.
    let again = json(&[
        "attention-distance",
        "--set",
        shapes,
        "--set",
        "images=20",
        "--set",
        "batch=7",
    ]);
    let close =
        |a: &Value, b: &Value| (a.as_f64().unwrap() / b.as_f64().unwrap() - 1.0).abs() < 1e-5;
    assert!(close(
        &layers[3]["pixels"][2],
        &again["result"]["layers"][3]["pixels"][2]
    ));
}

const TINY: [&str; 8] = [
    "--set",
    "backbones=[{label: tiny, use: {name: vit, img_size: 16, patch_size: 4, embed_dim: 16, depth: 3, num_heads: 2}}]",
    "--set",
    "datasets=[{label: shapes, use: {name: shapes, size: 16, train: 96, validation: 64, test: 64}}]",
    "--set",
    "trial.recipe.epochs=1",
    "--set",
    "seeds=[0,1,2]",
];

#[test]
fn a_row_of_a_sweep_is_the_single_run_and_nothing_is_trained_twice() {
    let runs = tempfile::tempdir().unwrap();
    let args = [
        &["layer-sweep"],
        &TINY[..],
        &["--set", "boundaries=[1,3,-1]"],
    ]
    .concat();
    let found = json_in(&args, runs.path());
    let rows = found["result"]["rows"].as_array().unwrap();
    let boundaries: Vec<u64> = rows
        .iter()
        .filter_map(|row| row["boundary"].as_u64())
        .collect();
    assert_eq!(boundaries, [1, 3]);
    assert_eq!(rows.len(), 4, "two boundaries and two lines");
    let row = &rows[1];
    assert_eq!((&row["boundary"], &row["seeds"]), (&3.into(), &3.into()));
    // Each verdict rests on three seeds.
    assert!(["holds", "does_not_hold", "undecided"].contains(&verdict(&found, "vit-shallow")));
    assert_eq!(verdict(&found, "cost"), "holds");

    let alone = tempfile::tempdir().unwrap();
    let rate = format!("recipe.optimizer.lr={}", row["learning_rate"]);
    let backbone = TINY[1]
        .split_once("use: ")
        .unwrap()
        .1
        .trim_end_matches("}]");
    let dataset = TINY[3]
        .split_once("use: ")
        .unwrap()
        .1
        .trim_end_matches("}]");
    let (backbone, dataset) = (format!("backbone={backbone}"), format!("dataset={dataset}"));
    succeeded(run(
        &[
            "--config",
            "peft/ap.yaml",
            "--device",
            "cpu",
            "--set",
            &backbone,
            "--set",
            &dataset,
            "--set",
            "method.boundaries=[3]",
            "--set",
            "recipe.epochs=1",
            "--set",
            &rate,
            "--set",
            "seed=1",
        ],
        alone.path(),
    ));
    assert_eq!(
        summary(alone.path())["test"]["top1"],
        row["test_by_seed"]["1"]
    );
    let single = std::fs::read(folder(alone.path()).join("adapter.safetensors")).unwrap();
    let trial = std::fs::read_dir(runs.path().join("layer-sweep-micro")).unwrap();
    let mut adapters = trial
        .filter_map(|entry| std::fs::read(entry.unwrap().path().join("adapter.safetensors")).ok());
    assert!(adapters.any(|adapter| adapter == single));

    let output = study(&[&args[..], &["--format", "json"]].concat(), runs.path());
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let again: Value = serde_json::from_str(&succeeded(output)).unwrap();
    assert_eq!(again["result"], found["result"]);
    assert!(messages.contains("(0.0"), "{messages}");
}

#[test]
fn the_samples_of_a_curve_are_those_that_train() {
    let sets = [
        "datasets=[digits]",
        "boundaries=[1,3]",
        "shots=[1,2]",
        "learning_rates=[0.1]",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    let found = json(&[&["samples"], &TINY[..], &sets[..]].concat());
    let curves = found["result"]["curves"].as_array().unwrap();
    let images: Vec<u64> = curves
        .iter()
        .map(|point| point["images"].as_u64().unwrap())
        .collect();
    assert_eq!(images, [10, 20, 10, 20]);
    for point in curves {
        assert_eq!(point["accuracy"].as_array().unwrap().len(), 3, "{point}");
        assert_eq!(point["backbone"], "tiny");
    }
    assert_eq!(found["result"]["images_to"].as_array().unwrap().len(), 2);
}

#[test]
fn a_claim_that_one_bundled_pretraining_shows_stays_undecided() {
    let shapes = "dataset={name: shapes, train: 64, validation: 64, test: 64}";
    let sets = ["--set", shapes, "--set", "images=20"];
    let found = json(&[&["attention-distance"], &sets[..]].concat());
    let again = found["result"]["again"].as_array().unwrap();
    assert_eq!(again.len(), 1);
    assert_ne!(again[0]["layers"], found["result"]["layers"]);
    let alone = [&["attention-distance"], &sets[..], &["--set", "again=[]"]].concat();
    let alone = json(&alone);
    assert_eq!(verdict(&alone, "falls-then-rises"), "undecided");
    let reason = alone["claims"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("two pretrainings"), "{reason}");
    assert_eq!(alone["result"]["layers"], found["result"]["layers"]);
}

#[test]
fn what_a_study_cannot_use_is_refused_with_exit_code_2() {
    let runs = tempfile::tempdir().unwrap();
    let (a, x) = (
        fixture("studies/cka_a.safetensors"),
        fixture("studies/attention_square.safetensors"),
    );
    for (args, expected) in [
        (
            vec!["theory", "--set", "beta_sq=1.2"],
            "layer 2 is solvable only if",
        ),
        (
            vec!["theory", "--set", "patchs=[16]"],
            "did you mean `patches`?",
        ),
        (
            vec!["theory", "--features", &a],
            "--features: theory does not take it",
        ),
        (
            vec!["theory", "--config", "study/fig2.yaml"],
            "expected theory, got a file of layer-sweep",
        ),
        (
            vec!["cka", "--features", &a, "--set", "batch=3"],
            "batch: expected at least 4, got 3",
        ),
        (
            vec!["cka", "--features", "nowhere.safetensors"],
            "nowhere.safetensors",
        ),
        (
            vec!["attention-distance", "--attention", &x],
            "expected --set grid",
        ),
        (
            vec!["attention-distance", "--set", "backbone=resnet-micro"],
            "resnet-micro has no attention",
        ),
        (
            vec!["layer-sweep", "--set", "boundaries=[40]", "--dry-run"],
            "boundary 40 does not exist",
        ),
        (
            vec!["layer-sweep", "--set", "learning_rates=fast"],
            "expected a list of learning rates",
        ),
        (vec!["layers"], "possible values: layer-sweep"),
    ] {
        let output = study(&args, runs.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}
