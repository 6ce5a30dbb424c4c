//! What leaves a run: folders for PyTorch, pictures of what a model looks at, two runs image by image.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::adapters::{refused, runner};
use crate::{folder, small, succeeded};

fn trained(method: &str, runs: &Path) -> PathBuf {
    let method = format!("method={method}");
    succeeded(small(&["--set", "recipe.epochs=1", "--set", &method], runs));
    folder(runs)
}

fn image() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/beside/image.png")
}

fn json(output: Output) -> Value {
    serde_json::from_str(&succeeded(output)).unwrap()
}

#[test]
fn a_folder_for_pytorch_is_read_back() {
    let runs = tempfile::tempdir().unwrap();
    let run = trained(
        "[{name: vpt, length: 2}, {name: convpass, bottleneck: 2}]",
        runs.path(),
    );
    refused(
        runner(&[&"export", &run]),
        "--format pytorch takes every method",
    );
    let out = runs.path().join("leaving");
    let export: [&dyn AsRef<std::ffi::OsStr>; 6] =
        [&"export", &run, &"--format", &"pytorch", &"--out", &out];
    let licensed = [&export[..], &[&"--license", &"apache-2.0"]].concat();
    succeeded(runner(&licensed));
    let card = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        card.contains("license: \"apache-2.0\"") && card.contains("| test | top1 |"),
        "{card}"
    );
    let text = std::fs::read_to_string(out.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["format"], "peft-vision/1");
    assert_eq!(
        config["description"]["boundaries"][0]["acts"][0]["does"]["act"],
        "extras"
    );

    let loss = |more: &[&dyn AsRef<std::ffi::OsStr>]| {
        let args: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"eval", &run, &"--format", &"json"];
        json(runner(&[&args[..], more].concat()))["test"]["loss"].clone()
    };
    assert_eq!(loss(&[]), loss(&[&"--adapter", &out]));

    let layout = [&export[..], &[&"--layout", &"timm"]].concat();
    refused(runner(&layout), "--layout: only --format hf-peft has it");
    let newer = text.replace("peft-vision/1", "peft-vision/2");
    std::fs::write(out.join("config.json"), newer).unwrap();
    refused(
        runner(&[&"eval", &run, &"--adapter", &out]),
        "expected the format peft-vision/1, got peft-vision/2",
    );
}

#[test]
fn a_model_is_explained_by_pictures_and_a_page() {
    let runs = tempfile::tempdir().unwrap();
    let run = trained("{name: ap, boundaries: [0, 2]}", runs.path());
    let said = succeeded(runner(&[&"explain", &run, &image()]));
    let out = run.join("explain");
    for name in [
        "prompt.png",
        "boundary-2.png",
        "image-input.png",
        "image-gradcam.png",
        "image-attention.png",
        "image-attention-blocks.png",
    ] {
        let picture = std::fs::read(out.join(name)).unwrap();
        assert_eq!(picture[1..4], *b"PNG", "{name}");
        assert!(said.contains(name), "{said}");
    }
    let page = std::fs::read_to_string(out.join("explain.html")).unwrap();
    assert_eq!(page.matches("data:image/png;base64,").count(), 6);
    assert!(page.contains("boundary 2 (input of blocks.1)"));
    refused(
        runner(&[&"explain", &run, &image(), &"--class", &"no such class"]),
        "--class: unknown class \"no such class\"",
    );
}

#[test]
fn two_runs_are_compared_image_by_image() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = trained("linear-probe", one.path());
    let second = trained("{name: bias}", other.path());
    let said = succeeded(runner(&[&"compare", &"--paired", &first, &first]));
    assert!(
        said.contains("images            64") && said.contains("McNemar p         1.0000"),
        "{said}"
    );
    let said = succeeded(runner(&[
        &"compare",
        &"--paired",
        &first,
        &second,
        &"--split",
        &"validation",
    ]));
    assert!(said.contains("95 % interval"), "{said}");
    refused(
        runner(&[&"compare", &"--paired", &first, &one.path()]),
        "predictions.csv",
    );
}
