//! The data sets as the runner sees them: by name, from YAML, behind core's traits.

use std::path::Path;

use peft_core::backbone::{CropMode, ImageSize, InputSpec, Interpolation};
use peft_core::data::{Dataset, DatasetConfig, Split, Subset};
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
            "tfds",
            "vtab",
            "webdataset"
        ]
    );
    for plugin in all {
        let written = serde_json::to_value(parse(plugin.example)).unwrap();
        assert_eq!(written["name"], plugin.name);
        let schema = serde_json::to_value((plugin.schema)()).unwrap();
        assert_eq!(schema["additionalProperties"], false, "{}", plugin.name);
        let fields = written.as_object().unwrap().keys();
        for field in fields.filter(|field| *field != "name") {
            let described = &schema["properties"][field];
            assert!(described.is_object(), "{}: no `{field}`", plugin.name);
        }
    }
}

fn page() -> String {
    fs_err::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/datasets.md")).unwrap()
}

#[test]
fn the_page_names_every_format_and_its_examples_parse() {
    let page = page();
    for plugin in plugins(PluginKind::Dataset) {
        let name = format!("`{}`", plugin.name);
        assert!(page.contains(&name), "docs/datasets.md lacks {name}");
    }
    let blocks = page.split("```yaml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let mut parsed = 0;
    for yaml in blocks.filter(|yaml| yaml.starts_with("name:")) {
        let config: Result<Box<dyn DatasetConfig>, _> = serde_yaml::from_str(yaml);
        assert!(config.is_ok(), "{yaml}{}", config.unwrap_err());
        parsed += 1;
    }
    // Nine formats, `test_fraction`, and VTAB-1k for tuning and for the final training.
    assert_eq!(parsed, 12, "an example for each file format");
}

/// `65929` as `65,929`.
fn grouped(number: &serde_yaml::Value) -> String {
    let digits = number.as_u64().unwrap().to_string();
    let parts: Vec<_> = digits.as_bytes().rchunks(3).rev().collect();
    String::from_utf8(parts.join(&b',')).unwrap()
}

#[test]
fn the_pages_catalogue_is_that_of_the_configurations() {
    let (page, mut rows) = (page(), 0);
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/datasets");
    for folder in ["", "vtab-1k/"] {
        for entry in fs_err::read_dir(configs.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = fs_err::read_to_string(&path).unwrap();
            let config: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
            let Some(about) = config.get("about") else {
                continue;
            };
            let name = format!("{folder}{}", path.file_stem().unwrap().display());
            let text = |key: &str| about[key].as_str().unwrap().to_owned();
            let [train, validation, test] =
                ["train", "validation", "test"].map(|split| grouped(&about["splits"][split]));
            let (title, classes) = (text("title"), grouped(&about["classes"]));
            let row = if folder.is_empty() {
                let (format, metric) = (config["name"].as_str().unwrap(), text("metric"));
                format!(
                    "| `{name}` | {title} | `{format}` | {classes} | {train} | {validation} | {test} \
                     | `{metric}` |"
                )
            } else {
                let group = text("group");
                let chance = (1000.0 / about["classes"].as_f64().unwrap()).round() / 10.0;
                format!("| `{name}` | {title} | {group} | {classes} | {test} | {chance:.1} % |")
            };
            assert!(page.contains(&row), "docs/datasets.md lacks\n{row}");
            rows += 1;
        }
    }
    assert_eq!(rows, 38);
}

#[test]
fn a_backbones_input_comes_out_of_any_data_set() {
    let preprocess = Preprocess::new(&InputSpec {
        size: 16.into(),
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

/// Each format, the fixture that it reads, and the file with the fixture's pictures.
const FORMATS: [(&str, &str, &str); 9] = [
    ("lists", "{name: vtab, root: ''}", "pictures"),
    (
        "lists",
        "{name: fgvc, root: '', images: images}",
        "pictures",
    ),
    (
        "lists",
        "{name: coop, root: '', list: split_zhou_Insects.json, images: images}",
        "pictures",
    ),
    (
        "lists",
        "{name: csv, root: '', all: {file: metadata.csv}, path: img_filename, label: y, \
         split: {column: split, train: '0', validation: '1', test: '2'}}",
        "pictures",
    ),
    (
        "parquet",
        "{name: parquet, root: '', train: data/train-*, validation: data/validation-*, \
         test: data/test-*}",
        "pictures",
    ),
    (
        "webdataset",
        "{name: webdataset, root: '', train: 'train-*.tar', validation: 'validation-*.tar', \
         test: test-000000.tar}",
        "pictures",
    ),
    ("folder", "{name: folder, root: ''}", "pictures"),
    ("cifar", "{name: cifar, root: ''}", "cifar"),
    ("cifar100", "{name: cifar, root: ''}", "cifar100"),
];

/// What a checkpoint may want: the centre of the image.
const CENTRE: InputSpec = InputSpec {
    size: ImageSize::square(6),
    mean: [0.0; 3],
    std: [1.0; 3],
    interpolation: Interpolation::Bilinear,
    crop_pct: 0.5,
    crop_mode: CropMode::Center,
};

/// A format's configuration with a protocol.
fn under(yaml: &str, transform: &str) -> Box<dyn DatasetConfig> {
    let rest = yaml.strip_suffix('}').unwrap();
    parse(&format!("{rest}, transform: {transform}}}"))
}

/// `fixtures/scripts/squash.py` made the golden values with Pillow.
#[test]
fn every_format_follows_its_transform_as_pillow_does() {
    let open = |name: &str| fs_err::read(format!("{FIXTURES}/{name}")).unwrap();
    let golden = open("../resize/squash.safetensors");
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    for (folder, yaml, pictures) in FORMATS {
        let file = open(&format!("{pictures}.safetensors"));
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        // In the order of `squash.py`.
        let names: Vec<String> = match pictures {
            "pictures" => vec!["train.images".into()],
            "cifar" => (1..=5).map(|batch| format!("data_batch_{batch}")).collect(),
            _ => vec!["train".into()],
        };
        let originals: Vec<u8> = names
            .iter()
            .flat_map(|name| file.tensor(name).unwrap().data().to_vec())
            .collect();
        for filter in ["bilinear", "bicubic"] {
            let resized = golden.tensor(&format!("{pictures}.{filter}")).unwrap();
            let resized: Vec<&[u8]> = resized.data().chunks_exact(6 * 6 * 3).collect();
            let transform =
                format!("{{crop_mode: squash, crop_pct: 1.0, interpolation: {filter}}}");
            let mut config = under(yaml, &transform);
            *config.paths_mut()[0] = Path::new(FIXTURES).join(folder);
            let preprocess = Preprocess::new(&config.transform().over(CENTRE));
            let data = config.open().unwrap();
            for index in 0..data.len(Split::Train) {
                let image = data.image(Split::Train, index).unwrap();
                let mut all = originals.chunks_exact(image.rgb.len());
                let place = all.position(|original| original == image.rgb).unwrap();
                let pixels = preprocess.pixels(&image).unwrap();
                let off = pixels
                    .iter()
                    .zip(resized[place])
                    .map(|(got, expected)| got.abs_diff(*expected));
                assert!(off.max() <= Some(1), "{yaml} {filter} {index}");
            }
        }
    }
}

/// What a checkpoint's crop cuts away is seen under the protocol, and without one it is not.
#[test]
fn images_that_differ_only_at_their_edges_differ_under_the_protocol() {
    for (folder, yaml, _) in FORMATS {
        let own = parse(yaml).transform();
        let mut config = under(yaml, "{crop_mode: squash, crop_pct: 1.0}");
        *config.paths_mut()[0] = Path::new(FIXTURES).join(folder);
        let image = config.open().unwrap().image(Split::Train, 0).unwrap();
        let mut other = image.clone();
        let row = 3 * image.width;
        for rgb in other.rgb.chunks_exact_mut(row) {
            rgb[..3].iter_mut().for_each(|value| *value ^= 128);
            rgb[row - 3..].iter_mut().for_each(|value| *value ^= 128);
        }
        let seen = |input: InputSpec, image: &peft_core::data::Image| {
            Preprocess::new(&input).to_vec(image).unwrap()
        };
        let input = config.transform().over(CENTRE);
        assert_ne!(seen(input, &image), seen(input, &other), "{yaml}");
        assert_eq!(seen(CENTRE, &image), seen(CENTRE, &other), "{yaml}");
        // Two formats have the protocol by themselves.
        let states = own.crop_mode.is_some();
        let named = yaml.contains("vtab") || yaml.contains("fgvc");
        assert_eq!(states, named, "{yaml}");
    }
}

#[test]
fn every_data_set_takes_a_part_of_its_training_split_and_a_transform() {
    for plugin in plugins(PluginKind::Dataset) {
        let with = |field: &str| {
            let config: Box<dyn DatasetConfig> =
                serde_yaml::from_str(&format!("{}{field}\n", plugin.example)).unwrap();
            config
        };
        let name = plugin.name;
        assert_eq!(with("").subset().unwrap(), None, "{name}");
        let images = with("train_images: 7").subset().unwrap();
        assert_eq!(images, Some(Subset::Images(7)), "{name}");
        // CoOp's own code draws shots otherwise, unless the configuration says so.
        let nested = if name == "coop" { "draw: nested\n" } else { "" };
        let shots = with(&format!("{nested}shots: 3")).subset().unwrap();
        assert_eq!(shots, Some(Subset::Shots(3)), "{name}");
        for wrong in ["train_images: 0", "shots: 0", "train_images: 1\nshots: 1"] {
            let wrong = with(&format!("{nested}{wrong}")).subset().unwrap_err();
            assert!(wrong.to_string().contains("expected"), "{name}: {wrong}");
        }
        let transform = with("transform: {crop_pct: 0.5}").transform();
        assert_eq!(transform.crop_pct, Some(0.5), "{name}");
    }
}
