//! From an 8-bit image to the input of a backbone: resize, crop and normalise, as timm and
//! torchvision do with Pillow's images.

use std::borrow::Cow;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use peft_core::data::Image;
use peft_core::input::{CropMode, ImageSize, InputSpec, Interpolation};

use crate::error::Error;

/// How an image becomes the input of a backbone.
///
/// An image that already has the target size and is not cropped is not resampled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocess {
    /// Size, filter, crop and normalisation.
    pub input: InputSpec,
}

impl Preprocess {
    /// Prepares images for a backbone with this input.
    pub fn new(input: &InputSpec) -> Self {
        Self { input: *input }
    }

    /// Checks the range of every field.
    ///
    /// # Errors
    /// A field outside of its range.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |field, expected: &str, got| {
            Err(Error::Invalid {
                field,
                expected: expected.into(),
                got,
            })
        };
        let InputSpec {
            size,
            mean,
            std,
            crop_pct,
            ..
        } = self.input;
        if !size.sides().iter().all(|side| (1..=4096).contains(side)) {
            return invalid("img_size", "1 to 4096 pixels", size.to_string());
        }
        if !mean.iter().all(|mean| mean.is_finite()) {
            return invalid("mean", "three finite numbers", format!("{mean:?}"));
        }
        if !std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return invalid("std", "three finite numbers above 0", format!("{std:?}"));
        }
        if !(crop_pct > 0.0 && crop_pct <= 1.0) {
            let expected = "a number above 0 and at most 1";
            return invalid("crop_pct", expected, crop_pct.to_string());
        }
        Ok(())
    }

    /// The number of values that [`apply`](Self::apply) writes: `3 h w`.
    pub fn values(&self) -> usize {
        self.input.values()
    }

    /// Writes `(x / 255 - mean) / std` of the resized image into `out`.
    ///
    /// # Shapes
    /// - image: `[height, width, 3]`, grey levels
    /// - out: `[3, h, w]`, the input's size
    ///
    /// # Errors
    /// A field outside of its range, an image that is not whole, or an `out` of another size.
    pub fn apply(&self, image: &Image, out: &mut [f32]) -> Result<(), Error> {
        self.check(image, out)?;
        self.normalise(&self.pixels(image)?, out);
        Ok(())
    }

    /// Checks the fields, the image and the size of `out`.
    pub(crate) fn check(&self, image: &Image, out: &[f32]) -> Result<(), Error> {
        self.validate()?;
        if out.len() != self.values() {
            let [_, channels, height, width] = self.input.batch(1);
            let values = self.values();
            let expected = format!("{values} values ({channels} x {height} x {width})");
            return Err(Error::Invalid {
                field: "out",
                expected,
                got: out.len().to_string(),
            });
        }
        check_image(image)
    }

    /// The image at its target size, `[h, w, 3]` grey levels. An image that already has that
    /// size is borrowed.
    ///
    /// # Errors
    /// If the image has no pixels, or not as many as its sides say.
    pub fn pixels<'a>(&self, image: &'a Image) -> Result<Cow<'a, [u8]>, Error> {
        check_image(image)?;
        if ImageSize::new(image.height, image.width) == self.input.size
            && self.window(image).is_whole(image)
        {
            Ok(Cow::Borrowed(&image.rgb))
        } else {
            self.resize(image).map(Cow::Owned)
        }
    }

    /// [`apply`](Self::apply) into a new vector, `[3, h, w]`.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply).
    pub fn to_vec(&self, image: &Image) -> Result<Vec<f32>, Error> {
        self.validate()?;
        let mut out = vec![0.0; self.values()];
        self.apply(image, &mut out)?;
        Ok(out)
    }

    /// The resized and cropped image, `[h, w, 3]`.
    ///
    /// The columns come first, then the rows, with rounding to grey levels between: the order of
    /// Pillow 12.3. The order shows where a cubic overshoots; Pillow 13.0 takes rows first for some
    /// sizes.
    fn resize(&self, image: &Image) -> Result<Vec<u8>, Error> {
        let Window {
            left,
            top,
            width,
            height,
        } = self.window(image);
        // Two passes with rounding between, because Pillow stores the intermediate image in 8 bits.
        let (
            ImageSize {
                height: down,
                width: across,
            },
            rows,
        ) = (self.input.size, image.height as f64);
        let options = options(self.input.interpolation);
        let narrow = resample(
            &Part::whole(&image.rgb, image.width, image.height)?,
            (across, image.height),
            &options.crop(left, 0.0, width, rows),
        )?;
        resample(
            &Part::whole(&narrow, across, image.height)?,
            (across, down),
            &options.crop(0.0, top, across as f64, height),
        )
    }

    /// The part of the image that becomes the output. Resampling it straight to the output gives
    /// what resizing the whole image and cropping it would, without the work for what is cut away.
    fn window(&self, image: &Image) -> Window {
        let InputSpec {
            size,
            crop_pct,
            crop_mode,
            ..
        } = self.input;
        let (width, height) = (image.width as f64, image.height as f64);
        // The decimal that the user wrote: 224 / 0.8 is then 280, as in Python, and not 279.999996.
        let kept = (f64::from(crop_pct) * 1e6).round() / 1e6;
        let target = |side: usize| (side as f64 / kept).floor();
        let (down, across) = (target(size.height), target(size.width));
        let resized = |side: f64, own: f64| match crop_mode {
            // torchvision rounds down, and timm for a rectangle to the nearest.
            CropMode::Center if down == across => (own * side / width.min(height)).floor(),
            CropMode::Center => (side / (height / down).min(width / across)).round_ties_even(),
            CropMode::Squash => own,
        };
        let part = |side: f64, own: f64, kept: usize| {
            let resized = resized(side, own);
            let scale = side / resized;
            // Python's `round`, which torchvision's centre crop uses, rounds halves to even.
            let start = ((resized - kept as f64) / 2.0).round_ties_even() * scale;
            (start, (kept as f64 * scale).min(side - start))
        };
        let (left, width) = part(width, across, size.width);
        let (top, height) = part(height, down, size.height);
        Window {
            left,
            top,
            width,
            height,
        }
    }

    /// `[h, w, 3]` grey levels to `[3, h, w]` normalised values.
    pub fn normalise(&self, rgb: &[u8], out: &mut [f32]) {
        for (channel, plane) in out.chunks_exact_mut(self.input.size.pixels()).enumerate() {
            let (mean, std) = (self.input.mean[channel], self.input.std[channel]);
            for (value, pixel) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
                *value = (f32::from(pixel[channel]) / 255.0 - mean) / std;
            }
        }
    }
}

/// Checks that an image has as many pixels as its sides say.
fn check_image(image: &Image) -> Result<(), Error> {
    let (width, height, values) = (image.width, image.height, image.rgb.len());
    if values == 0
        || width
            .checked_mul(height)
            .and_then(|pixels| pixels.checked_mul(3))
            != Some(values)
    {
        let expected = format!("3 x {width} x {height} values of at least one pixel");
        return Err(Error::Invalid {
            field: "image",
            expected,
            got: values.to_string(),
        });
    }
    Ok(())
}

/// Pillow's filter with this name. Its bicubic is Catmull-Rom's, a = -0.5.
pub(crate) fn options(interpolation: Interpolation) -> ResizeOptions {
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter))
}

/// A part of an image; a filter does not see beyond its edge. Only one type of view and one type of
/// pixel are used, so that the resizer is compiled only once.
pub(crate) struct Part<'a>(TypedCroppedImage<'a, TypedImageRef<'a, U8x3>>);

impl<'a> Part<'a> {
    /// The whole image.
    pub(crate) fn whole(rgb: &'a [u8], width: usize, height: usize) -> Result<Self, Error> {
        Self::new(rgb, (width, height), [0, 0, width, height])
    }

    /// The part of an image with this left, top, width and height, in pixels.
    pub(crate) fn new(
        rgb: &'a [u8],
        (width, height): (usize, usize),
        part: [usize; 4],
    ) -> Result<Self, Error> {
        let view = || {
            let image = TypedImageRef::from_buffer(side(width)?, side(height)?, rgb)?;
            let [left, top, across, down] = part.map(side);
            let part = TypedCroppedImage::new(image, left?, top?, across?, down?)?;
            Ok::<_, Box<dyn std::error::Error>>(Self(part))
        };
        view().map_err(|error| unfit(width, height, &error))
    }
}

/// One pass of the resize, to `[height, width, 3]`.
pub(crate) fn resample(
    Part(source): &Part,
    (width, height): (usize, usize),
    options: &ResizeOptions,
) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; 3 * width * height];
    let mut pass = || {
        let mut target = TypedImage::from_buffer(side(width)?, side(height)?, &mut out)?;
        Resizer::new().resize_typed(source, &mut target, options)?;
        Ok::<_, Box<dyn std::error::Error>>(())
    };
    pass().map_err(|error| unfit(width, height, &error))?;
    Ok(out)
}

fn side(pixels: usize) -> Result<u32, std::num::TryFromIntError> {
    u32::try_from(pixels)
}

fn unfit(width: usize, height: usize, error: &dyn std::fmt::Display) -> Error {
    Error::Invalid {
        field: "image",
        expected: "an image that can be resized".into(),
        got: format!("{width} x {height} pixels ({error})"),
    }
}

/// A rectangle of the source image, in pixels of that image.
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Window {
    fn is_whole(&self, image: &Image) -> bool {
        (self.width, self.height) == (image.width as f64, image.height as f64)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn plain(size: usize) -> Preprocess {
        with(size, |_| ())
    }

    fn with(size: impl Into<ImageSize>, change: impl FnOnce(&mut InputSpec)) -> Preprocess {
        let mut input = InputSpec {
            size: size.into(),
            mean: [0.0; 3],
            std: [1.0; 3],
            interpolation: Interpolation::Bilinear,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
        };
        change(&mut input);
        Preprocess::new(&input)
    }

    fn image(width: usize, height: usize, value: impl Fn(usize, usize, usize) -> u8) -> Image {
        let rgb = (0..height * width * 3)
            .map(|i| value(i / 3 % width, i / 3 / width, i % 3))
            .collect();
        Image { width, height, rgb }
    }

    #[test]
    fn normalises_into_planes_without_touching_an_image_of_the_right_size() {
        let preprocess = with(2, |input| {
            (input.mean, input.std) = ([0.0, 0.5, 1.0], [1.0, 0.5, 0.25]);
        });
        let source = image(2, 2, |x, y, channel| {
            [[[0, 255, 51], [51, 0, 255]], [[102, 51, 0], [255, 102, 51]]][y][x][channel]
        });
        let expected = [
            0.0, 0.2, 0.4, 1.0, 1.0, -1.0, -0.6, -0.2, -3.2, 0.0, -4.0, -3.2,
        ];
        for (got, expected) in preprocess.to_vec(&source).unwrap().iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn halving_averages_with_the_widened_triangle() {
        // Weights of the first output over inputs 0, 1, 2 are 3/4, 3/4, 1/4, normalised: 3/7, 3/7,
        // 1/7.
        let source = image(4, 4, |x, _, _| [0, 70, 140, 210][x]);
        let got = plain(2).to_vec(&source).unwrap();
        assert!(
            (got[0] * 255.0 - 50.0).abs() < 1.01 && (got[1] * 255.0 - 160.0).abs() < 1.01,
            "{got:?}"
        );
    }

    #[test]
    fn the_crop_is_timms() {
        for (size, crop, side, expected) in [
            (224, 0.875, 256, 16.0),
            (224, 0.9, 248, 12.0),
            (224, 0.8, 280, 28.0),
            (32, 1.0, 32, 0.0),
        ] {
            let window =
                with(size, |input| input.crop_pct = crop).window(&image(side, side, |_, _, _| 0));
            assert_eq!(
                (window.left, window.width),
                (expected, size as f64),
                "{size} / {crop}"
            );
        }
        // 30 x 20 to a shorter side of 10: 15 x 10, of which python's round(2.5) = 2 columns go at
        // the left.
        let window = plain(10).window(&image(30, 20, |_, _, _| 0));
        assert_eq!(
            [window.left, window.top, window.width, window.height],
            [4.0, 0.0, 20.0, 20.0]
        );
    }

    #[test]
    fn a_rectangle_is_cropped_along_the_side_that_is_longer_beside_its_own() {
        // 30 x 20 covers 5 x 10 pixels at a third: 10 x 6.67, of which 1 of 7 rows goes at the top.
        let window = with([5, 10], |_| ()).window(&image(30, 20, |_, _, _| 0));
        assert_eq!((window.left, window.width), (0.0, 30.0));
        assert_eq!(
            (window.top, window.height),
            (20.0 / 7.0, 5.0 * (20.0 / 7.0))
        );
        // Squashed, both sides are whole.
        let squash = |input: &mut InputSpec| input.crop_mode = CropMode::Squash;
        let window = with([5, 10], squash).window(&image(30, 20, |_, _, _| 0));
        assert_eq!(
            [window.left, window.top, window.width, window.height],
            [0.0, 0.0, 30.0, 20.0]
        );
        let own = image(10, 5, |x, y, _| (x * 5 + y) as u8);
        let kept = with([5, 10], |_| ());
        assert_eq!(kept.pixels(&own).unwrap(), own.rgb);
    }

    #[test]
    fn a_sliver_of_an_image_costs_no_more_than_its_window() {
        let sliver = image(30_000, 1, |_, _, _| 9);
        let preprocess = with(224, |input| input.crop_pct = 0.9);
        let got = preprocess.to_vec(&sliver).unwrap();
        assert!(got.iter().all(|&value| value == 9.0 / 255.0));
    }

    /// `fixtures/scripts/resize.py` made these with Pillow 12 and torchvision's arithmetic for the
    /// crop.
    #[test]
    fn resizes_as_pillow_does() {
        #[derive(Deserialize)]
        struct Case {
            width: usize,
            height: usize,
            rgb: Vec<u8>,
            size: ImageSize,
            interpolation: Interpolation,
            crop: Option<f32>,
            expected: Vec<u8>,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../fixtures/resize/pillow.json")).unwrap();
        assert!(cases.len() > 10);
        for Case {
            width,
            height,
            rgb,
            size,
            interpolation,
            crop,
            expected,
        } in cases
        {
            let preprocess = with(size, |input| {
                input.interpolation = interpolation;
                input.crop_pct = crop.unwrap_or(1.0);
                if crop.is_none() {
                    input.crop_mode = CropMode::Squash;
                }
            });
            let got = preprocess.resize(&Image { width, height, rgb }).unwrap();
            let worst = got
                .iter()
                .zip(&expected)
                .map(|(got, expected)| got.abs_diff(*expected))
                .max();
            let name = format!("{width} x {height} to {size}, {interpolation:?}, crop {crop:?}");
            assert_eq!(got.len(), expected.len(), "{name}");
            assert!(worst <= Some(1), "{name}: off by {worst:?} grey levels");
        }
    }

    #[test]
    fn fields_and_images_out_of_range_are_refused() {
        let black = image(2, 2, |_, _, _| 0);
        for (broken, field) in [
            (plain(0), "`img_size`"),
            (with(2, |input| input.std = [1.0, 0.0, 1.0]), "`std`"),
            (with(2, |input| input.mean = [f32::NAN; 3]), "`mean`"),
            (with(2, |input| input.crop_pct = 1.5), "`crop_pct`"),
        ] {
            let message = broken.to_vec(&black).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
        let short = plain(2).apply(&black, &mut [0.0; 11]).unwrap_err();
        assert_eq!(
            short.to_string(),
            "invalid `out`: expected 12 values (3 x 2 x 2), got 11"
        );
        let torn = Image {
            width: 2,
            height: 3,
            rgb: vec![0; 12],
        };
        let message = plain(2).to_vec(&torn).unwrap_err().to_string();
        assert!(message.contains("expected 3 x 2 x 3 values"), "{message}");
    }
}
