//! What is said of data sets on disk.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::adapters::refused;

use crate::succeeded;

fn data(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.arg("data").args(args).output().unwrap()
}

/// Three images of 2 x 1 pixels in each class of each split.
fn tree(root: &Path) {
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
fn a_sound_data_set_passes_and_every_defect_is_told() {
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
fn a_set_that_is_not_there_says_what_should_be() {
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
