//! The augmentation as a whole, beside timm's.

mod distributions;

use peft_core::data::Image;
use peft_core::input::{CropMode, InputSpec, Interpolation};
use peft_core::random::Generator;
use serde::Deserialize;

use super::drawn::fill;
use super::*;
use crate::transform::Preprocess;

fn input(size: usize, mean: [f32; 3], std: [f32; 3]) -> InputSpec {
    InputSpec {
        size: size.into(),
        mean,
        std,
        interpolation: Interpolation::Bicubic,
        crop_pct: 1.0,
        crop_mode: CropMode::Center,
    }
}

/// `fixtures/scripts/augment.py` ran timm's training transforms and wrote down what they drew. The
/// crop is within one grey level, because Pillow keeps its coefficients in more bits; everything
/// after it is exact.
#[test]
fn timms_draws_give_timms_pixels() {
    #[derive(Deserialize)]
    struct Picture {
        width: usize,
        height: usize,
        rgb: Vec<u8>,
    }
    #[derive(Deserialize)]
    struct Rectangle {
        left: usize,
        top: usize,
        width: usize,
        height: usize,
        values: Vec<f32>,
    }
    #[derive(Deserialize)]
    struct Case {
        image: Picture,
        size: usize,
        mean: [f32; 3],
        std: [f32; 3],
        crop: Crop,
        cropped: Vec<u8>,
        hflip: bool,
        vflip: bool,
        ops: Vec<Op>,
        erased: Option<Rectangle>,
        expected: Vec<f32>,
    }
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../fixtures/augment/pipelines.json")).unwrap();
    assert!(cases.len() > 10);
    for (number, case) in cases.into_iter().enumerate() {
        let Picture { width, height, rgb } = case.image;
        let (image, size) = (Image { width, height, rgb }, case.size);
        let cropped = case.crop.resize(&image, size.into()).unwrap();
        let pairs = cropped.iter().zip(&case.cropped);
        let worst = pairs.map(|(got, expected)| got.abs_diff(*expected)).max();
        assert!(worst <= Some(1), "case {number}: {worst:?} grey levels");

        let image = Image {
            width: size,
            height: size,
            rgb: case.cropped,
        };
        let erased = case.erased.map(|rectangle| Erased {
            left: rectangle.left,
            top: rectangle.top,
            width: rectangle.width,
            height: rectangle.height,
            fill: Fill::Pixels(rectangle.values),
        });
        let drawn = Drawn {
            crop: None,
            hflip: case.hflip,
            vflip: case.vflip,
            ops: case.ops,
            erased: erased.into_iter().collect(),
        };
        let input = input(size, case.mean, case.std);
        let mut got = vec![0.0; case.expected.len()];
        drawn.apply(&image, &input, &mut got).unwrap();
        for (got, expected) in got.iter().zip(&case.expected) {
            assert!(
                (got - expected).abs() < 1e-6,
                "case {number}: {got} {expected}"
            );
        }
    }
}

fn everything() -> Augment {
    Augment {
        random_resized_crop: Some(RandomResizedCrop::default()),
        hflip: 0.5,
        vflip: 0.5,
        auto_augment: Some("rand-m9-mstd0.5-inc1".parse().unwrap()),
        color_jitter: Some(ColorJitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
        }),
        re_prob: 0.5,
        re_mode: EraseMode::Pixel,
        mixup: 0.8,
        cutmix: 1.0,
        ..Augment::default()
    }
}

#[test]
fn a_draw_is_a_function_of_its_generator() {
    let augment = everything();
    let draw = |path: &str| augment.draw(&mut Generator::new(1, path), (50, 40), 16.into());
    assert_eq!(draw("0/7"), draw("0/7"));
    assert_ne!(draw("0/7"), draw("1/7"));
    let mix = |path: &str| augment.mix(&mut Generator::new(1, path), 4, 16.into());
    assert_eq!(mix("0/7"), mix("0/7"));
    assert_ne!(mix("0/7"), mix("1/7"));
}

#[test]
fn without_changes_it_is_the_preprocessing_of_evaluation() {
    let image = Image {
        width: 5,
        height: 3,
        rgb: (0..45).map(|v| v * 5).collect(),
    };
    let input = input(4, [0.5; 3], [0.25; 3]);
    let drawn = Augment::default().draw(&mut Generator::new(1, ""), (5, 3), 4.into());
    assert_eq!(drawn, Drawn::default());
    let mut out = vec![0.0; 48];
    drawn.apply(&image, &input, &mut out).unwrap();
    assert_eq!(out, Preprocess::new(&input).to_vec(&image).unwrap());
    let flipped = Drawn {
        hflip: true,
        vflip: true,
        ..Drawn::default()
    };
    let mut turned = vec![0.0; 48];
    flipped.apply(&image, &input, &mut turned).unwrap();
    for (plane, turned) in out.chunks(16).zip(turned.chunks_mut(16)) {
        turned.reverse();
        assert_eq!(plane, turned);
    }
}

#[test]
fn images_of_one_pixel_are_augmented_too() {
    let image = Image {
        width: 1,
        height: 1,
        rgb: vec![10, 20, 30],
    };
    let (augment, input) = (everything(), input(4, [0.5; 3], [0.25; 3]));
    let mut out = vec![0.0; 48];
    for number in 0..100 {
        let mut generator = Generator::new(number, "pixel");
        let drawn = augment.draw(&mut generator, (1, 1), 4.into());
        drawn.apply(&image, &input, &mut out).unwrap();
        assert!(out.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn fields_and_crops_out_of_range_are_refused() {
    for (text, expected) in [
        ("{hflip: 1.5}", "invalid `hflip`: expected 0 to 1, got 1.5"),
        ("{mixup: -1}", "invalid `mixup`"),
        (
            "{re_count: 0}",
            "invalid `re_count`: expected at least 1, got 0",
        ),
        (
            "{random_resized_crop: {scale: [1, 0.5]}}",
            "invalid `random_resized_crop.scale`",
        ),
        ("{color_jitter: {hue: 0.6}}", "invalid `color_jitter.hue`"),
    ] {
        let augment: Augment = serde_yaml::from_str(text).unwrap();
        let message = augment.validate().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let outside = Drawn {
        crop: Some(Crop {
            left: 1,
            top: 0,
            width: 2,
            height: 1,
            interpolation: Interpolation::Bilinear,
        }),
        ..Drawn::default()
    };
    let image = Image {
        width: 2,
        height: 2,
        rgb: vec![0; 12],
    };
    let message = outside
        .apply(&image, &input(1, [0.0; 3], [1.0; 3]), &mut [0.0; 3])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("invalid `crop`: expected a part of 2 x 2 pixels"),
        "{message}"
    );
}

#[test]
fn the_fill_is_the_mean_as_timm_rounds_it() {
    let spec = input(1, [0.485, 0.5, 0.1], [1.0; 3]);
    assert_eq!(fill(&spec), [124, 128, 26]);
}
