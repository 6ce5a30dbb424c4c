//! Data sets on disk: what `runner data` finds in them, and how training reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::adapters::{refused, runner};
use crate::{assert_same, folder, run, succeeded, summary, until_a_checkpoint};

pub fn data(args: &[&str]) -> Output {
    let mut command = crate::program();
    command.arg("data").args(args).output().unwrap()
}

/// Three images of 2 x 1 pixels in each class of each split.
pub fn tree(root: &Path) {
    for (i, split) in ["train", "val", "test"].iter().enumerate() {
        for (j, class) in ["ant", "bee"].iter().enumerate() {
            let folder = root.join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for k in 0..3 {
                let level = (10 + 60 * i + 30 * j + 10 * k) as u8;
                let path = folder.join(format!("{k}.png"));
                image::save_buffer(path, &[level; 6], 2, 1, image::ExtendedColorType::Rgb8)
                    .unwrap();
            }
        }
    }
}

#[test]
fn a_sound_data_set_passes_and_every_defect_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    tree(folder.path());
    let yaml = folder.path().join("set.yaml");
    let text = "name: folder\nroot: x\nabout:\n  title: Insects\n  group: full-data\n  classes: 2\n  \
                splits: {train: 6, validation: 6, test: 6}\n  metric: top1\n  layout: train, val, test\n  \
                source: nowhere\n  terms: none\n  protocol: none\n  reference: none\n";
    std::fs::write(&yaml, text).unwrap();
    let (yaml, root) = (yaml.to_str().unwrap(), folder.path().to_str().unwrap());
    let check = || data(&["check", yaml, "--root", root, "--format", "json"]);
    let json: Value = serde_json::from_str(&succeeded(check())).unwrap();
    assert_eq!(json["histogram"][1]["class"], "bee");
    assert_eq!(json["splits"]["test"], 6);

    std::fs::copy(
        folder.path().join("train/ant/0.png"),
        folder.path().join("test/bee/9.png"),
    )
    .unwrap();
    std::fs::write(folder.path().join("val/ant/1.png"), "no image").unwrap();
    let output = check();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    refused(output, "3 things are wrong");
    assert_eq!(json["differences"][0], "test images: expected 6, got 7");
    let list = |name: &str| json[name][0].as_str().unwrap().to_owned();
    assert!(list("unreadable").contains("val/ant/1.png"), "{json}");
    assert!(
        list("duplicates").contains("(bee) is train image 0 (ant)"),
        "{json}"
    );
}

#[test]
fn a_missing_data_set_is_reported_with_the_expected_files() {
    let nowhere = data(&["check", "vtab-1k/caltech101", "--root", "/nonexistent"]);
    refused(nowhere, "Caltech101 on disk:\ntrain800.txt");
}

#[test]
fn a_contact_sheet_is_a_png_beside_the_split_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sheet.png");
    let said = succeeded(data(&["show", "digits", "--out", out.to_str().unwrap()]));
    assert!(
        said.contains("10 classes") && said.contains("all"),
        "{said}"
    );
    let sheet = image::open(&out).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (4 * 242 + 6, 6 * 128 + 6));
}

pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data");

/// A head on the bundled ViT, one epoch.
pub fn train(dataset: &str, more: &[&str], runs: &Path) -> Output {
    let dataset = format!("dataset={dataset}");
    let probe = ["--config", "peft/linear-probe.yaml", "--device", "cpu"];
    let short = ["--set", "recipe.epochs=1", "--set", "recipe.batch_size=4"];
    let sets = ["--set", &dataset];
    run(&[&probe[..], &short, &sets, more].concat(), runs)
}

/// Every file below a folder, with its bytes.
pub fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.append(&mut content(&path)),
            false => drop(files.insert(path.clone(), std::fs::read(path).unwrap())),
        }
    }
    files
}

/// Each was written by the library that defines the format, in `fixtures/scripts/data.py`.
#[test]
fn every_format_is_trained_from_and_nothing_is_written_beside_the_data() {
    let before = content(Path::new(FIXTURES));
    let hub = "train: data/train-*, validation: data/validation-*, test: data/test-*";
    let shards = "train: train-*.tar, validation: validation-*.tar, test: test-*.tar";
    let table = "all: {file: metadata.csv}, path: img_filename, label: y, \
                 split: {column: split, train: '0', validation: '1', test: '2'}";
    let few = "list: split_zhou_Insects.json, images: images, shots: 1";
    for (name, folder, fields, classes, images) in [
        ("folder", "folder", "", 3, [12, 6, 6]),
        ("vtab", "lists", "", 3, [12, 6, 6]),
        ("vtab", "lists", "protocol: final", 3, [18, 6, 6]),
        ("fgvc", "lists", "images: images", 3, [12, 6, 6]),
        (
            "coop",
            "lists",
            &few.replace(", shots: 1", ""),
            3,
            [12, 6, 6],
        ),
        ("coop", "lists", few, 3, [3, 3, 6]),
        ("csv", "lists", table, 3, [12, 6, 6]),
        ("parquet", "parquet", hub, 3, [12, 6, 6]),
        ("webdataset", "webdataset", shards, 3, [12, 6, 6]),
        ("tfds", "tfds/pictures/1.2.0", "", 3, [12, 6, 6]),
        ("cifar", "cifar", "", 2, [8, 2, 2]),
        ("cifar", "cifar100", "", 4, [8, 4, 4]),
        ("cifar", "cifar100", "labels: coarse", 2, [10, 2, 4]),
    ] {
        let yaml = format!("{{name: {name}, root: {FIXTURES}/{folder}, {fields}}}");
        let runs = tempfile::tempdir().unwrap();
        succeeded(train(&yaml, &[], runs.path()));
        let log = std::fs::read_to_string(crate::folder(runs.path()).join("log.txt")).unwrap();
        let [training, validation, test] = images;
        let sizes = format!("{training} train, {validation} validation, {test} test");
        assert!(log.contains(&sizes), "{yaml}: {sizes:?} is not in\n{log}");
        let summary = summary(runs.path());
        let number = |pointer| summary.pointer(pointer).and_then(Value::as_f64);
        assert_eq!(summary["classes"].as_array().unwrap().len(), classes);
        assert_eq!(summary["test"]["images"], test, "{yaml}");
        assert!(number("/history/0/train_loss") > Some(0.0), "{yaml}");
        assert_eq!(summary["skipped"], 0, "{yaml}");
    }
    assert!(before == content(Path::new(FIXTURES)));
}

#[test]
fn the_worst_group_chooses_and_is_reported() {
    let runs = tempfile::tempdir().unwrap();
    let root = format!("dataset.root={FIXTURES}/lists");
    let more = ["--set", &root, "--set", "recipe.epochs=4"];
    let said = succeeded(train("waterbirds", &more, runs.path()));
    let summary = summary(runs.path());
    assert_eq!(summary["metric"], "worst_group");
    let worst = |metrics: &Value| {
        let groups = metrics["groups"].as_object().unwrap();
        assert_eq!(groups.len(), 6);
        assert!(groups.contains_key("y=1 place=0"), "{groups:?}");
        let shares = groups.values().map(|share| share.as_f64().unwrap());
        shares.fold(1.0, f64::min)
    };
    let percent = format!("{:.2} % worst group", 100.0 * worst(&summary["test"]));
    assert!(said.contains(&percent), "{percent:?} is not in\n{said}");
    // The first of the epochs with the best worst group, by the lower loss.
    let history = summary["history"].as_array().unwrap();
    let rank = |record: &Value| {
        let score = record["score"].as_f64().unwrap();
        assert_eq!(score, worst(&record["validation"]));
        (score, -record["validation"]["loss"].as_f64().unwrap())
    };
    let best = (0..history.len()).max_by(|&a, &b| {
        let (a, b) = (rank(&history[a]), rank(&history[b]));
        a.partial_cmp(&b).unwrap()
    });
    assert_eq!(summary["best_epoch"], best.unwrap() + 1);
}

/// A model can be handed to somebody who does not have its training images.
#[test]
fn a_trained_model_is_used_without_its_data_set() {
    let data = tempfile::tempdir().unwrap();
    tree(data.path());
    let yaml = format!("{{name: folder, root: {}}}", data.path().display());
    let runs = tempfile::tempdir().unwrap();
    let lora = ["--set", "method=lora-r10"];
    succeeded(train(&yaml, &lora, runs.path()));
    let run = folder(runs.path());
    let image = runs.path().join("image.png");
    std::fs::copy(data.path().join("test/bee/0.png"), &image).unwrap();
    let predict = || runner(&[&"predict", &run, &image]);
    let with_data = succeeded(predict());
    assert!(with_data.contains("  bee  "), "{with_data}");
    let gone = data.path().to_owned();
    data.close().unwrap();
    assert!(!gone.exists());

    assert_eq!(succeeded(predict()), with_data);
    let (exported, merged) = (runs.path().join("exported"), runs.path().join("merged"));
    succeeded(runner(&[&"export", &run, &"--out", &exported]));
    let merged = merged.with_extension("safetensors");
    let said = succeeded(runner(&[&"merge", &run, &"--out", &merged]));
    assert!(said.contains("8 random images"), "{said}");
    // An adapter that does not name its classes takes the run's names.
    let adapter = format!("own={}", exported.display());
    let said = succeeded(runner(&[&"predict", &run, &image, &"--adapter", &adapter]));
    assert!(said.contains("  bee  "), "{said}");
    // Metrics do need images.
    refused(runner(&[&"eval", &run]), "dataset: ");
}

#[test]
fn a_corrupt_image_ends_the_run_or_is_left_out_counted_and_reported() {
    let data = tempfile::tempdir().unwrap();
    tree(data.path());
    for bad in ["train/ant/1.png", "test/bee/0.png"] {
        std::fs::write(data.path().join(bad), "no image").unwrap();
    }
    let yaml = format!("{{name: folder, root: {}}}", data.path().display());
    let runs = tempfile::tempdir().unwrap();
    refused(train(&yaml, &[], runs.path()), "train/ant/1.png");

    let skip = ["--set", "on_error=skip", "--set", "recipe.epochs=2"];
    let mut seen = Vec::new();
    for store in ["off", "memory", "disk", "disk"] {
        for method in ["linear-probe", "full-finetune"] {
            let runs = tempfile::tempdir().unwrap();
            let (store, method) = (format!("prefix_cache={store}"), format!("method={method}"));
            let cache = data.path().join("cache").display().to_string();
            let place = ["--set", &store, "--set", &method, "--cache", &cache];
            let output = train(&yaml, &[&skip[..], &place].concat(), runs.path());
            let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(warnings.matches("1.png").count(), 1, "{warnings}");
            assert!(warnings.contains("train image 1 is left out"), "{warnings}");
            assert!(warnings.contains("test/bee/0.png"), "{warnings}");
            let log = crate::folder(runs.path()).join("log.txt");
            let log = std::fs::read_to_string(log).unwrap();
            let of = |text: &str| -> Vec<String> {
                let lines = text.lines().filter(|line| line.starts_with("warning: "));
                lines.map(str::to_owned).collect()
            };
            assert_eq!(of(&log), of(&warnings), "{log}");
            assert_eq!(of(&log).len(), 2, "{log}");
            let said = succeeded(output);
            assert!(said.contains("left out          2 images"), "{said}");
            let summary = summary(runs.path());
            assert_eq!(summary["skipped"], 2);
            assert_eq!(summary["test"]["skipped"], 1);
            assert_eq!(summary["test"]["images"], 5);
            assert_eq!(summary["validation"]["images"], 6);
            seen.push((
                method,
                summary["test"].clone(),
                summary["history"][1]["train_loss"].clone(),
            ));
        }
    }
    // Whether and where it is cached makes no difference.
    assert!(seen[2..].iter().zip(&seen).all(|(a, b)| a == b), "{seen:?}");
}

#[test]
fn a_run_that_goes_on_remembers_what_it_left_out() {
    let data = tempfile::tempdir().unwrap();
    tree(data.path());
    std::fs::write(data.path().join("train/ant/1.png"), "no image").unwrap();
    let runs = tempfile::tempdir().unwrap();
    let yaml = format!("{{name: folder, root: {}}}", data.path().display());
    let skip = ["--set", "on_error=skip", "--set", "prefix_cache=off"];
    succeeded(train(&yaml, &skip, runs.path()));
    let run_folder = crate::folder(runs.path());
    // Interrupted after its last checkpoint: nothing of the training split is read again.
    std::fs::remove_file(run_folder.join("summary.json")).unwrap();
    succeeded(train(&yaml, &skip, runs.path()));
    assert_eq!(summary(runs.path())["skipped"], 1);
}

#[test]
fn a_split_without_a_readable_image_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    tree(data.path());
    for path in content(&data.path().join("val")).keys() {
        std::fs::write(path, "").unwrap();
    }
    let runs = tempfile::tempdir().unwrap();
    let yaml = format!("{{name: folder, root: {}}}", data.path().display());
    let output = train(&yaml, &["--set", "on_error=skip"], runs.path());
    refused(output, "none of the validation images can be read");
}

#[test]
fn a_class_without_training_images_is_reported() {
    let runs = tempfile::tempdir().unwrap();
    let yaml = format!("{{name: vtab, root: {FIXTURES}/lists, classes: 5}}");
    succeeded(train(&yaml, &[], runs.path()));
    let log = std::fs::read_to_string(crate::folder(runs.path()).join("log.txt")).unwrap();
    let remark = "dataset: 2 of 5 classes have no training image: 3, 4";
    assert_eq!(log.matches(remark).count(), 1, "{log}");
}

/// JPEGs, random crops and flips, mixed batches: on any number of threads, resumed or not.
#[test]
fn neither_threads_nor_an_interruption_change_a_batch() {
    let data = tempfile::tempdir().unwrap();
    for (i, split) in (0..).zip(["train", "val", "test"]) {
        for class in ["ant", "bee"] {
            let folder = data.path().join(split).join(class);
            std::fs::create_dir_all(&folder).unwrap();
            for k in 0..[24, 6, 6][i] {
                let level =
                    |x: u32, y: u32| ((x * 5 + y * 3 + 40 * k + class.len() as u32) % 251) as u8;
                let pixel = |x, y| image::Rgb([level(x, y), level(y, x), level(x, x)]);
                let picture = image::RgbImage::from_fn(60 + k, 45, pixel);
                picture.save(folder.join(format!("{k}.jpg"))).unwrap();
            }
        }
    }
    let yaml = format!("{{name: folder, root: {}}}", data.path().display());
    let augmentation = "recipe.augmentation={random_resized_crop: {}, hflip: 0.5, \
                        auto_augment: rand-m9-mstd0.5-inc1, re_prob: 0.25, mixup: 0.8}";
    let more = ["--set", augmentation, "--set", "recipe.epochs=3"];
    let (one, three) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    succeeded(train(
        &yaml,
        &[&more[..], &["--threads", "1"]].concat(),
        one.path(),
    ));

    let dataset = format!("dataset={yaml}");
    let probe = [
        "--config",
        "peft/linear-probe.yaml",
        "--device",
        "cpu",
        "--threads",
        "3",
    ];
    let sets = ["--set", &dataset, "--set", "recipe.batch_size=4"];
    let args = [&probe[..], &sets, &more].concat();
    let mut child = until_a_checkpoint(&args, three.path(), Duration::ZERO);
    child.kill().unwrap();
    child.wait().unwrap();
    succeeded(run(&args, three.path()));
    assert_same(one.path(), three.path());
}

#[test]
fn reading_is_timed_with_and_without_a_cache() {
    let cache = tempfile::tempdir().unwrap();
    for (method, store, bytes) in [
        ("full-finetune", "off", 0),
        // Each of the 64 images has 32 x 32 pixels or 80 features.
        ("full-finetune", "disk", 64 * 32 * 32 * 3),
        ("linear-probe", "memory", 64 * 4 * 80),
    ] {
        let (store, method) = (format!("prefix_cache={store}"), format!("method={method}"));
        let output = data(&[
            "time",
            "--config",
            "quickstart",
            "--format",
            "json",
            "--device",
            "cpu",
            "--cache",
            cache.path().to_str().unwrap(),
            "--epochs",
            "2",
            "--set",
            "dataset={name: shapes, size: 32, train: 64, validation: 64, test: 64}",
            "--set",
            &store,
            "--set",
            &method,
        ]);
        let json: Value = serde_json::from_str(&succeeded(output)).unwrap();
        assert_eq!(json["images"], 64);
        assert_eq!(json["cached"], bytes > 0, "{json}");
        assert_eq!(json["cache_bytes"], bytes, "{json}");
        let speeds = json["images_per_second"].as_array().unwrap();
        assert!(speeds.len() == 2 && speeds.iter().all(|speed| speed.as_f64() > Some(0.0)));
    }
}

#[test]
fn cached_pixels_are_augmented_as_images_are() {
    let (off, on) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let augmentation = "recipe.augmentation={hflip: 0.5, auto_augment: rand-m9-mstd0.5-inc1, \
                        re_prob: 0.25, mixup: 0.8, cutmix: 1.0}";
    let shapes = "{name: shapes, size: 40, train: 64, validation: 64, test: 64}";
    let more = ["--set", "method=full-finetune", "--set", augmentation];
    let more = [&more[..], &["--set", "recipe.epochs=3"]].concat();
    for (runs, store) in [(&off, "prefix_cache=off"), (&on, "prefix_cache=memory")] {
        succeeded(train(
            shapes,
            &[&more[..], &["--set", store]].concat(),
            runs.path(),
        ));
    }
    assert_same(off.path(), on.path());
    // The training and the validation split.
    let bytes = |runs: &tempfile::TempDir| summary(runs.path())["memory"]["cache_bytes"].clone();
    assert_eq!(
        (bytes(&off), bytes(&on)),
        (0.into(), (128 * 32 * 32 * 3).into())
    );
}
