//! The files as libraries publish them, and damaged ones.

use super::*;
use crate::facts::Setting;
use crate::input::{CropMode, Interpolation};

fn beside(files: &[(&str, &str)]) -> Result<Option<Published>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Published::beside(&folder.path().join("model.safetensors"))
}

fn value<T: Copy>(setting: &Option<Setting<T>>) -> Option<T> {
    setting.as_ref().map(|setting| setting.value)
}

/// The files as timm, transformers (ViT, ConvNeXt's processor for ResNets, CLIP) and open_clip
/// publish them, cut down to what is read.
#[test]
fn every_library_tells_it_in_its_own_way() {
    let half = Some([0.5; 3]);
    let timm = r#"{"architecture": "vit_base_patch16_224", "num_classes": 1000, "pretrained_cfg":
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
         "crop_pct": 0.9, "crop_mode": "center", "input_size": [3, 224, 224]}}"#;
    let published = beside(&[("config.json", timm)]).unwrap().unwrap();
    assert_eq!(published.architecture(), Some("vit_base_patch16_224"));
    let images = published.images;
    assert_eq!((value(&images.mean), value(&images.std)), (half, half));
    assert_eq!(value(&images.crop_pct), Some(0.9));
    assert_eq!(value(&images.crop_mode), Some(CropMode::Center));
    assert_eq!(value(&images.interpolation), Some(Interpolation::Bicubic));

    let vit = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": {"height": 224, "width": 224}}"#;
    let config = r#"{"model_type": "vit", "num_attention_heads": 12}"#;
    let files = [("config.json", config), ("preprocessor_config.json", vit)];
    let published = beside(&files).unwrap().unwrap();
    assert_eq!(
        value(&published.images.interpolation),
        Some(Interpolation::Bilinear)
    );
    assert_eq!(value(&published.images.crop_mode), Some(CropMode::Squash));
    assert_eq!(published.num_heads, Some(12));

    let resnet = r#"{"crop_pct": 0.875, "do_resize": true, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": {"shortest_edge": 224}}"#;
    let published = beside(&[("preprocessor_config.json", resnet)]).unwrap();
    let published = published.unwrap();
    assert_eq!(value(&published.images.crop_pct), Some(0.875));
    assert_eq!(value(&published.images.crop_mode), Some(CropMode::Center));

    let clip = r#"{"crop_size": 224, "do_center_crop": true, "do_resize": true, "resample": 3,
        "image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.26, 0.27], "size": 224}"#;
    let published = beside(&[("preprocessor_config.json", clip)]).unwrap();
    assert_eq!(value(&published.unwrap().images.crop_pct), Some(1.0));

    let open_clip = r#"{"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5], "interpolation": "lanczos", "resize_mode": "squash"}}"#;
    let published = beside(&[("open_clip_config.json", open_clip)]).unwrap();
    let published = published.unwrap();
    assert_eq!(value(&published.images.crop_mode), Some(CropMode::Squash));
    assert_eq!(value(&published.images.interpolation), None);
    let message = &published.images.unfollowed[0].message;
    assert!(message.contains("lanczos"), "{message}");
}

#[test]
fn a_file_that_says_nothing_is_none_and_a_broken_one_an_error() {
    assert_eq!(beside(&[]).unwrap(), None);
    assert_eq!(
        beside(&[("config.json", r#"{"model_type": "x"}"#)]).unwrap(),
        None
    );
    for (broken, expected) in [
        ("{", "expected JSON"),
        (r#"{"mean": [0.5]}"#, "mean: expected three finite numbers"),
        (r#"{"crop_pct": 1.5}"#, "crop_pct: expected at most 1"),
        (r#"{"crop_pct": "x"}"#, "crop_pct: expected a number"),
    ] {
        let error = beside(&[("config.json", broken)]).unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("config.json"),
            "{error}"
        );
    }
}

#[test]
fn the_classes_of_a_head_are_named_beside_it() {
    let names = |json: &str| beside(&[("config.json", json)]).unwrap().map(|p| p.classes);
    let list = |names: &[&str]| Some(Some(names.iter().map(|n| (*n).to_owned()).collect()));
    for (json, expected) in [
        (
            r#"{"id2label": {"1": "bee", "0": "ant"}}"#,
            list(&["ant", "bee"]),
        ),
        (
            r#"{"id2label": {"10": "k", "0": "a", "1": "b", "2": "c", "3": "d", "4": "e", "5": "f",
                "6": "g", "7": "h", "8": "i", "9": "j"}}"#,
            list(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]),
        ),
        (r#"{"label_names": ["cat", "ant"]}"#, list(&["cat", "ant"])),
        (
            r#"{"architecture": "x", "pretrained_cfg": {"label_names": ["cat"]}}"#,
            list(&["cat"]),
        ),
        (r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#, None),
        // Scripts write the rows as text too.
        (
            r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"bee": "1", "ant": "0"}}"#,
            list(&["ant", "bee"]),
        ),
        // Two classes of ImageNet are called crane.
        (
            r#"{"id2label": {"0": "crane", "1": "ant", "2": "crane"}, "label2id": {"crane": 2, "ant": 1}}"#,
            list(&["crane", "ant", "crane"]),
        ),
    ] {
        assert_eq!(names(json), expected, "{json}");
    }
    for (json, expected) in [
        (
            r#"{"id2label": {"0": "a", "2": "b"}}"#,
            "id2label: expected the rows 0 to 1",
        ),
        (
            r#"{"id2label": {"a": "0"}}"#,
            "id2label: expected names by row",
        ),
        (
            r#"{"id2label": {"0": "ant", "1": "bee"}, "label2id": {"ant": 1, "bee": 0}}"#,
            "id2label and label2id disagree: the name of row",
        ),
        (
            r#"{"id2label": {"0": "ant", "1": "bee"}, "label2id": {"cat": 2, "ant": 0}}"#,
            "row 2 is none in the one and `cat` in the other",
        ),
        (
            r#"{"label2id": {"ant": 0, "bee": 2}}"#,
            "label2id: expected the rows 0 to 1",
        ),
        (
            r#"{"label_names": [1, 2]}"#,
            "label_names: expected a list of names",
        ),
    ] {
        let error = beside(&[("config.json", json)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_size_of_prepared_images_is_that_of_a_network_without_one() {
    let processor = r#"{"do_center_crop": true, "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224}}"#;
    for (config, size, said) in [
        (r#"{"model_type": "resnet"}"#, 224, None),
        (r#"{"model_type": "vit", "image_size": 224}"#, 224, None),
        // As DINOv2's files are.
        (
            r#"{"model_type": "dinov2", "image_size": 518}"#,
            518,
            Some("crop_size prepares images of 224 pixels, but "),
        ),
    ] {
        let files = [
            ("preprocessor_config.json", processor),
            ("config.json", config),
        ];
        let published = beside(&files).unwrap().unwrap();
        let mut facts = published.facts.iter();
        let fact = facts.find(|fact| fact.name == "img_size").unwrap();
        assert_eq!(fact.value, size, "{config}");
        let remarks = published.remarks.join("\n");
        assert_eq!(remarks.contains(said.unwrap_or("prepares")), said.is_some());
    }
}
