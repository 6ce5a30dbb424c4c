//! What a data set says about its use: how images are resized, and a part of the training split.

use std::path::Path;
use std::process::Output;

use crate::adapters::{refused, runner};
use crate::data::{FIXTURES, content, data};
use crate::{folder, run, succeeded, summary};

/// The plan of a linear probe.
fn plan(more: &[&str]) -> Output {
    let probe = [
        "--config",
        "peft/linear-probe.yaml",
        "--device",
        "cpu",
        "--dry-run",
    ];
    let sets = more.iter().flat_map(|set| ["--set", set]);
    let args: Vec<&str> = probe.into_iter().chain(sets).collect();
    run(&args, Path::new("unused"))
}

/// The value behind a key of a plan.
fn line(plan: &str, key: &str) -> String {
    let line = plan.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no {key}: {plan}"))
        .trim()
        .to_owned()
}

/// The fields of each format that is below `fixtures/data`, and the sizes of its splits.
const FORMATS: [(&str, &str, [usize; 3]); 9] = [
    ("folder", "name: folder, root: ROOT/folder", [12, 6, 6]),
    ("vtab", "name: vtab, root: ROOT/lists", [12, 6, 6]),
    (
        "fgvc",
        "name: fgvc, root: ROOT/lists, images: images",
        [12, 6, 6],
    ),
    (
        "coop",
        "name: coop, root: ROOT/lists, list: split_zhou_Insects.json, images: images, draw: nested",
        [12, 6, 6],
    ),
    (
        "csv",
        "name: csv, root: ROOT/lists, all: {file: metadata.csv}, path: img_filename, label: y, \
         split: {column: split, train: '0', validation: '1', test: '2'}",
        [12, 6, 6],
    ),
    (
        "parquet",
        "name: parquet, root: ROOT/parquet, train: data/train-*, validation: data/validation-*, \
         test: data/test-*",
        [12, 6, 6],
    ),
    (
        "webdataset",
        "name: webdataset, root: ROOT/webdataset, train: train-*.tar, validation: validation-*.tar, \
         test: test-*.tar",
        [12, 6, 6],
    ),
    (
        "tfds",
        "name: tfds, root: ROOT/tfds/pictures/1.2.0",
        [12, 6, 6],
    ),
    ("cifar", "name: cifar, root: ROOT/cifar", [8, 2, 2]),
];

#[test]
fn every_format_gives_a_part_of_its_training_split_and_follows_its_transform() {
    for (name, fields, [train, validation, test]) in FORMATS {
        let fields = fields.replace("ROOT", FIXTURES);
        let with = |more: &str| format!("dataset={{{fields}{more}}}");
        let whole = succeeded(plan(&[&with("")]));
        let sizes =
            |train: usize| format!("{name}: {train} train, {validation} validation, {test} test, ");
        assert!(line(&whole, "data").starts_with(&sizes(train)), "{whole}");
        let classes = if name == "cifar" { 2 } else { 3 };
        for (part, images) in [(", train_images: 5", 5), (", shots: 1", classes)] {
            let said = succeeded(plan(&[&with(part)]));
            assert!(line(&said, "data").starts_with(&sizes(images)), "{said}");
            assert_ne!(line(&said, "run"), line(&whole, "run"), "the hash: {name}");
        }
        let output = plan(&[&with(", train_images: 1000")]);
        refused(output, &format!("train_images: expected 1 to {train}"));
        let squashed = with(", transform: {crop_mode: squash, crop_pct: 0.5}");
        let said = line(&succeeded(plan(&[&squashed])), "input");
        assert!(said.contains("crop 0.5 (squash)"), "{name}: {said}");
        assert!(
            said.ends_with("; crop_mode, crop_pct by the data set's protocol"),
            "{name}: {said}"
        );
        // Of two statements of one YAML, that about the data set wins.
        let both = succeeded(plan(&[&squashed, "backbone.crop_pct=0.7"]));
        assert!(line(&both, "input").contains("crop 0.5 (squash)"), "{both}");
    }
}

#[test]
fn a_smaller_part_is_drawn_from_the_seed_and_trains() {
    let runs = tempfile::tempdir().unwrap();
    let shots = |shots: &str, seed: &str| {
        let shots = format!("dataset.shots={shots}");
        let said = succeeded(plan(&["dataset=digits", &shots, seed]));
        line(&said, "run")
    };
    assert_eq!(shots("2", "seed=0"), shots("2", "seed=0"));
    assert_ne!(shots("2", "seed=0"), shots("3", "seed=0"));
    assert_ne!(shots("2", "seed=0"), shots("2", "seed=1"));
    let args = [
        "--config",
        "peft/linear-probe.yaml",
        "--device",
        "cpu",
        "--set",
        "dataset=digits",
        "--set",
        "dataset.shots=2",
        "--set",
        "recipe.epochs=1",
    ];
    let output = run(&args, runs.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("20 of 1078 training images are used (shots: 2, seed 0)"),
        "{said}"
    );
    succeeded(output);
    let first = summary(runs.path());
    assert_eq!(first["test"]["images"], 360);
    // The rows of a part are not those of another in the cache's files.
    let disk = tempfile::tempdir().unwrap();
    for (shots, rows) in [("2", 20), ("3", 30)] {
        let shots = format!("dataset.shots={shots}");
        // One epoch alone would read no row again, so nothing would be kept.
        let more = ["--set", &shots, "--set", "prefix_cache=disk"];
        let twice = ["--set", "recipe.epochs=2"];
        succeeded(run(&[&args[..], &more, &twice].concat(), disk.path()));
        let files = content(&disk.path().join(".cache"));
        let files = files
            .keys()
            .filter(|path| path.extension().is_some_and(|e| e == "rows"));
        assert!(files.count() >= 2, "{rows}");
    }
    let eval = runner(&[&"eval", &folder(runs.path())]);
    assert!(succeeded(eval).contains("test top-1"));
}

/// The pixels that `runner features` sees of a data set.
fn pixels(dataset: &Path, more: &[&str]) -> Vec<u8> {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.safetensors");
    let dataset = dataset.to_str().unwrap();
    let args = [
        "features",
        "--config",
        "vit-micro",
        "--dataset",
        dataset,
        "--boundaries",
        "0",
        "--out",
        out.to_str().unwrap(),
    ];
    let args = args.iter().chain(more);
    let args: Vec<&dyn AsRef<std::ffi::OsStr>> = args.map(|arg| arg as _).collect();
    succeeded(runner(&args));
    let bytes = std::fs::read(out).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensor("boundary.0").unwrap().data().to_vec()
}

/// Two data sets whose images differ only in their first and last column.
fn two(root: &Path, transform: &str) -> [std::path::PathBuf; 2] {
    [0, 200].map(|edge| {
        let folder = root.join(format!("{edge}"));
        for split in ["train", "val", "test"] {
            for class in ["a", "b"] {
                let class = folder.join(split).join(class);
                std::fs::create_dir_all(&class).unwrap();
                let image = image::RgbImage::from_fn(64, 32, |x, y| {
                    let level = if x == 0 || x == 63 {
                        edge
                    } else {
                        (3 * x + y) as u8
                    };
                    image::Rgb([level; 3])
                });
                image.save(class.join("0.png")).unwrap();
            }
        }
        let yaml = root.join(format!("{edge}.yaml"));
        let text = format!("name: folder\nroot: {}\n{transform}", folder.display());
        std::fs::write(&yaml, text).unwrap();
        yaml
    })
}

#[test]
fn features_see_what_the_protocol_shows() {
    let root = tempfile::tempdir().unwrap();
    let plain = two(root.path(), "").map(|yaml| pixels(&yaml, &[]));
    assert_eq!(plain[0], plain[1], "the backbone's crop cuts the edges off");
    let squash = two(
        root.path(),
        "transform: {crop_mode: squash, crop_pct: 1.0}\n",
    );
    let seen = squash.clone().map(|yaml| pixels(&yaml, &[]));
    assert_ne!(seen[0], seen[1], "the whole image is seen");
    let stated = squash.map(|yaml| pixels(&yaml, &["--set", "backbone.crop_mode=center"]));
    assert_eq!(stated[0], stated[1], "what is stated wins");
    assert_eq!(stated[0], plain[0]);
}

#[test]
fn a_contact_sheet_is_drawn_under_the_protocol() {
    let root = tempfile::tempdir().unwrap();
    let [yaml, _] = two(
        root.path(),
        "transform: {crop_mode: squash, crop_pct: 1.0}\n",
    );
    let out = root.path().join("sheet.png");
    let said = succeeded(data(&[
        "show",
        yaml.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]));
    assert!(said.contains("crop 1 (squash)"), "{said}");
}
