//! Random changes of training images, as timm makes them for ImageNet.
//!
//! [`Augment`] is the configuration. [`Augment::draw`] draws the parameters for one image, and
//! [`Drawn::apply`] makes the pixels from them, in timm's order: random resized crop (or the
//! evaluation's resize), flips, RandAugment and colour jitter on grey levels, normalisation,
//! random erasing. [`Augment::mix`] draws what happens to a batch afterwards: mixup or cutmix.
//!
//! A draw depends on nothing but its generator, the image's size and the input's: with one
//! generator for each image and epoch, and one for each batch and epoch, an epoch is the same on
//! any number of threads.

mod crop;
mod erasing;
mod mix;
mod ops;
mod rand_augment;

use std::borrow::Cow;

use peft_core::backbone::{InputSpec, Interpolation};
use peft_core::data::Image;
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::crop::{Crop, RandomResizedCrop};
pub use self::erasing::{EraseMode, Erased, Fill};
pub use self::mix::{Cut, Mix, MixMode, Mixed};
pub use self::ops::{ColorJitter, Op};
pub use self::rand_augment::RandAugment;
use crate::{Error, Preprocess};

/// Random changes of training images. What is not named does not happen; names are timm's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// A random part of the image, resized to the input's size. Without it images are resized and
    /// cropped as for evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// How random crops and the geometric operations of `auto_augment` resample. Without
    /// `random_resized_crop`, resizing follows the backbone's input.
    pub interpolation: RandomInterpolation,
    /// Probability of a left-right mirror image, 0 to 1. timm trains with 0.5.
    pub hflip: f64,
    /// Probability of an upside-down image, 0 to 1.
    pub vflip: f64,
    /// RandAugment in timm's notation, as `rand-m9-mstd0.5-inc1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<RandAugment>,
    /// Colour jitter, after `auto_augment` where both are named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<ColorJitter>,
    /// Probability that rectangles of the normalised image are erased, 0 to 1. timm's recipes for
    /// ViTs have 0.25.
    pub re_prob: f64,
    /// What erased rectangles are filled with.
    pub re_mode: EraseMode,
    /// Most rectangles of an image, at least 1: their number is uniform in 1 to this, and they share
    /// the area.
    pub re_count: usize,
    /// Mixup's alpha, at least 0: the weight of an image against the one it is mixed with is
    /// Beta(alpha, alpha). 0 is no mixup; timm's recipes have 0.2 to 0.8.
    pub mixup: f64,
    /// Cutmix's alpha, at least 0, likewise for areas. 0 is no cutmix; timm's recipes have 1.
    pub cutmix: f64,
    /// Probability that a batch (an image, a pair) is mixed at all, 0 to 1.
    pub mixup_prob: f64,
    /// Probability of cutmix where both are on, 0 to 1.
    pub mixup_switch_prob: f64,
    /// What shares one draw.
    pub mixup_mode: MixMode,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            random_resized_crop: None,
            interpolation: RandomInterpolation::default(),
            hflip: 0.0,
            vflip: 0.0,
            auto_augment: None,
            color_jitter: None,
            re_prob: 0.0,
            re_mode: EraseMode::default(),
            re_count: 1,
            mixup: 0.0,
            cutmix: 0.0,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: MixMode::default(),
        }
    }
}

/// A resampling filter, or one drawn anew each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RandomInterpolation {
    /// Bilinear or bicubic, each with probability one half.
    #[default]
    Random,
    /// Bilinear.
    Bilinear,
    /// Bicubic.
    Bicubic,
}

impl RandomInterpolation {
    fn draw(self, generator: &mut Generator) -> Interpolation {
        match self {
            Self::Bilinear => Interpolation::Bilinear,
            Self::Bicubic => Interpolation::Bicubic,
            Self::Random if chance(generator, 0.5) => Interpolation::Bilinear,
            Self::Random => Interpolation::Bicubic,
        }
    }
}

/// What happens to one image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// The part that is kept; without it, what evaluation keeps.
    pub crop: Option<Crop>,
    /// Mirrored left to right.
    pub hflip: bool,
    /// Turned upside down, not rotated.
    pub vflip: bool,
    /// Operations on grey levels, in order.
    pub ops: Vec<Op>,
    /// Rectangles of the normalised image, in order.
    pub erased: Vec<Erased>,
}

impl Augment {
    /// Checks every field's range.
    pub fn validate(&self) -> Result<(), Error> {
        for (field, probability) in [
            ("hflip", self.hflip),
            ("vflip", self.vflip),
            ("re_prob", self.re_prob),
            ("mixup_prob", self.mixup_prob),
            ("mixup_switch_prob", self.mixup_switch_prob),
        ] {
            within(
                field,
                (0.0..=1.0).contains(&probability),
                "0 to 1",
                probability,
            )?;
        }
        for (field, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            let ok = alpha >= 0.0 && alpha.is_finite();
            within(field, ok, "a finite number, at least 0", alpha)?;
        }
        within("re_count", self.re_count > 0, "at least 1", self.re_count)?;
        if let Some(crop) = &self.random_resized_crop {
            crop.validate()?;
        }
        if let Some(jitter) = &self.color_jitter {
            jitter.validate()?;
        }
        Ok(())
    }

    /// The parameters for an image of `width` and `height` pixels and an input of `size`.
    pub fn draw(
        &self,
        generator: &mut Generator,
        (width, height): (usize, usize),
        size: usize,
    ) -> Drawn {
        let crop = self.random_resized_crop.map(|crop| {
            let (left, top, width, height) = crop.draw(generator, width, height);
            Crop {
                left,
                top,
                width,
                height,
                interpolation: self.interpolation.draw(generator),
            }
        });
        let hflip = chance(generator, self.hflip);
        let vflip = chance(generator, self.vflip);
        let mut ops = Vec::new();
        if let Some(policy) = &self.auto_augment {
            policy.draw(generator, self.interpolation, &mut ops);
        }
        if let Some(jitter) = &self.color_jitter {
            jitter.draw(generator, &mut ops);
        }
        Drawn {
            crop,
            hflip,
            vflip,
            ops,
            erased: self.draw_erased(generator, size),
        }
    }
}

impl Drawn {
    /// Writes the changed and normalised image into `out`.
    ///
    /// # Shapes
    /// - image: `[height, width, 3]`, grey levels
    /// - out: `[3, size, size]`
    ///
    /// # Errors
    /// Those of [`Preprocess::apply`], and a crop or rectangle that does not fit.
    pub fn apply(&self, image: &Image, input: &InputSpec, out: &mut [f32]) -> Result<(), Error> {
        let preprocess = Preprocess::new(input);
        preprocess.check(image, out)?;
        let rgb = match &self.crop {
            Some(crop) => crop.resize(image, input.size)?.into(),
            None => preprocess.pixels(image)?,
        };
        self.apply_to_pixels(rgb, input, out)
    }

    /// All but the crop, on pixels that have the input's size: those of [`Preprocess::pixels`].
    ///
    /// # Shapes
    /// - rgb: `[size, size, 3]`, grey levels
    /// - out: `[3, size, size]`
    ///
    /// # Errors
    /// A rectangle that does not fit.
    pub fn apply_to_pixels(
        &self,
        rgb: Cow<[u8]>,
        input: &InputSpec,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let preprocess = Preprocess::new(input);
        if self.hflip || self.vflip || !self.ops.is_empty() {
            let mut canvas = Image {
                width: input.size,
                height: input.size,
                rgb: rgb.into_owned(),
            };
            self.paint(&mut canvas, fill(input));
            preprocess.normalise(&canvas.rgb, out);
        } else {
            preprocess.normalise(&rgb, out);
        }
        self.erased
            .iter()
            .try_for_each(|rectangle| rectangle.erase(input.size, out))
    }

    /// Flips and operations, in place.
    fn paint(&self, canvas: &mut Image, fill: [u8; 3]) {
        let row = 3 * canvas.width;
        if self.hflip {
            for row in canvas.rgb.chunks_exact_mut(row) {
                let (pixels, _) = row.as_chunks_mut::<3>();
                pixels.reverse();
            }
        }
        if self.vflip {
            let (top, bottom) = canvas.rgb.split_at_mut(canvas.height / 2 * row);
            let rows = top.chunks_exact_mut(row);
            for (upper, lower) in rows.zip(bottom.rchunks_exact_mut(row)) {
                upper.swap_with_slice(lower);
            }
        }
        let mut spare = Vec::new();
        for op in &self.ops {
            op.apply(canvas, fill, &mut spare);
        }
    }
}

/// The colour beyond the edge of a moved image: the mean, in grey levels, as timm rounds it.
fn fill(input: &InputSpec) -> [u8; 3] {
    input.mean.map(|mean| {
        // The decimal that was written: 0.1 is 25.5 grey levels and goes to the even 26.
        let mean = (f64::from(mean) * 1e7).round() / 1e7;
        (mean * 255.0).round_ties_even() as u8
    })
}

/// Uniform in `[low, high)`.
fn uniform(generator: &mut Generator, low: f64, high: f64) -> f64 {
    low + (high - low) * f64::from(generator.unit())
}

/// True with that probability.
fn chance(generator: &mut Generator, probability: f64) -> bool {
    f64::from(generator.unit()) < probability
}

fn within(
    field: &'static str,
    ok: bool,
    expected: &str,
    got: impl std::fmt::Display,
) -> Result<(), Error> {
    match ok {
        true => Ok(()),
        false => Err(Error::Invalid {
            field,
            expected: expected.into(),
            got: got.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use peft_core::backbone::CropMode;

    use super::*;

    fn input(size: usize, mean: [f32; 3], std: [f32; 3]) -> InputSpec {
        InputSpec {
            size,
            mean,
            std,
            interpolation: Interpolation::Bicubic,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
        }
    }

    /// `fixtures/scripts/augment.py` ran timm's training transforms and wrote down what they drew.
    /// The crop is within a grey level, whose coefficients Pillow keeps in more bits; all that
    /// follows is exact.
    #[test]
    fn what_timm_drew_gives_timms_pixels() {
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
            let cropped = case.crop.resize(&image, size).unwrap();
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

    /// Mean and standard deviation of what a draw is measured by.
    type Moments = BTreeMap<String, (f64, f64)>;

    /// The means of our draws lie where the library's do: within five standard errors of the
    /// difference.
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

    /// The name of an operation, its parameter and its filter.
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

    /// `fixtures/scripts/augment.py` drew as often with timm and torchvision.
    #[test]
    fn draws_have_the_distributions_of_timm_and_torchvision() {
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
        let text = include_str!("../../../fixtures/augment/distributions.json");
        let [known] = serde_json::from_str::<[Known; 1]>(text).unwrap();
        let draws = known.draws;
        for case in known.crops {
            let (scale, ratio) = (case.scale, case.ratio);
            let augment = Augment {
                random_resized_crop: Some(RandomResizedCrop { scale, ratio }),
                ..Augment::default()
            };
            agrees("crop", &case.moments, draws, |generator| {
                let drawn = augment.draw(generator, (case.width, case.height), 8);
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
        for case in known.policies {
            let augment = Augment {
                auto_augment: Some(case.policy),
                ..Augment::default()
            };
            agrees(
                &case.policy.to_string(),
                &case.moments,
                draws,
                |generator| {
                    let drawn = augment.draw(generator, (8, 8), 8);
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
        for case in known.jitters {
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
                let drawn = augment.draw(generator, (8, 8), 8);
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
        for case in known.erasings {
            let augment = Augment {
                re_prob: case.re_prob,
                re_mode: case.re_mode,
                re_count: case.re_count,
                ..Augment::default()
            };
            agrees("erasing", &case.moments, draws, |generator| {
                let drawn = augment.draw(generator, (8, 8), case.size);
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
        for case in known.mixtures {
            agrees("mixture", &case.moments, draws, |generator| {
                let Mix(rows) = case.options.mix(generator, 2, case.size);
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
        let draw = |path: &str| augment.draw(&mut Generator::new(1, path), (50, 40), 16);
        assert_eq!(draw("0/7"), draw("0/7"));
        assert_ne!(draw("0/7"), draw("1/7"));
        let mix = |path: &str| augment.mix(&mut Generator::new(1, path), 4, 16);
        assert_eq!(mix("0/7"), mix("0/7"));
        assert_ne!(mix("0/7"), mix("1/7"));
    }

    #[test]
    fn nothing_named_is_evaluations_preprocessing() {
        let image = Image {
            width: 5,
            height: 3,
            rgb: (0..45).map(|v| v * 5).collect(),
        };
        let input = input(4, [0.5; 3], [0.25; 3]);
        let drawn = Augment::default().draw(&mut Generator::new(1, ""), (5, 3), 4);
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
    fn an_image_of_one_pixel_is_no_exception() {
        let image = Image {
            width: 1,
            height: 1,
            rgb: vec![10, 20, 30],
        };
        let (augment, input) = (everything(), input(4, [0.5; 3], [0.25; 3]));
        let mut out = vec![0.0; 48];
        for number in 0..100 {
            let mut generator = Generator::new(number, "pixel");
            let drawn = augment.draw(&mut generator, (1, 1), 4);
            drawn.apply(&image, &input, &mut out).unwrap();
            assert!(out.iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn refuses_what_is_out_of_range() {
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
}
