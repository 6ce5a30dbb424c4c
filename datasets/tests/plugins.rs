//! The data sets as the runner meets them: by name, from a YAML, behind core's traits.

use std::path::Path;

use peft_core::backbone::{CropMode, InputSpec, Interpolation};
use peft_core::data::{Dataset, DatasetConfig, Split};
use peft_core::registry::{PluginKind, plugins};
use peft_datasets::Preprocess;

fn parse(yaml: &str) -> Box<dyn DatasetConfig> {
    serde_yaml::from_str(yaml).unwrap()
}

#[test]
fn every_registered_example_parses_and_keeps_its_name() {
    let all = plugins(PluginKind::Dataset);
    let names: Vec<_> = all.iter().map(|plugin| plugin.name).collect();
    assert_eq!(
        names,
        [
            "cifar",
            "coop",
            "csv",
            "digits",
            "fgvc",
            "folder",
            "fundus",
            "parquet",
            "scenes",
            "shapes",
            "sprites",
            "terrain",
            "textures",
            "vtab",
            "webdataset"
        ]
    );
    for plugin in all {
        let written = serde_yaml::to_string(&parse(plugin.example)).unwrap();
        assert!(
            written.contains(&format!("name: {}", plugin.name)),
            "{written}"
        );
        (plugin.schema)();
    }
}

#[test]
fn a_backbones_input_comes_out_of_any_data_set() {
    let preprocess = Preprocess::new(&InputSpec {
        size: 16,
        mean: [0.5; 3],
        std: [0.5; 3],
        interpolation: Interpolation::Bicubic,
        crop_pct: 1.0,
        crop_mode: CropMode::Center,
    });
    for yaml in [
        "name: digits",
        "{name: shapes, train: 1, validation: 1, test: 1}",
    ] {
        let data = parse(yaml).open().unwrap();
        for split in Split::ALL {
            let last = data.len(split) - 1;
            let values = preprocess
                .to_vec(&data.sample(split, last).unwrap().image)
                .unwrap();
            assert_eq!(values.len(), preprocess.values());
            assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
        }
    }
}

/// Opens a data set that `fixtures/scripts/data.py` made.
fn fixture(name: &str, yaml: &str) -> Box<dyn Dataset> {
    let mut config = parse(yaml);
    *config.paths_mut()[0] = Path::new(FIXTURES).join(name);
    config.open().unwrap()
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data");

#[test]
fn every_format_holds_the_same_pictures() {
    let file = fs_err::read(format!("{FIXTURES}/pictures.safetensors")).unwrap();
    let pictures = safetensors::SafeTensors::deserialize(&file).unwrap();
    let birds = r#"{name: csv, root: "", all: {file: metadata.csv}, path: img_filename, label: y,
        group: [y, place], split: {column: split, train: "0", validation: "1", test: "2"}}"#;
    let shards = r#"{name: webdataset, root: "", train: "train-{000000..000001}.tar",
        validation: "validation-*.tar", test: test-000000.tar}"#;
    for (folder, yaml, classes) in [
        ("lists", "{name: vtab, root: ''}", ["0", "1", "2"]),
        (
            "lists",
            "{name: fgvc, root: '', images: images}",
            ["1", "2", "5"],
        ),
        (
            "lists",
            "{name: coop, root: '', list: split_zhou_Insects.json, images: images}",
            ["ant", "bee", "cat"],
        ),
        ("lists", birds, ["0", "1", "2"]),
        (
            "parquet",
            "{name: parquet, root: '', train: data/train-*, validation: data/validation-*, \
             test: data/test-*}",
            ["ant", "bee", "cat"],
        ),
        ("webdataset", shards, ["0", "1", "2"]),
        ("folder", "{name: folder, root: ''}", ["ant", "bee", "cat"]),
    ] {
        let data = fixture(folder, yaml);
        assert_eq!(data.classes(), classes, "{yaml}");
        assert!(data.remarks().is_empty(), "{yaml}");
        for split in Split::ALL {
            let images = pictures.tensor(&format!("{split}.images")).unwrap();
            let labels = pictures.tensor(&format!("{split}.labels")).unwrap();
            let pixels = images.data().chunks_exact(9 * 8 * 3);
            let labels = labels
                .data()
                .chunks_exact(8)
                .map(|label| usize::from(label[0]));
            let mut expected: Vec<_> = pixels.zip(labels).collect();
            if folder == "folder" {
                expected.sort_by_key(|(_, label)| *label);
            }
            assert_eq!(data.len(split), expected.len(), "{yaml}");
            for (index, (pixels, label)) in expected.into_iter().enumerate() {
                let sample = data.sample(split, index).unwrap();
                assert_eq!((sample.image.width, sample.image.height), (9, 8));
                assert_eq!(sample.label, label, "{yaml}: {split} {index}");
                assert_eq!(sample.image.rgb, pixels, "{yaml}: {split} {index}");
            }
        }
    }
    let data = fixture("lists", birds);
    assert_eq!(data.groups().len(), 6);
    assert_eq!(data.groups()[3], "y=1 place=1");
    assert_eq!(data.group(Split::Train, 1).unwrap(), Some(3));
}

#[test]
fn cifar_is_read_as_its_site_says() {
    let file = fs_err::read(format!("{FIXTURES}/cifar.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
    let data = fixture("cifar", "{name: cifar, root: ''}");
    let test = expected.tensor("test_batch").unwrap();
    for (index, pixels) in test.data().chunks_exact(32 * 32 * 3).enumerate() {
        let sample = data.sample(Split::Test, index).unwrap();
        assert_eq!((sample.label, sample.image.rgb.as_slice()), (index, pixels));
    }
    assert_eq!(data.len(Split::Train) + data.len(Split::Validation), 10);

    let file = fs_err::read(format!("{FIXTURES}/cifar100.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&file).unwrap();
    let test = expected.tensor("test").unwrap();
    for (labels, names, of) in [
        ("fine", &["ant", "bee", "cat", "dog"][..], [0, 1, 2, 3]),
        ("coarse", &["insects", "mammals"], [0, 0, 1, 1]),
    ] {
        let data = fixture(
            "cifar100",
            &format!("{{name: cifar, root: '', labels: {labels}}}"),
        );
        assert_eq!(data.classes(), names);
        for (index, pixels) in test.data().chunks_exact(32 * 32 * 3).enumerate() {
            let sample = data.sample(Split::Test, index).unwrap();
            assert_eq!(
                (sample.label, sample.image.rgb.as_slice()),
                (of[index], pixels)
            );
        }
    }
}

#[test]
fn one_corrupt_image_is_named_and_leaves_the_others_alone() {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs_err::read_dir(format!("{FIXTURES}/webdataset")).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    // The signature of the first image of the test split.
    let shard = copy.path().join("test-000000.tar");
    let mut bytes = fs_err::read(&shard).unwrap();
    let png = bytes
        .windows(4)
        .position(|window| window == b"\x89PNG")
        .unwrap();
    bytes[png] = 0;
    fs_err::write(&shard, bytes).unwrap();
    let mut config = parse("{name: webdataset, root: '', train: 'train-*', test: 'test-*'}");
    *config.paths_mut()[0] = copy.path().to_owned();
    let data = config.open().unwrap();
    let message = data.image(Split::Test, 0).unwrap_err().to_string();
    assert!(
        message.contains("cannot decode `0000.png` in `"),
        "{message}"
    );
    assert_eq!(data.label(Split::Test, 0).unwrap(), 0);
    assert!((1..data.len(Split::Test)).all(|index| data.image(Split::Test, index).is_ok()));
    assert!(data.fingerprint().is_ok());
}

#[test]
fn the_root_of_a_folder_can_be_resolved_and_is_named_when_it_is_missing() {
    let mut config = parse("{name: folder, root: flowers}");
    let mut paths = config.paths_mut();
    assert_eq!(paths, [Path::new("flowers")]);
    *paths[0] = "/nowhere/flowers".into();
    let error = config.open().err().unwrap();
    assert!(matches!(error, peft_core::Error::Data(_)));
    assert!(error.to_string().contains("/nowhere/flowers"), "{error}");
}
