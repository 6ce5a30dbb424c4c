//! Folders of splits and of classes, and what is in them that is no image.

use std::path::Path;

use peft_core::data::{Dataset, Split, Transform};
use tempfile::TempDir;

use super::*;

/// Writes 2 x 1 images, the n-th with the grey level `10 * n`.
fn tree(files: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (n, file) in files.iter().enumerate() {
        let path = folder.path().join(file);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        image::save_buffer(
            &path,
            &[(10 * n) as u8; 6],
            2,
            1,
            image::ExtendedColorType::Rgb8,
        )
        .unwrap();
    }
    folder
}

fn open(folder: &TempDir) -> Result<Indexed<Files>, Error> {
    config(folder.path()).read()
}

fn config(root: &Path) -> Folder {
    Folder {
        root: root.into(),
        validation_fraction: default_validation_fraction(),
        test_fraction: None,
        unlabelled: OnStray::Fail,
        unseen: OnStray::Fail,
        exif: Exif::Ignore,
        transform: Transform::default(),
        train_images: None,
        shots: None,
    }
}

fn message(files: &[&str]) -> String {
    open(&tree(files)).unwrap_err().to_string()
}

#[test]
fn a_folder_of_classes_is_divided_by_fractions() {
    let names: Vec<String> = (0..20)
        .flat_map(|n| [format!("cat/{n}.png"), format!("ant/{n}.png")])
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let divided = |prefix: &str| {
        let names: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let folder = tree(&names);
        let with = Folder {
            test_fraction: Some(0.25),
            validation_fraction: 0.2,
            ..config(folder.path())
        };
        let data = with.read().unwrap();
        let paths = Split::ALL.map(|split| {
            let items = data.splits.get(split).iter();
            let paths = items.map(|item| item.at.path.trim_start_matches("train/").to_owned());
            paths.collect::<Vec<_>>()
        });
        assert_eq!(data.classes(), ["ant", "cat"]);
        assert!(data.image(Split::Test, 0).is_ok());
        paths
    };
    let flat = divided("");
    assert_eq!([0, 1, 2].map(|split| flat[split].len()), [24, 6, 10]);
    let mut all = flat.concat();
    all.sort();
    let mut expected = names.clone();
    expected.sort_unstable();
    assert_eq!(all, expected);
    assert_eq!(divided("train/"), flat, "the key has no split");

    let folder = tree(&["train/a/1.png", "train/a/2.png", "test/a/3.png"]);
    let both = Folder {
        test_fraction: Some(0.5),
        ..config(folder.path())
    };
    let message = both.read().unwrap_err().to_string();
    assert!(
        message.contains("invalid `test_fraction`: expected no test images"),
        "{message}"
    );
    let wide = Folder {
        test_fraction: Some(1.0),
        ..config(tree(&["a/1.png", "a/2.png"]).path())
    };
    assert!(wide.read().is_err());
}

#[test]
fn classes_and_files_are_sorted_and_decoded() {
    let folder = tree(&[
        "train/cat/b.png",
        "train/cat/a.PNG",
        "train/ant/z.bmp",
        "val/ant/x.png",
        "test/cat/x.png",
    ]);
    let data = open(&folder).unwrap();
    assert_eq!(data.classes(), ["ant", "cat"]);
    assert_eq!(Split::ALL.map(|split| data.len(split)), [3, 1, 1]);
    let grey = |split, index| {
        let sample = data.sample(split, index).unwrap();
        (sample.image.rgb[0], sample.label)
    };
    assert_eq!(
        [0, 1, 2].map(|index| grey(Split::Train, index)),
        [(20, 0), (10, 1), (0, 1)]
    );
    assert_eq!(
        (grey(Split::Validation, 0), grey(Split::Test, 0)),
        ((30, 0), (40, 1))
    );
    let message = data.sample(Split::Test, 1).unwrap_err().to_string();
    assert!(
        message.contains("no sample 1 in the test split"),
        "{message}"
    );
}

#[test]
fn other_files_hidden_files_and_outside_links_are_counted() {
    let folder = tree(&[
        "train/a/1.png",
        "validation/a/1.png",
        "test/a/1.png",
        "train/a/nested/2.png",
        "train/a/.x.png",
    ]);
    let outside = tree(&["image.png"]);
    let train = folder.path().join("train");
    fs_err::write(train.join("notes.txt"), "x").unwrap();
    fs_err::write(train.join("a/Thumbs.db"), "x").unwrap();
    fs_err::create_dir(train.join(".cache")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(outside.path().join("image.png"), train.join("a/out.png")).unwrap();
        symlink(outside.path(), train.join("b")).unwrap();
        symlink("1.png", train.join("a/in.png")).unwrap();
        symlink("..", train.join("a/nested/up")).unwrap();
        symlink("gone", train.join("a/gone.txt")).unwrap();
        let data = open(&folder).unwrap();
        assert_eq!(data.len(Split::Train), 3, "the link inside is followed");
        assert_eq!(
            data.remarks(),
            [
                "files in `train` that are passed over: 8 (1 .db, 1 .txt, 1 beside the class \
                 folders, 2 hidden, 2 links out of the root, 1 links to a folder above)"
            ]
        );
        for link in ["a/in.png", "a/out.png", "b", "a/nested/up", "a/gone.txt"] {
            fs_err::remove_file(train.join(link)).unwrap();
        }
    }
    let data = open(&folder).unwrap();
    assert_eq!((data.classes().len(), data.len(Split::Train)), (1, 2));
    let remark = "files in `train` that are passed over: 4 (1 .db, 1 beside the class folders, \
                  2 hidden)";
    assert_eq!(data.remarks(), [remark]);
}

/// torchvision's `ImageFolder` finds the same files in this order, except for the jfif.
#[test]
fn folders_within_a_class_and_every_kind_of_image_are_read() {
    let folder = tree(&[
        "train/a/z.png",
        "train/a/b/2.tif",
        "train/a/b/1.PGM",
        "train/a/b c/3.jpeg",
        "train/a/b/d/0.tiff",
        "train/a/y.ppm",
        "val/a/1.png",
        "test/a/1.png",
    ]);
    let data = open(&folder).unwrap();
    let paths: Vec<_> = data.splits.train.iter().map(|i| &*i.at.path).collect();
    let expected = [
        "y.ppm",
        "z.png",
        "b/1.PGM",
        "b/2.tif",
        "b c/3.jpeg",
        "b/d/0.tiff",
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|name| format!("train/a/{name}"))
        .collect();
    assert_eq!(paths, expected);
    assert!((0..6).all(|index| data.image(Split::Train, index).is_ok()));
}

#[test]
fn numbers_are_ordered_as_numbers_and_all_else_by_name() {
    for (names, expected) in [
        (&["0", "1", "10", "2"][..], &["0", "1", "2", "10"][..]),
        (&["02", "10", "1"], &["1", "02", "10"]),
        (&["0", "1", "10", "2", "a"], &["0", "1", "10", "2", "a"]),
        (&["c10", "c2"], &["c10", "c2"]),
    ] {
        let files: Vec<String> = ["train", "val", "test"]
            .iter()
            .flat_map(|split| {
                names
                    .iter()
                    .map(move |name| format!("{split}/{name}/x.png"))
            })
            .collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let data = open(&tree(&files)).unwrap();
        assert_eq!(data.classes(), expected);
        let paths = data.splits.test.iter().map(|item| &*item.at.path);
        let expected: Vec<_> = expected
            .iter()
            .map(|name| format!("test/{name}/x.png"))
            .collect();
        assert_eq!(paths.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn strays_are_left_out_and_counted_where_the_configuration_says_so() {
    let folder = tree(&[
        "train/a/1.png",
        "train/-1/1.png",
        "val/a/1.png",
        "val/b/1.png",
        "test/-1/1.png",
        "test/-1/2.png",
    ]);
    let skip = Folder {
        unlabelled: OnStray::Skip,
        unseen: OnStray::Skip,
        ..config(folder.path())
    };
    let data = skip.read().unwrap();
    assert_eq!(data.classes(), ["a"]);
    assert_eq!(Split::ALL.map(|split| data.len(split)), [1, 1, 0]);
    assert_eq!(
        data.remarks(),
        [
            "images of train that are left out: 1 (their label is `-1`)",
            "images of validation that are left out: 1 (`train` lacks their class, `b`)",
            "images of test that are left out: 2 (their label is `-1`)",
        ]
    );
}

#[test]
fn validation_is_set_aside_where_there_is_none() {
    let names: Vec<String> = (0..20).map(|i| format!("train/a/{i}.png")).collect();
    let mut paths: Vec<&str> = names.iter().map(String::as_str).collect();
    paths.extend(["train/single/1.png", "test/a/1.png"]);
    let data = open(&tree(&paths)).unwrap();
    assert_eq!(Split::ALL.map(|split| data.len(split)), [19, 2, 1]);
    assert!(data.splits.validation.iter().all(|item| item.label == 0));
}

#[test]
fn every_fault_of_the_layout_is_named() {
    let missing = config("/nowhere/at/all".as_ref());
    let missing = missing.read().unwrap_err().to_string();
    assert!(missing.contains("/nowhere/at/all"), "{missing}");
    for (files, parts) in [
        (&["val/a/1.png"][..], ["train", "No such file"]),
        (
            &["train/a/1.png", "train/a/2.png"],
            ["test", "No such file"],
        ),
        (
            &["train/a/1.png", "test/a/1.png"],
            ["validation_fraction", "two images or more"],
        ),
        (
            &[
                "train/a/1.png",
                "val/a/1.png",
                "validation/a/1.png",
                "test/a/1.png",
            ],
            ["`val` or `validation`", "got both"],
        ),
        (
            &["train/a/1.png", "val/a/1.png", "test/b/1.png"],
            ["test/b", "a class of `train` (a), got `b`"],
        ),
        (
            &["train/a/1.png", "val/a/1.png", "test/a/deep/.1.png"],
            ["test/a", "at least one png"],
        ),
        (
            &["train/a/1.png", "val/a/1.png", "test/-1/1.png"],
            ["test/-1", "got `-1` in the test split"],
        ),
        (&["train/1.png"], ["train", "one folder per class"]),
        (
            &["train/a/1.png", "val/a/1.png", "test/1.png"],
            ["test", "at least one class folder"],
        ),
    ] {
        let message = message(files);
        assert!(
            parts.iter().all(|part| message.contains(part)),
            "{files:?}: {message}"
        );
    }
}

#[test]
fn the_fingerprint_follows_content_classes_and_splits_but_not_the_place() {
    let files = ["train/a/1.png", "val/a/2.png", "test/a/3.png"];
    let fingerprint = |folder: &TempDir| open(folder).unwrap().fingerprint().unwrap();
    let (folder, copy) = (tree(&files), tree(&files));
    let first = fingerprint(&folder);
    assert_eq!(first, fingerprint(&copy));
    let moved = tree(&["train/b/1.png", "val/b/2.png", "test/b/3.png"]);
    assert_ne!(first, fingerprint(&moved), "another class");
    let moved = tree(&["train/a/1.png", "test/a/2.png", "val/a/3.png"]);
    assert_ne!(first, fingerprint(&moved), "another split");
    let of = |name: &str| folder.path().join(name);
    fs_err::copy(of("val/a/2.png"), of("test/a/3.png")).unwrap();
    assert_ne!(first, fingerprint(&folder), "another content");
}
