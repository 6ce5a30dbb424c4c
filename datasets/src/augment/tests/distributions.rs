//! Whether draws have the distributions of timm and torchvision.
//!
//! `fixtures/scripts/augment.py` drew as often with the libraries and wrote down the means and
//! standard deviations of what a draw is measured by.

use std::collections::BTreeMap;

use peft_core::input::Interpolation;
use peft_core::random::Generator;
use serde::Deserialize;

use crate::augment::{
    Augment, ColorJitter, Cut, EraseMode, Fill, Mix, Op, RandAugment, RandomResizedCrop,
};

#[derive(Deserialize)]
struct Crops {
    width: usize,
    height: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
    moments: Moments,
}

#[derive(Deserialize)]
struct Policy {
    policy: RandAugment,
    moments: Moments,
}

#[derive(Deserialize)]
struct Jitter {
    strengths: [f64; 4],
    moments: Moments,
}

#[derive(Deserialize)]
struct Erasing {
    size: usize,
    re_prob: f64,
    re_mode: EraseMode,
    re_count: usize,
    moments: Moments,
}

#[derive(Deserialize)]
struct Mixture {
    size: usize,
    options: Augment,
    moments: Moments,
}

#[derive(Deserialize)]
struct Known {
    draws: usize,
    crops: Vec<Crops>,
    policies: Vec<Policy>,
    jitters: Vec<Jitter>,
    erasings: Vec<Erasing>,
    mixtures: Vec<Mixture>,
}

fn known() -> Known {
    let text = include_str!("../../../../fixtures/augment/distributions.json");
    let [known] = serde_json::from_str::<[Known; 1]>(text).unwrap();
    known
}

#[test]
fn crops() {
    let Known { draws, crops, .. } = known();
    for case in crops {
        let (scale, ratio) = (case.scale, case.ratio);
        let augment = Augment {
            random_resized_crop: Some(RandomResizedCrop { scale, ratio }),
            ..Augment::default()
        };
        agrees("crop", &case.moments, draws, |generator| {
            let drawn = augment.draw(generator, (case.width, case.height), 8.into());
            let crop = drawn.crop.unwrap();
            let (width, height) = (crop.width as f64, crop.height as f64);
            let area = width * height / (case.width * case.height) as f64;
            row(&[
                ("left", crop.left as f64),
                ("top", crop.top as f64),
                ("width", width),
                ("height", height),
                ("area", area),
                ("area2", area * area),
                ("log_ratio2", (width / height).ln().powi(2)),
                ("bicubic", bicubic(crop.interpolation)),
            ])
        });
    }
}

#[test]
fn policies_of_rand_augment() {
    let Known {
        draws, policies, ..
    } = known();
    for case in policies {
        let augment = Augment {
            auto_augment: Some(case.policy),
            ..Augment::default()
        };
        agrees(
            &case.policy.to_string(),
            &case.moments,
            draws,
            |generator| {
                let drawn = augment.draw(generator, (8, 8), 8.into());
                let each = drawn.ops.iter().flat_map(|op| {
                    let (name, value, filter) = parts(op);
                    [
                        (format!("{name}.value"), value),
                        (format!("{name}.square"), value * value),
                        (name, 1.0),
                        ("bicubic".to_owned(), filter.map_or(0.0, bicubic)),
                    ]
                });
                each.collect()
            },
        );
    }
}

#[test]
fn colour_jitter() {
    let Known { draws, jitters, .. } = known();
    for case in jitters {
        let [brightness, contrast, saturation, hue] = case.strengths;
        let augment = Augment {
            color_jitter: Some(ColorJitter {
                brightness,
                contrast,
                saturation,
                hue,
            }),
            ..Augment::default()
        };
        agrees("jitter", &case.moments, draws, |generator| {
            let drawn = augment.draw(generator, (8, 8), 8.into());
            let each = drawn.ops.iter().enumerate().flat_map(|(place, op)| {
                let (name, value, _) = parts(op);
                [
                    (format!("{name}.place"), place as f64),
                    (format!("{name}.value"), value),
                    (format!("{name}.square"), value * value),
                ]
            });
            each.collect()
        });
    }
}

#[test]
fn random_erasing() {
    let Known {
        draws, erasings, ..
    } = known();
    for case in erasings {
        let augment = Augment {
            re_prob: case.re_prob,
            re_mode: case.re_mode,
            re_count: case.re_count,
            ..Augment::default()
        };
        agrees("erasing", &case.moments, draws, |generator| {
            let drawn = augment.draw(generator, (8, 8), case.size.into());
            let each = drawn.erased.iter().flat_map(|rectangle| {
                let area = (rectangle.width * rectangle.height) as f64;
                let area = area / (case.size * case.size) as f64;
                let ratio = (rectangle.width as f64 / rectangle.height as f64).ln();
                let values = match &rectangle.fill {
                    Fill::Color(color) => &color[..],
                    Fill::Pixels(values) => values,
                };
                let mean = |map: fn(f64) -> f64| {
                    let sum: f64 = values.iter().map(|v| map(f64::from(*v))).sum();
                    sum / values.len() as f64
                };
                row(&[
                    ("rectangles", 1.0),
                    ("left", rectangle.left as f64),
                    ("top", rectangle.top as f64),
                    ("area", area),
                    ("area2", area * area),
                    ("log_ratio", ratio),
                    ("log_ratio2", ratio * ratio),
                    ("value", mean(|v| v)),
                    ("square", mean(|v| v * v)),
                ])
            });
            each.collect()
        });
    }
}

#[test]
fn mixup_and_cutmix() {
    let Known {
        draws, mixtures, ..
    } = known();
    for case in mixtures {
        agrees("mixture", &case.moments, draws, |generator| {
            let Mix(rows) = case.options.mix(generator, 2, case.size.into());
            assert_eq!(rows[0], rows[1]);
            let lambda = f64::from(rows[0].lambda);
            let mixed = f64::from(u8::from(lambda != 1.0));
            let mut values = row(&[
                ("lambda", lambda),
                ("lambda2", lambda * lambda),
                ("mixed", mixed),
            ]);
            if let Some(Cut { x, y }) = &rows[0].cut {
                let sides = [x.start, x.end, y.start, y.end].map(|side| side as f64);
                let names = ["left", "right", "top", "bottom"];
                values.extend(names.map(str::to_owned).into_iter().zip(sides));
                values.extend(row(&[("cut", 1.0)]));
            }
            values
        });
    }
}

/// The mean and the standard deviation of each measure of a draw, by name.
type Moments = BTreeMap<String, (f64, f64)>;

/// Checks that the means of our draws are within five standard errors of the library's.
fn agrees(
    name: &str,
    expected: &Moments,
    draws: usize,
    mut draw: impl FnMut(&mut Generator) -> Vec<(String, f64)>,
) {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut generator = Generator::new(5, name);
    for _ in 0..draws {
        let mut row: BTreeMap<_, f64> = BTreeMap::new();
        for (key, value) in draw(&mut generator) {
            *row.entry(key).or_default() += value;
        }
        for (key, value) in row {
            let sum = sums.entry(key).or_default();
            *sum = (sum.0 + value, sum.1 + value * value);
        }
    }
    let n = draws as f64;
    for (key, (mean, std)) in expected {
        let (sum, square) = sums.remove(key).unwrap_or_default();
        let (ours, variance) = (sum / n, (square / n - (sum / n).powi(2)).max(0.0));
        let bound = 5.0 * ((variance + std * std) / n).sqrt() + 1e-6 * (1.0 + mean.abs());
        let off = (ours - mean).abs();
        assert!(
            off <= bound,
            "{name}: {key} is {ours}, expected {mean} within {bound}"
        );
    }
    assert!(sums.is_empty(), "{name}: {sums:?} are not the library's");
}

fn row(values: &[(&str, f64)]) -> Vec<(String, f64)> {
    let named = values.iter();
    named
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect()
}

/// The name of an operation, with its parameter and its filter.
fn parts(op: &Op) -> (String, f64, Option<Interpolation>) {
    let debug = format!("{op:?}");
    let name = debug.split('(').next().unwrap().to_owned();
    match *op {
        Op::AutoContrast | Op::Equalize | Op::Invert => (name, 0.0, None),
        Op::Posterize(value) | Op::Solarize(value) | Op::SolarizeAdd(value) => {
            (name, f64::from(value), None)
        }
        Op::Color(value)
        | Op::Contrast(value)
        | Op::Brightness(value)
        | Op::Sharpness(value)
        | Op::Hue(value) => (name, value, None),
        Op::Rotate(value, filter)
        | Op::ShearX(value, filter)
        | Op::ShearY(value, filter)
        | Op::TranslateXRel(value, filter)
        | Op::TranslateYRel(value, filter) => (name, value, Some(filter)),
    }
}

fn bicubic(filter: Interpolation) -> f64 {
    f64::from(u8::from(filter == Interpolation::Bicubic))
}
