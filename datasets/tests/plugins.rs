//! The data sets as the runner meets them: by name, from a YAML, behind core's traits.

use std::path::Path;

use peft_core::backbone::{CropMode, InputSpec, Interpolation};
use peft_core::data::{DatasetConfig, Split};
use peft_core::registry::{PluginKind, plugins};
use peft_datasets::Preprocess;

fn parse(yaml: &str) -> Box<dyn DatasetConfig> {
    serde_yaml::from_str(yaml).unwrap()
}

#[test]
fn every_registered_example_parses_and_keeps_its_name() {
    let all = plugins(PluginKind::Dataset);
    let names: Vec<_> = all.iter().map(|plugin| plugin.name).collect();
    let expected = [
        "digits", "folder", "fundus", "scenes", "shapes", "sprites", "terrain", "textures",
    ];
    assert_eq!(names, expected);
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
