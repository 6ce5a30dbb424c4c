//! What people's own files say: hidden labels, classes that training lacks, text from other systems, and how
//! images are stored. Each is followed, refused by name, or counted.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::data::{FIXTURES, content, data, train, tree};
use crate::succeeded;

/// A copy of the lists under `fixtures/data/lists`, and the YAML of each format that reads them.
fn lists() -> (tempfile::TempDir, Vec<(&'static str, String)>) {
    let copy = tempfile::tempdir().unwrap();
    let source = Path::new(FIXTURES).join("lists");
    for (path, bytes) in content(&source) {
        let to = copy.path().join(path.strip_prefix(&source).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    let table = "all: {file: metadata.csv}\npath: img_filename\nlabel: y\n\
                 split: {column: split, train: '0', validation: '1', test: '2'}\n";
    let yamls = [
        ("vtab", "classes: 3\n"),
        ("fgvc", "images: images\n"),
        ("coop", "list: split_zhou_Insects.json\nimages: images\n"),
        ("csv", table),
    ];
    let root = copy.path().display().to_string();
    let yaml = |(name, fields): (&'static str, &str)| {
        (name, format!("name: {name}\nroot: {root}\n{fields}"))
    };
    let yamls = yamls.into_iter().map(yaml).collect();
    (copy, yamls)
}

/// `runner data check` with the text of a configuration.
fn check(yaml: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.yaml");
    std::fs::write(&path, yaml).unwrap();
    data(&[&["check", path.to_str().unwrap(), "--format", "json"], more].concat())
}

#[test]
fn a_hidden_label_is_refused_in_every_format_or_left_out_and_counted() {
    let (copy, mut yamls) = lists();
    for (file, from, to) in [
        ("test.txt", "test 5.png 2", "test 5.png -1"),
        ("test.json", "test 5.png\": 5", "test 5.png\": -1"),
        (
            "split_zhou_Insects.json",
            "\"cat/test 5.png\",\n            2",
            "\"cat/test 5.png\",\n            -1",
        ),
        ("metadata.csv", "test 5.png,2", "test 5.png,-1"),
    ] {
        let path = copy.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}: {from:?} is not in\n{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }
    let set = tempfile::tempdir().unwrap();
    tree(set.path());
    std::fs::create_dir(set.path().join("test/-1")).unwrap();
    std::fs::copy(
        set.path().join("test/ant/0.png"),
        set.path().join("test/-1/0.png"),
    )
    .unwrap();
    let folder = format!("name: folder\nroot: {}\n", set.path().display());
    yamls.push(("folder", folder));
    let parquet = format!(
        "name: parquet\nroot: {FIXTURES}/parquet_kinds\ntrain: turned.parquet\ntest: hidden.parquet\n"
    );
    yamls.push(("parquet", parquet));
    for (name, yaml) in &yamls {
        let output = check(yaml, &["--quick"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        assert!(
            message.contains("`-1` in the test split"),
            "{name}: {message}"
        );
        assert!(message.contains("`unlabelled: skip`"), "{name}: {message}");

        let skipped = succeeded(check(
            yaml,
            &["--quick", "--set", "dataset.unlabelled=skip"],
        ));
        let json: Value = serde_json::from_str(&skipped).unwrap();
        let remarks = json["remarks"].to_string();
        let expected = "images of test that are left out: 1 (their label is `-1`)";
        assert!(remarks.contains(expected), "{name}: {remarks}");
    }
}

#[test]
fn a_class_that_only_the_test_has_is_refused_in_every_format_or_left_out_and_counted() {
    let (copy, mut yamls) = lists();
    for (file, from, to) in [
        ("test.txt", "test 5.png 2", "test 5.png 7"),
        ("test.json", "test 5.png\": 5", "test 5.png\": 7"),
        (
            "split_zhou_Insects.json",
            "\"cat/test 5.png\",\n            2",
            "\"cat/test 5.png\",\n            7",
        ),
        ("metadata.csv", "test 5.png,2", "test 5.png,7"),
    ] {
        let path = copy.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }
    for (name, yaml) in &mut yamls {
        let yaml = yaml.replace("classes: 3\n", "");
        let output = check(&yaml, &["--quick"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        for part in [
            "a class of `train` (",
            "`7` in the test split",
            "`unseen: skip`",
        ] {
            assert!(message.contains(part), "{name}: {message}");
        }
        let skipped = succeeded(check(&yaml, &["--quick", "--set", "dataset.unseen=skip"]));
        let json: Value = serde_json::from_str(&skipped).unwrap();
        assert_eq!(
            (&json["classes"], &json["splits"]["test"]),
            (&3.into(), &5.into())
        );
        let remarks = json["remarks"].to_string();
        let expected = "images of test that are left out: 1 (`train` lacks their class, `7`)";
        assert!(remarks.contains(expected), "{name}: {remarks}");
    }
}

/// A byte-order mark and CRLF in the lists and in the YAML, as editors on Windows write them.
#[test]
fn text_from_windows_is_read_like_any_other() {
    let (copy, yamls) = lists();
    let found = |yaml: &str| succeeded(check(yaml, &["--quick"]));
    let before: Vec<String> = yamls.iter().map(|(_, yaml)| found(yaml)).collect();
    let windows = |text: &str| format!("\u{feff}{}", text.replace('\n', "\r\n"));
    for (path, bytes) in content(copy.path()) {
        if path.extension().is_some_and(|extension| extension != "png") {
            let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
            std::fs::write(path, windows(&text)).unwrap();
        }
    }
    for ((name, yaml), before) in yamls.iter().zip(before) {
        assert_eq!(found(&windows(yaml)), before, "{name}");
    }
}

#[test]
fn how_images_are_stored_is_counted() {
    let set = tempfile::tempdir().unwrap();
    tree(set.path());
    for (file, kind) in [
        ("images/grey_16.png", "train/ant"),
        ("images/rgb_16.png", "train/ant"),
        ("images/cmyk.jpg", "train/bee"),
        ("images/palette.png", "val/ant"),
        ("kinds/frames.gif", "val/bee"),
        ("kinds/turned_6.jpg", "test/ant"),
        ("kinds/turned_5.tif", "test/ant"),
        ("kinds/bit.tif", "test/bee"),
    ] {
        let name = Path::new(file).file_name().unwrap();
        let to = set.path().join(kind).join(name);
        std::fs::copy(Path::new(FIXTURES).join(file), to).unwrap();
    }
    let yaml = format!("name: folder\nroot: {}\n", set.path().display());
    let json: Value = serde_json::from_str(&succeeded(check(&yaml, &[]))).unwrap();
    let rows = json["storage"].as_array().unwrap();
    let row = |row: &Value| {
        let count = |split: &str| row[split].as_u64().unwrap();
        let what = row["what"].as_str().unwrap().to_owned();
        (what, [count("train"), count("validation"), count("test")])
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    let expected = [
        ("16-bit", [1, 0, 0]),
        ("16-bit greyscale", [1, 0, 0]),
        ("CMYK", [1, 0, 0]),
        ("EXIF orientation", [0, 0, 1]),
        ("EXIF orientation", [0, 0, 1]),
        ("animated", [0, 1, 0]),
        ("greyscale", [1, 0, 1]),
        ("palette", [0, 2, 0]),
    ];
    let expected = expected.map(|(what, counts)| (what.to_owned(), counts));
    assert_eq!(rows, expected);

    let applied = check(&yaml, &["--set", "dataset.exif=apply"]);
    let json: Value = serde_json::from_str(&succeeded(applied)).unwrap();
    let storage = json["storage"].to_string();
    assert!(storage.contains("turned upright\""), "{storage}");
    assert!(!storage.contains("left as stored"), "{storage}");
}

/// The header of a bitmap that claims 30,000 pixels a side.
fn bomb() -> Vec<u8> {
    let mut bytes = vec![0; 54];
    bytes[..2].copy_from_slice(b"BM");
    for (place, value) in [
        (10, 54),
        (14, 40),
        (18, 30_000),
        (22, 30_000),
        (26, 1 | 24 << 16), // one plane, 24 bits a pixel
    ] {
        bytes[place..place + 4].copy_from_slice(&u32::to_le_bytes(value));
    }
    bytes
}

#[test]
fn every_bad_record_and_image_is_one_message_that_names_it() {
    let line = |text: &'static str| {
        move |root: &Path| {
            let list = root.join("train800.txt");
            let whole = std::fs::read_to_string(&list).unwrap();
            std::fs::write(&list, whole + text).unwrap();
        }
    };
    let image = |bytes: Vec<u8>| {
        move |root: &Path| {
            std::fs::write(root.join("images/ant/train 0.png"), &bytes).unwrap();
        }
    };
    type Break = Box<dyn Fn(&Path)>;
    let cases: Vec<(&str, Break, &[&str])> = vec![
        (
            "a label beyond the class count",
            Box::new(line("images/ant/new.png 3\n")),
            &["train800.txt` line 13", "a label in 0..3, got 3"],
        ),
        (
            "a file listed twice",
            Box::new(line("images/ant/train 0.png 0\n")),
            &[
                "`images/ant/train 0.png` is listed twice",
                "line 1 ",
                "line 13",
            ],
        ),
        (
            "a path that leaves the root",
            Box::new(line("../new.png 0\n")),
            &[
                "train800.txt` line 13",
                "a path inside the root",
                "`../new.png`",
            ],
        ),
        (
            "an image that is not there",
            Box::new(line("images/ant/new.png 0\n")),
            &["images/ant/new.png` (listed at", "line 13", "No such file"],
        ),
        (
            "an empty file",
            Box::new(image(Vec::new())),
            &[
                "images/ant/train 0.png` (listed at",
                "line 1)",
                "an empty file",
            ],
        ),
        (
            "a decompression bomb",
            Box::new(image(bomb())),
            &[
                "images/ant/train 0.png`",
                "beyond the limits (30000 x 30000",
            ],
        ),
        (
            "an image that breaks off",
            Box::new(|root: &Path| {
                let path = root.join("images/ant/train 0.png");
                let whole = std::fs::read(&path).unwrap();
                std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            }),
            &["images/ant/train 0.png`", "a damaged or unsupported image"],
        ),
    ];
    for (what, damage, parts) in cases {
        let data = tempfile::tempdir().unwrap();
        let source = Path::new(FIXTURES).join("lists");
        for (path, bytes) in content(&source) {
            let copy = data.path().join(path.strip_prefix(&source).unwrap());
            std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
            std::fs::write(copy, bytes).unwrap();
        }
        damage(data.path());
        let runs = tempfile::tempdir().unwrap();
        let yaml = format!(
            "{{name: vtab, root: {}, classes: 3}}",
            data.path().display()
        );
        let output = train(&yaml, &[], runs.path());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{what}: {message}");
        assert_eq!(message.matches("error: ").count(), 1, "{what}: {message}");
        for part in parts {
            assert!(
                message.contains(part),
                "{what}: {part:?} is not in\n{message}"
            );
        }
    }
}
