//! `fixtures/scripts/tfds_folder.py` made the folder and the golden values with TensorFlow Datasets.

use std::collections::BTreeMap;
use std::path::Path;

use peft_core::data::{Dataset, Split, Transform};
use safetensors::SafeTensors;

use super::*;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data/tfds");

fn config() -> Tfds {
    Tfds {
        root: Path::new(FOLDER).join("pictures/1.2.0"),
        train: default_train(),
        validation: None,
        test: default_test(),
        image: default_image(),
        label: default_label(),
        validation_fraction: default_validation_fraction(),
        unlabelled: OnStray::Fail,
        unseen: OnStray::Fail,
        exif: Exif::Ignore,
        transform: Transform::default(),
        train_images: None,
        shots: None,
    }
}

fn open(config: &Tfds) -> Indexed<Shards> {
    config.read().unwrap_or_else(|e| panic!("{e}"))
}

fn message(config: &Tfds) -> String {
    config.read().err().unwrap().to_string()
}

#[test]
fn pixels_labels_and_names_are_those_of_the_library() {
    let file = fs_err::read(format!("{FOLDER}/golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&file).unwrap();
    let data = open(&config());
    assert_eq!(data.classes(), ["ant", "bee", "cat"]);
    for split in Split::ALL {
        let images = golden.tensor(&format!("{split}.images")).unwrap();
        let labels = golden.tensor(&format!("{split}.labels")).unwrap();
        let size: usize = images.shape()[1..].iter().product();
        let labels = labels
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes));
        let expected: Vec<_> = images.data().chunks_exact(size).zip(labels).collect();
        assert_eq!(data.len(split), expected.len());
        for (index, (pixels, label)) in expected.into_iter().enumerate() {
            let sample = data.sample(split, index).unwrap();
            assert_eq!(sample.image.rgb, pixels, "{split} {index}");
            assert_eq!(sample.label as i64, label, "{split} {index}");
        }
    }
}

#[test]
fn slices_hold_the_records_of_the_library() {
    let text = fs_err::read_to_string(format!("{FOLDER}/golden.json")).unwrap();
    let golden: BTreeMap<String, Vec<String>> = serde_json::from_str(&text).unwrap();
    let info = Info::read(&config().root).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(golden.len(), 9);
    for (text, expected) in &golden {
        let slices = info.slice("train", text).unwrap_or_else(|e| panic!("{e}"));
        let ids = slices
            .iter()
            .flat_map(|slice| &golden[&slice.split][slice.records.clone()]);
        assert!(ids.eq(expected), "{text}");
    }
}

#[test]
fn other_features_are_labels_too() {
    let labels = |label: &str| {
        let with = Tfds {
            label: label.into(),
            ..config()
        };
        let data = open(&with);
        let label = |index| data.label(Split::Train, index).unwrap();
        (
            data.classes().to_vec(),
            (0..12).map(label).collect::<Vec<_>>(),
        )
    };
    let (names, by_class) = labels("label");
    assert_eq!(labels("name"), (names, by_class.clone()));
    let numbers = ["0", "1", "2"].map(str::to_owned).to_vec();
    assert_eq!(labels("number"), (numbers, by_class));
    assert_eq!(labels("parity").0, ["0", "1"]);
    for (label, part) in [
        ("lable", "did you mean `label`?"),
        (
            "image",
            "a feature that is a class, a sequence of classes, a number or a text, got `image`, Image",
        ),
        ("objects", "got `objects`, Sequence"),
        (
            "weight",
            "record 1: expected a whole number or a text in `weight`, got a fraction",
        ),
    ] {
        let with = Tfds {
            label: label.into(),
            ..config()
        };
        let message = message(&with);
        assert!(message.contains(part), "{message}");
    }
    let image = Tfds {
        image: "name".into(),
        ..config()
    };
    assert!(message(&image).contains("a feature of images, got `name`, Text"));
}

/// VTAB-1k states its images in this way.
#[test]
fn a_split_may_be_cut_from_another() {
    let cut = Tfds {
        train: "train[:8]".into(),
        validation: Some("train[8:10]".into()),
        ..config()
    };
    let data = open(&cut);
    assert_eq!(Split::ALL.map(|split| data.len(split)), [8, 2, 6]);
    assert!(data.remarks().is_empty());
    let last = Tfds {
        train: "train[:8]+train[8:10]".into(),
        ..cut.clone()
    };
    let data = open(&last);
    assert_eq!(Split::ALL.map(|split| data.len(split)), [10, 2, 6]);
    assert_eq!(data.remarks(), ["some images that validate also train"]);
    let leak = Tfds {
        test: "train[7:]".into(),
        ..cut
    };
    assert!(message(&leak).contains("invalid `test`: expected images that are not in `train` too"));
    let unknown = Tfds {
        test: "tset".into(),
        ..config()
    };
    assert!(
        message(&unknown).contains("the set has train, validation, test"),
        "{}",
        message(&unknown)
    );
}

#[test]
fn a_damaged_folder_is_named() {
    let copy = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs_err::read_dir(config().root).unwrap() {
            let entry = entry.unwrap();
            fs_err::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        change(folder.path());
        let with = Tfds {
            root: folder.path().into(),
            ..config()
        };
        message(&with)
    };
    let shard = "pictures-train.tfrecord-00001-of-00003";
    let edit = |name: &'static str, change: &'static dyn Fn(Vec<u8>) -> Vec<u8>| {
        copy(&|folder| {
            let path = folder.join(name);
            let bytes = fs_err::read(&path).unwrap();
            fs_err::write(path, change(bytes)).unwrap();
        })
    };
    let flipped = edit(shard, &|mut bytes| {
        bytes[200] ^= 1;
        bytes
    });
    assert!(
        flipped.contains("00001-of-00003` record 1: expected a whole TFRecord"),
        "{flipped}"
    );
    let cut = edit(shard, &|bytes| bytes[..bytes.len() - 1].to_vec());
    assert!(cut.contains("a file that ends within it"), "{cut}");
    let missing = copy(&|folder| fs_err::remove_file(folder.join(shard)).unwrap());
    assert!(missing.contains(shard), "{missing}");
    let emptied = edit(shard, &|_| Vec::new());
    assert!(
        emptied.contains("expected 4 records, as `dataset_info.json` states, got 0"),
        "{emptied}"
    );
    let names = edit("label.labels.txt", &|_| b"ant\nbee\n".to_vec());
    assert!(names.contains("expected 3 names"), "{names}");
    let format = edit("dataset_info.json", &|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        text.replace(
            "\"fileFormat\": \"tfrecord\"",
            "\"fileFormat\": \"riegeli\"",
        )
        .into()
    });
    assert!(format.contains("got `riegeli`"), "{format}");
    let outside = edit("dataset_info.json", &|bytes| {
        let text = String::from_utf8(bytes).unwrap();
        text.replace("\"name\": \"pictures\"", "\"name\": \"../pictures\"")
            .into()
    });
    assert!(
        outside.contains("expected names of files in this folder"),
        "{outside}"
    );
    let above = Tfds {
        root: FOLDER.into(),
        ..config()
    };
    assert!(
        message(&above).contains("got one in `pictures/1.2.0`"),
        "{}",
        message(&above)
    );
}

/// `fixtures/scripts/tfds_multi_label.py` made the folder and the golden labels with TensorFlow Datasets.
#[test]
fn a_sequence_of_classes_is_the_labels_of_an_image() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/data/tfds_multi_label");
    let golden = fs_err::read_to_string(folder.join("golden.json")).unwrap();
    let golden: BTreeMap<String, BTreeMap<String, Vec<usize>>> =
        serde_json::from_str(&golden).unwrap();
    let root = folder.join("scenes/1.0.0");
    let open = |label: &str| {
        let yaml = format!("root: {}\nlabel: {label}\n", root.display());
        serde_yaml::from_str::<Tfds>(&yaml).unwrap().read()
    };
    let data = open("labels").unwrap_or_else(|e| panic!("{e}"));
    assert!(data.is_multi_label());
    assert_eq!(data.classes(), ["sea", "sky", "tree"]);
    assert_eq!(Split::ALL.map(|split| data.len(split)), [7, 1, 4]);
    for split in Split::ALL {
        let of_set = if split == Split::Test {
            "test"
        } else {
            "train"
        };
        for index in 0..data.len(split) {
            let shade = data.image(split, index).unwrap().rgb[0].to_string();
            let labels = data.labels(split, index).unwrap();
            assert_eq!(labels, golden[of_set][&shade], "{split} {index}");
        }
    }
    let message = open("numbers").err().unwrap().to_string();
    assert!(message.contains("got `numbers`, Sequence"), "{message}");
}
