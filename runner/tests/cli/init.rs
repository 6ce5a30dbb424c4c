//! `runner init`: what it sees in folders, tables, shards and folders of TensorFlow Datasets, and that
//! what it writes trains.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::methods::root;
use crate::{succeeded, summary};

/// Runs the program in a folder, without the network and without a cache of the user's.
fn runner(folder: &Path, args: &[&str]) -> Output {
    let mut command = crate::program();
    command
        .args(args)
        .current_dir(folder)
        .env("HF_HOME", folder);
    command.env_remove("HF_HUB_CACHE").output().unwrap()
}

fn init(folder: &Path, args: &[&str]) -> String {
    succeeded(runner(folder, &[&["init", "--offline"], args].concat()))
}

/// Trains for one epoch what was written, and returns the sizes of the splits.
fn trained(folder: &Path, yaml: &str) -> [usize; 3] {
    let runs = folder.join("runs");
    let output = runner(
        folder,
        &[
            "--config",
            yaml,
            "--offline",
            "--device",
            "cpu",
            "--set",
            "recipe.epochs=1",
            "--runs",
            runs.to_str().unwrap(),
        ],
    );
    assert!(succeeded(output).contains("test"));
    let plan = runner(
        folder,
        &[
            "--config",
            yaml,
            "--offline",
            "--device",
            "cpu",
            "--dry-run",
        ],
    );
    let plan = succeeded(plan);
    let summary = summary(&runs);
    assert!(summary["test"]["top1"].is_number());
    std::fs::remove_dir_all(runs).unwrap();
    let line = plan.lines().find(|line| line.contains(" train, ")).unwrap();
    ["train", "validation", "test"].map(|split| {
        let words: Vec<&str> = line
            .split([' ', ','])
            .filter(|word| !word.is_empty())
            .collect();
        let place = words.iter().position(|word| *word == split).unwrap();
        words[place - 1].parse().unwrap()
    })
}

/// Writes images of one colour for each class.
fn images(folder: &Path, classes: &[(&str, usize)]) {
    for (class, (name, count)) in classes.iter().enumerate() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for index in 0..*count {
            let colour = image::Rgb([60 * class as u8, index as u8, 200]);
            let image = image::RgbImage::from_pixel(24, 16, colour);
            image
                .save(folder.join(name).join(format!("{index}.png")))
                .unwrap();
        }
    }
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn folders_of_classes_are_recognised_and_train() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    images(
        &folder.join("my flowers"),
        &[("daisy", 40), ("rose", 10), ("tulip", 4)],
    );
    let out = init(folder, &["my flowers"]);
    for part in [
        "folders of classes",
        "3 classes, 54 images",
        "24 x 16 pixels",
        "training images in a class",
        "vit-micro: bundled",
    ] {
        assert!(out.contains(part), "{part:?} is not in: {out}");
    }
    let yaml = text(folder.join("my-flowers.yaml"));
    for part in [
        "name: my-flowers",
        "test_fraction: 0.2",
        "metric: mean_per_class",
        "sampling: balanced",
        "# ",
    ] {
        assert!(yaml.contains(part), "{part:?} is not in: {yaml}");
    }
    assert_eq!(trained(folder, "my-flowers.yaml"), [38, 5, 11]);

    let again = runner(folder, &["init", "my flowers"]);
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(2), "{message}");
    assert!(message.contains("--force writes over it"), "{message}");
    init(folder, &["my flowers", "--force"]);

    for split in ["train", "test"] {
        images(&folder.join("split").join(split), &[("a", 8), ("b", 8)]);
    }
    let out = init(folder, &["split", "--out", "other.yaml"]);
    assert!(out.contains("below folders of splits"), "{out}");
    let yaml = text(folder.join("other.yaml"));
    assert!(
        yaml.contains("metric: top1")
            && !yaml.contains("test_fraction")
            && !yaml.contains("sampling"),
        "{yaml}"
    );
    assert_eq!(trained(folder, "other.yaml"), [14, 2, 16]);
}

#[test]
fn columns_of_tables_are_found() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    images(&folder.join("data/pictures"), &[("a", 12), ("b", 12)]);
    let rows = |split: &dyn Fn(usize) -> String| -> String {
        let row = |class: &'static str, index: usize| {
            format!("{index};{class}/{index}.png;{class};{}\n", split(index))
        };
        let rows = ["a", "b"]
            .into_iter()
            .flat_map(|class| (0..12).map(move |index| (class, index)));
        rows.map(|(class, index)| row(class, index)).collect()
    };
    let split = |index: usize| ["train", "train", "val", "TEST"][index % 4].to_owned();
    let table = format!("id;image;species;Split\n{}", rows(&split));
    std::fs::write(folder.join("data/table.csv"), table).unwrap();
    let out = init(folder, &["data"]);
    assert!(out.contains("a table of paths and labels"), "{out}");
    let yaml = text(folder.join("data.yaml"));
    for part in [
        "path: image",
        "label: species",
        "delimiter: ;",
        "images: pictures",
        "test: TEST",
    ] {
        assert!(yaml.contains(part), "{part:?} is not in: {yaml}");
    }
    assert_eq!(trained(folder, "data.yaml"), [12, 6, 6]);

    let table = format!(
        "id;image;species;Split\n{}",
        rows(&|index| index.to_string())
    );
    std::fs::write(folder.join("data/other.csv"), table).unwrap();
    init(folder, &["data/other.csv"]);
    assert!(text(folder.join("other.yaml")).contains("test_fraction: 0.2"));
    assert_eq!(trained(folder, "other.yaml"), [18, 2, 4]);
    let two = runner(folder, &["init", "data", "--out", "two.yaml"]);
    let message = String::from_utf8_lossy(&two.stderr).into_owned();
    assert!(message.contains("expected one table, got 2"), "{message}");
}

#[test]
fn shards_of_parquet_and_of_tensorflow_datasets_are_recognised() {
    let place = tempfile::tempdir().unwrap();
    let fixtures = root().join("fixtures/data");
    for (name, kind) in [
        ("tfds/pictures", "a folder of TensorFlow Datasets"),
        ("parquet/data", "parquet shards"),
    ] {
        let data = fixtures.join(name);
        let out = init(
            place.path(),
            &[data.to_str().unwrap(), "--out", "set.yaml", "--force"],
        );
        for part in [kind, "3 classes, 24 images", "9 x 8 pixels"] {
            assert!(out.contains(part), "{part:?} is not in: {out}");
        }
        assert_eq!(trained(place.path(), "set.yaml"), [12, 6, 6], "{name}");
    }
}

/// Copies files of the fixtures, each under the name that it has in the folder.
fn copies(folder: &Path, files: &[(&str, &str)]) {
    for (from, to) in files {
        let to = folder.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root().join("fixtures/data").join(from), to).unwrap();
    }
}

#[test]
fn shards_that_no_name_tells_apart_are_divided() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let [plain, validation] = [
        "parquet/plain.parquet",
        "parquet/data/validation-00000-of-00001.parquet",
    ];
    copies(
        folder,
        &[
            (plain, "one/0000.parquet"),
            (plain, "two/default/train/0000.parquet"),
            (plain, "three/train.parquet"),
            (validation, "three/validation.parquet"),
            (validation, "four/val.parquet"),
        ],
    );
    for (name, part, sizes) in [
        ("one", "test_fraction: 0.2", [6, 3, 3]),
        ("two", "train: default/train/*.parquet", [6, 3, 3]),
        ("three", "test: validation*.parquet", [9, 3, 6]),
    ] {
        init(folder, &[name]);
        let yaml = text(folder.join(format!("{name}.yaml")));
        assert!(yaml.contains(part), "{part:?} is not in: {yaml}");
        assert!(yaml.contains("# "), "{yaml}");
        assert_eq!(trained(folder, &format!("{name}.yaml")), sizes, "{name}");
    }
    let output = runner(folder, &["init", "four"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("begin with train, got"), "{message}");
}

#[test]
fn paths_of_tables_start_at_their_folder_or_above() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    images(&folder.join("data/pictures"), &[("a", 8), ("b", 8)]);
    let table = |name: &str, prefix: &str| {
        let rows = ["a", "b"].into_iter().flat_map(|class| {
            (0..8).map(move |index| format!("{prefix}pictures/{class}/{index}.png,{class}\n"))
        });
        let rows: String = rows.collect();
        std::fs::write(
            folder.join("data").join(name),
            format!("file,label\n{rows}"),
        )
        .unwrap();
    };
    table("above.csv", "data/");
    init(folder, &["data/above.csv"]);
    let yaml = text(folder.join("above.yaml"));
    assert!(
        yaml.contains("file: data/above.csv") && yaml.contains("root: ."),
        "{yaml}"
    );
    assert_eq!(trained(folder, "above.yaml"), [10, 2, 4]);
    table("absolute.csv", &format!("{}/data/", folder.display()));
    let output = runner(folder, &["init", "data/absolute.csv"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("got the absolute path /"), "{message}");
    assert!(
        message.contains("write paths below that folder"),
        "{message}"
    );
}

#[test]
fn what_is_no_data_set_is_refused_and_backbones_may_be_named() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    std::fs::create_dir(folder.join("empty")).unwrap();
    std::fs::write(folder.join("text.csv"), "a,b\n1,2\n").unwrap();
    for (data, part) in [
        ("empty", "expected folders of classes"),
        ("nowhere", "nowhere"),
        ("text.csv", "expected a column with paths of images below"),
    ] {
        let output = runner(folder, &["init", data]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(part), "{message}");
    }
    images(&folder.join("set"), &[("a", 8), ("b", 8)]);
    let out = init(folder, &["set", "--backbone", "resnet-micro"]);
    assert!(out.contains("resnet-micro: asked for"), "{out}");
    assert_eq!(trained(folder, "set.yaml"), [10, 2, 4]);
    let output = runner(
        folder,
        &["init", "set", "--backbone", "vit-mikro", "--force"],
    );
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("vit-mikro"), "{message}");
}
