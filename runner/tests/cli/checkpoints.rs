//! What `runner inspect` recognises in a checkpoint, and what comes with the weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use burn::tensor::TensorData;
use peft_core::checkpoint::Checkpoint;
use peft_core::params::{Tensors, floats};
use peft_core::weights;
use serde_json::Value;

use crate::adapters::{refused, runner};
use crate::methods::root;
use crate::succeeded;

fn inspected(file: &str) -> Value {
    let out = inspect(&[root().join(file).as_path(), Path::new("--format=json")]);
    serde_json::from_str(&succeeded(out)).unwrap()
}

fn inspect(args: &[&Path]) -> Output {
    let mut command = crate::program();
    command.arg("inspect").args(args).output().unwrap()
}

#[test]
fn a_checkpoint_is_recognised_whatever_its_names() {
    for (file, family, layout, blocks, classes) in [
        ("assets/vit-micro.safetensors", "vit", "timm", 6, 64),
        ("assets/resnet-micro.safetensors", "resnet", "timm", 8, 64),
        ("fixtures/vit_tiny/weights.safetensors", "vit", "timm", 4, 7),
        (
            "fixtures/checkpoints/transformers.safetensors",
            "vit",
            "transformers",
            2,
            5,
        ),
        ("fixtures/checkpoints/google.npz", "vit", "google", 2, 5),
        ("fixtures/checkpoints/legacy.pth", "vit", "timm", 2, 5),
        (
            "fixtures/swin_checkpoints/microsoft.pth",
            "swin",
            "microsoft",
            5,
            5,
        ),
        (
            "fixtures/resnet_bottleneck/weights.safetensors",
            "resnet",
            "timm",
            5,
            7,
        ),
    ] {
        let json = inspected(file);
        let model = &json["model"];
        assert_eq!(model["family"], family, "{file}: {json}");
        assert_eq!(model["layout"], layout, "{file}");
        assert_eq!(model["blocks"], blocks, "{file}");
        assert_eq!(model["classes"], classes, "{file}");
        assert_eq!(model["loads"], true, "{file}: {json}");
        assert_eq!(model["unused"], Value::Array(vec![]), "{file}");
    }
    // Its shapes fit any number of heads.
    let remarks = inspected("assets/vit-micro.safetensors")["model"]["remarks"].to_string();
    assert!(remarks.contains("num_heads is a guess"), "{remarks}");
    let clip = inspected("fixtures/clip_vision/weights.safetensors");
    assert_eq!(clip["model"]["family"], "clip", "{clip}");
    let none = inspected("fixtures/clip_vision/io.safetensors");
    assert_eq!(none["model"], Value::Null);
}

/// `evil.pth` calls `os.system` when Python unpickles it; `pickled.pth` holds a whole model of timm.
#[test]
fn a_pickled_network_is_refused_by_its_class() {
    let path = root().join("fixtures/checkpoints/pickled.pth");
    let expected =
        "a pickled timm.models.vision_transformer.VisionTransformer, whose code is not run";
    refused(inspect(&[&path]), expected);
}

#[test]
fn functions_that_a_pickle_names_are_listed_and_not_called() {
    let place = tempfile::tempdir().unwrap();
    let evil = root().join("fixtures/checkpoints/evil.pth");
    let inspect = |more: &[&str]| {
        let mut command = crate::program();
        command.arg("inspect").arg(&evil).args(more);
        succeeded(command.current_dir(place.path()).output().unwrap())
    };
    let json: Value = serde_json::from_str(&inspect(&["--format", "json"])).unwrap();
    assert_eq!(json["named_functions"], serde_json::json!(["posix.system"]));
    assert_eq!(json["model"]["loads"], true, "{json}");
    let text = inspect(&[]);
    assert!(text.contains("1: posix.system"), "{text}");
    assert!(text.contains("none of them was called"), "{text}");
    // The file that the call would make.
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);

    let plain = inspected("fixtures/checkpoints/vit.pth");
    assert_eq!(plain["named_functions"], serde_json::json!([]));
}

#[test]
fn a_file_that_is_not_a_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    refused(inspect(&[&path]), "no such file");
    std::fs::write(&path, "hello, world").unwrap();
    refused(inspect(&[&path]), "model.safetensors: expected");
}

/// Features of a split of the digits by the bundled ViT.
fn features(split: &str, folder: &Path) -> Tensors {
    let out = folder.join(format!("{split}.safetensors"));
    let (none, config) = ("-1", "backbones/vit-micro.yaml");
    let args: [&dyn AsRef<std::ffi::OsStr>; 11] = [
        &"features",
        &"--config",
        &config,
        &"--dataset",
        &"digits",
        &"--split",
        &split,
        &"--boundaries",
        &none,
        &"--out",
        &out,
    ];
    succeeded(runner(&args));
    Checkpoint::open(&out).unwrap().tensors().unwrap()
}

/// The mean feature of each class in the place of a text: the nearest class mean classifies.
#[test]
fn a_text_head_classifies_without_training() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = features("train", folder.path());
    let labels = tensors["labels"].as_slice::<i64>().unwrap();
    let width = tensors["features"].shape()[1];
    assert_eq!(tensors["features"].shape()[0], labels.len());
    assert_eq!(tensors["boundary.6"].shape()[0], labels.len());
    let features = floats(tensors["features"].clone());
    let mut sums: BTreeMap<i64, Vec<f32>> = BTreeMap::new();
    for (row, &label) in features.chunks(width).zip(labels) {
        let sum = sums.entry(label).or_insert_with(|| vec![0.0; width]);
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    // In another order than the data set's, by name.
    let classes: Vec<String> = sums.keys().rev().map(ToString::to_string).collect();
    let values: Vec<f32> = sums.into_values().rev().flatten().collect();
    let data = TensorData::new(values, [classes.len(), width]);
    let path = folder.path().join("texts.safetensors");
    let metadata = [(
        "classes".to_owned(),
        serde_json::to_string(&classes).unwrap(),
    )];
    let tensors = Tensors::from([("means".to_owned(), data)]);
    weights::write(&path, &tensors, metadata.into()).unwrap();

    let config = folder.path().join("zero-shot.yaml");
    let yaml = format!(
        "backbone: vit-micro\nmethod: linear-probe\ndataset: digits\nrecipe: micro\n\
         head: {{name: text, embeddings: {}}}\n",
        path.display()
    );
    std::fs::write(&config, yaml).unwrap();
    let out = succeeded(runner(&[&"eval", &config, &"--format", &"json"]));
    let json: Value = serde_json::from_str(&out).unwrap();
    let top1 = json["test"]["top1"].as_f64().unwrap();
    assert!(top1 > 0.5, "the nearest class mean gets {top1}");

    refused(
        runner(&[&"--config", &config, &"--runs", &folder.path().join("runs")]),
        "nothing trains",
    );
}

#[test]
fn what_the_yaml_says_of_images_wins_over_the_file_beside_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    std::fs::copy(root().join("assets/vit-micro.safetensors"), &weights).unwrap();
    let json =
        r#"{"pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_pct": 0.5}}"#;
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    let set = format!("backbone.weights={}", weights.display());
    let args: [&dyn AsRef<std::ffi::OsStr>; 6] = [
        &"--config",
        &"peft/ap.yaml",
        &"--dry-run",
        &"--set",
        &set,
        &"--set",
    ];
    let args = [&args[..], &[&"seed=1"]].concat();
    let said = succeeded(runner(&args));
    let expected = "crop 1 (center), mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]";
    assert!(said.contains(expected), "{said}");
    for [field, value] in [
        ["mean", "[0.1, 0.2, 0.3]"],
        ["std", "[1.0, 1.0, 1.0]"],
        ["crop_pct", "0.5"],
    ] {
        let stands = format!("{field} is ");
        let line = said.lines().find(|line| line.contains(&stands));
        let line = line.unwrap_or_else(|| panic!("{field}: {said}"));
        assert!(
            line.contains("as the configuration states")
                && line.contains("config.json says")
                && line.ends_with(&format!("says {value} (pretrained_cfg.{field})")),
            "{line}"
        );
    }

    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    refused(runner(&args), "config.json: expected JSON");
}
