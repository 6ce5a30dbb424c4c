use serde_json::json;

use super::*;

fn images(value: &Value) -> (Images, Vec<String>) {
    read(value, Path::new("preprocessor_config.json")).unwrap()
}

/// The mode, the part that is kept and the size.
fn sizes(value: &Value) -> (Option<CropMode>, Option<f32>, Option<ImageSize>) {
    let (images, _) = images(value);
    assert_eq!(images.unfollowed, [], "{value}");
    (
        images.crop_mode.map(|mode| mode.value),
        images.crop_pct.map(|kept| kept.value),
        images.size.map(|size| size.value),
    )
}

#[test]
fn sizes_are_followed_in_every_spelling_of_transformers() {
    let vit = "ViTImageProcessor";
    let clip = "CLIPImageProcessorFast";
    let convnext = "ConvNextImageProcessor";
    let squash = |kept: f32, size: usize| (Some(CropMode::Squash), Some(kept), Some(size.into()));
    let center = |kept: f32, size: usize| (Some(CropMode::Center), Some(kept), Some(size.into()));
    for (value, expected) in [
        (
            json!({"image_processor_type": vit, "size": {"height": 224, "width": 224}}),
            squash(1.0, 224),
        ),
        (
            json!({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}),
            squash(1.0, 224),
        ),
        (
            json!({"image_processor_type": vit, "size": [384, 384]}),
            squash(1.0, 384),
        ),
        // ViT has a crop size and does not use it.
        (
            json!({"do_center_crop": false, "do_resize": true, "crop_size": 224, "size": 256,
                "image_processor_type": "BeitImageProcessor"}),
            squash(1.0, 256),
        ),
        (
            json!({"do_center_crop": true, "size": {"shortest_edge": 224},
                "crop_size": {"height": 224, "width": 224}}),
            center(1.0, 224),
        ),
        (
            json!({"do_center_crop": true, "size": 224, "crop_size": 224}),
            center(1.0, 224),
        ),
        (
            json!({"image_processor_type": clip, "size": 256, "crop_size": 224}),
            center(0.875, 224),
        ),
        (
            json!({"image_processor_type": "BitImageProcessor", "do_center_crop": true,
                "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}),
            center(0.875, 224),
        ),
        (
            json!({"do_resize": true, "size": {"height": 160, "width": 256}}),
            (Some(CropMode::Squash), Some(1.0), Some([160, 256].into())),
        ),
        (
            json!({"do_center_crop": true, "size": {"height": 80, "width": 160},
                "crop_size": {"height": 60, "width": 120}}),
            (Some(CropMode::Squash), Some(0.75), Some([60, 120].into())),
        ),
        // DeiT squashes before it crops.
        (
            json!({"feature_extractor_type": "DeiTFeatureExtractor", "do_center_crop": true,
                "size": 256, "crop_size": 224}),
            squash(0.875, 224),
        ),
        (
            json!({"image_processor_type": "DeiTImageProcessor", "size": {"height": 256,
                "width": 256}, "crop_size": {"height": 224, "width": 224}}),
            squash(0.875, 224),
        ),
        (
            json!({"image_processor_type": convnext, "crop_pct": 0.95,
                "size": {"shortest_edge": 288}}),
            center(0.95, 288),
        ),
        (
            json!({"image_processor_type": convnext, "crop_pct": null, "size": 224}),
            center(0.875, 224),
        ),
        (
            json!({"image_processor_type": convnext, "crop_pct": 0.875,
                "size": {"shortest_edge": 384}}),
            squash(1.0, 384),
        ),
        (
            json!({"do_resize": false, "size": 28}),
            (Some(CropMode::Center), Some(1.0), None),
        ),
        // transformers 5 keeps the processor of a CLIP below its own name.
        (
            json!({"processor_class": "CLIPProcessor", "image_processor": {"do_resize": true,
                "image_processor_type": clip, "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224}}}),
            center(0.875, 224),
        ),
    ] {
        assert_eq!(sizes(&value), expected, "{value}");
    }
}

#[test]
fn another_scale_of_the_pixels_moves_into_mean_and_deviation() {
    let near = |a: [f32; 3], b: f32| a.iter().all(|a| (a - b).abs() <= 1e-6 * b.abs());
    let half = json!([0.5, 0.5, 0.5]);
    for (value, mean, std) in [
        (json!({"image_mean": half, "image_std": half}), 0.5, 0.5),
        (
            json!({"image_mean": half, "image_std": half, "rescale_factor": 0.00392156862745098}),
            0.5,
            0.5,
        ),
        (json!({"image_mean": 0.5, "image_std": 0.25}), 0.5, 0.25),
        (
            json!({"image_mean": half, "image_std": half, "do_normalize": false}),
            0.0,
            1.0,
        ),
        (
            json!({"image_mean": [127.5, 127.5, 127.5], "image_std": [63.75, 63.75, 63.75],
                "do_rescale": false}),
            0.5,
            0.25,
        ),
        (
            json!({"do_normalize": false, "do_rescale": false}),
            0.0,
            1.0 / 255.0,
        ),
        // To [-1, 1], as EfficientNet's processor does.
        (
            json!({"do_normalize": false, "rescale_factor": 1.0 / 127.5, "rescale_offset": true}),
            0.5,
            0.5,
        ),
    ] {
        let (images, _) = images(&value);
        let (own, deviation) = (images.mean.unwrap(), images.std.unwrap());
        assert!(near(own.value, mean), "{value}: {own:?}");
        assert!(near(deviation.value, std), "{value}: {deviation:?}");
    }
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    for (value, expected) in [
        (
            json!({"do_resize": true, "resample": 1}),
            "resample: expected bilinear or bicubic (lanczos is not available here), got 1",
        ),
        (
            json!({"do_resize": true, "resample": 0}),
            "(nearest is not available here), got 0",
        ),
        (
            json!({"do_resize": true, "size": {"longest_edge": 448}}),
            "size: expected a height and a width, or the shortest edge, got {\"longest_edge\":448}",
        ),
        (
            json!({"do_resize": true, "size": {"height": 224, "width": "192"}}),
            "size: expected a height and a width, or the shortest edge",
        ),
        (
            json!({"do_center_crop": true, "size": {"shortest_edge": 224}, "crop_size": 256}),
            "crop_size: expected at most the 224 of size (images are not padded here), got 256",
        ),
        (
            json!({"do_center_crop": true, "size": {"height": 256, "width": 256},
                "crop_size": {"height": 224, "width": 200}}),
            "crop_size: expected the aspect of size (256), got ",
        ),
        (
            json!({"do_center_crop": true, "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 200}}),
            "crop_size: expected a square part of an image whose shortest edge is resized, got ",
        ),
        (
            json!({"do_center_crop": true, "do_resize": false, "crop_size": 224}),
            "do_resize: expected true before a part of 224 pixels is cut out, got false",
        ),
        (
            json!({"do_center_crop": false, "size": {"shortest_edge": 224}}),
            "size: expected a height and a width, or a part cut out of the shortest edge",
        ),
        (
            json!({"do_resize": true, "do_flip_channel_order": true}),
            "do_flip_channel_order: expected false",
        ),
        (
            json!({"do_rescale": false, "do_resize": true}),
            "do_rescale: expected image_mean and image_std beside it, got false",
        ),
        (
            json!({"pretrained_cfg": {"crop_mode": "border"}}),
            "pretrained_cfg.crop_mode: expected center or squash, got \"border\"",
        ),
        (
            json!({"preprocess_cfg": {"resize_mode": "longest"}}),
            "preprocess_cfg.resize_mode: expected shortest or squash",
        ),
        (
            json!({"preprocess_cfg": {"interpolation": "lanczos"}}),
            "preprocess_cfg.interpolation: expected bilinear or bicubic",
        ),
    ] {
        let (images, _) = images(&value);
        let message = &images.unfollowed.first().expect(expected).message;
        let start = "preprocessor_config.json: ";
        assert!(
            message.starts_with(start) && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn unknown_fields_are_printed_and_harmless_ones_are_not() {
    for (value, expected) in [
        (
            json!({"do_resize": true, "odd": 3}),
            vec!["odd 3 may change how images are prepared, and is not followed"],
        ),
        (
            json!({"do_resize": true, "do_reduce_labels": true, "do_pad": false}),
            vec![],
        ),
        (
            json!({"do_resize": true, "_valid_processor_keys": ["images"]}),
            vec![],
        ),
    ] {
        assert_eq!(images(&value).1, expected, "{value}");
    }
}
