//! Classes are joined by name where an index of a class crosses from one file to another: a model that was
//! trained on one data set is evaluated on, and trained further on, the same images under other orders and
//! lists of classes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::adapters::{refused, runner};
use crate::{folder, run, succeeded};

/// Images of one colour for each class, with a little brightness from `shade`.
fn image(path: &Path, class: &str, shade: u8) {
    let rgb = match class {
        "ant" | "1" => [200, shade, shade],
        "bee" | "2" => [shade, 200, shade],
        "cat" | "10" => [shade, shade, 200],
        _ => [shade, 200, 200],
    };
    let pixels: Vec<u8> = rgb.repeat(8 * 8);
    image::save_buffer(path, &pixels, 8, 8, image::ExtendedColorType::Rgb8).unwrap();
}

/// A table of images in three splits, and the classes' names in this order.
fn table(root: &Path, names: &[&str]) -> String {
    std::fs::create_dir_all(root).unwrap();
    let mut text = "image,label,split\n".to_owned();
    for split in ["train", "validation", "test"] {
        for class in names {
            for shade in [10, 40, 70, 100] {
                let name = format!("{split}-{class}-{shade}.png");
                image(&root.join(&name), class, shade);
                text += &format!("{name},{class},{split}\n");
            }
        }
    }
    std::fs::write(root.join("table.csv"), text).unwrap();
    std::fs::write(root.join("names.txt"), names.join("\n")).unwrap();
    format!(
        "{{name: csv, root: {}, all: {{file: table.csv}}, split: {{column: split, train: train, \
         validation: validation, test: test}}, path: image, label: label, names: {}}}",
        root.display(),
        root.join("names.txt").display()
    )
}

const BACKBONE: &str =
    "{name: vit, img_size: 8, patch_size: 4, embed_dim: 16, depth: 1, num_heads: 2}";

/// A run on a data set; the folder that it left.
fn trained(dataset: &str, more: &[&str], runs: &Path) -> PathBuf {
    let sets = [
        format!("backbone={BACKBONE}"),
        "method={name: full-finetune}".to_owned(),
        format!("dataset={dataset}"),
        "recipe.epochs=12".to_owned(),
        "recipe.batch_size=4".to_owned(),
    ];
    let mut args = vec!["--config", "peft/lora-r10.yaml", "--device", "cpu"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    args.extend(more);
    succeeded(run(&args, runs));
    folder(runs)
}

/// A configuration of the same model on another data set.
fn config(dataset: &str, folder: &Path) -> PathBuf {
    let path = folder.join("config.yaml");
    let text =
        format!("backbone: {BACKBONE}\nmethod: full-finetune\ndataset: {dataset}\nrecipe: micro\n");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_model_is_scored_by_name_whatever_the_order_of_the_classes() {
    let files = tempfile::tempdir().unwrap();
    let own = table(&files.path().join("own"), &["ant", "bee", "cat"]);
    let runs = tempfile::tempdir().unwrap();
    let run = trained(&own, &[], runs.path());
    for (names, said) in [
        (&["ant", "bee", "cat"][..], ""),
        (&["cat", "ant", "bee"], "joined by name"),
        (&["bee", "cat", "ant"], "joined by name"),
        (&["cat", "bee"], "2 of the head's 3 classes"),
    ] {
        let other = tempfile::tempdir().unwrap();
        let config = config(&table(other.path(), names), other.path());
        let args: [&dyn AsRef<std::ffi::OsStr>; 6] =
            [&"eval", &config, &"--adapter", &run, &"--format", &"json"];
        let output = runner(&args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(said), "{names:?}: {message}");
        let json: Value = serde_json::from_str(&succeeded(output)).unwrap();
        assert_eq!(json["test"]["top1"], 1.0, "{names:?}: {json}");
    }
    for names in [&["ant", "bee", "dog"][..], &["dog", "ant", "bee", "cat"]] {
        let other = tempfile::tempdir().unwrap();
        let config = config(&table(other.path(), names), other.path());
        refused(
            runner(&[&"eval", &config, &"--adapter", &run]),
            "the head lacks 1 of the data set's classes: dog",
        );
    }
}

#[test]
fn a_continued_training_keeps_the_rows_of_its_head_by_name() {
    let files = tempfile::tempdir().unwrap();
    let own = table(&files.path().join("own"), &["ant", "bee", "cat"]);
    let runs = tempfile::tempdir().unwrap();
    let run = trained(&own, &[], runs.path());
    let from = run.display();
    for (names, head, said, kept) in [
        (&["cat", "ant", "bee"][..], "keep", "joined by name", true),
        (&["bee", "ant"], "keep", "2 of the head's 3 classes", true),
        (
            &["ant", "bee", "dog"],
            "new",
            "its head (3 classes) is left out, as head: new asks",
            false,
        ),
        (&["eel", "fox"], "new", "is left out", false),
        (&["cat", "ant", "bee"], "new", "is left out", false),
    ] {
        let other = tempfile::tempdir().unwrap();
        let adapter = format!("adapter={{path: {from}, head: {head}}}");
        let dataset = table(&other.path().join("other"), names);
        // No step moves the head: the first validation shows what it started from.
        let still = [
            "--set",
            "recipe.optimizer.lr=1e-12",
            "--set",
            "recipe.epochs=1",
        ];
        let more = [&["--set", &adapter][..], &still].concat();
        let run = trained(&dataset, &more, &other.path().join("runs"));
        let log = std::fs::read_to_string(run.join("log.txt")).unwrap();
        assert!(log.contains(said), "{names:?}: {log}");
        let summary = std::fs::read_to_string(run.join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["test"]["top1"] == 1.0, kept, "{names:?}: {log}");
    }
}

#[test]
fn a_class_that_the_head_of_an_adapter_lacks_is_an_error_unless_a_new_head_is_asked_for() {
    let files = tempfile::tempdir().unwrap();
    let own = table(&files.path().join("own"), &["ant", "bee", "cat"]);
    let runs = tempfile::tempdir().unwrap();
    let run = trained(&own, &["--set", "recipe.epochs=1"], runs.path());
    for (names, lacks) in [
        (
            &["ant", "bee", "dog"][..],
            "1 of the data set's classes: dog; it has ant, bee, cat",
        ),
        (
            &["dog", "cat", "ant", "bee"],
            "1 of the data set's classes: dog",
        ),
        (&["eel", "fox"], "2 of the data set's classes: eel, fox"),
    ] {
        let other = tempfile::tempdir().unwrap();
        let config = config(&table(other.path(), names), other.path());
        let train = |more: &[&dyn AsRef<std::ffi::OsStr>]| {
            let args: [&dyn AsRef<std::ffi::OsStr>; 6] = [
                &"train",
                &"--config",
                &config,
                &"--adapter",
                &run,
                &"--dry-run",
            ];
            runner(&[&args[..], more].concat())
        };
        let asks = format!("`adapter: {{path: {}, head: new}}`", run.display());
        refused(train(&[]), &format!("adapter: the head lacks {lacks}"));
        refused(train(&[]), &asks);
        let said = succeeded(train(&[&"--new-head"]));
        assert!(said.contains("its head (3 classes) is left out"), "{said}");
    }
}
