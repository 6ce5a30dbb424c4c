//! From an 8-bit image to a backbone's input: resize, crop, normalise, as timm and torchvision do
//! with Pillow images.

use fast_image_resize::images::{Image as Target, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use peft_core::backbone::{InputSpec, Interpolation};
use peft_core::data::Image;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// How an image becomes the input of a backbone.
///
/// An image that already has the target size is not resampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Side of the square output, in pixels: 1..=4096.
    #[schemars(range(min = 1, max = 4096))]
    pub size: usize,
    /// Mean of each channel (red, green, blue) that is subtracted, on the scale where white is 1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel that is divided by, on the scale where white is 1: above
    /// 0.
    pub std: [f32; 3],
    /// Filter of the resize.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// Part of the shorter side that is kept, in (0, 1]: the shorter side is resized to `floor(size
    /// / crop)` pixels and the centre is cut out. Without it the whole image is resized to a
    /// square, whatever its aspect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<f32>,
}

impl Preprocess {
    /// What a backbone's input needs: the whole image, without a crop.
    pub fn new(input: &InputSpec) -> Self {
        let InputSpec {
            size,
            mean,
            std,
            interpolation,
        } = *input;
        Self {
            size,
            mean,
            std,
            interpolation,
            crop: None,
        }
    }

    /// Checks every field's range.
    pub fn validate(&self) -> Result<(), Error> {
        let invalid = |field, expected: &str, got| {
            Err(Error::Invalid {
                field,
                expected: expected.into(),
                got,
            })
        };
        if !(1..=4096).contains(&self.size) {
            return invalid("size", "1 to 4096 pixels", self.size.to_string());
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return invalid("mean", "three finite numbers", format!("{:?}", self.mean));
        }
        if !self.std.iter().all(|std| std.is_finite() && *std > 0.0) {
            return invalid(
                "std",
                "three finite numbers above 0",
                format!("{:?}", self.std),
            );
        }
        match self.crop {
            Some(crop) if !(crop > 0.0 && crop <= 1.0) => {
                invalid("crop", "a number above 0 and at most 1", crop.to_string())
            }
            _ => Ok(()),
        }
    }

    /// Values that [`apply`](Self::apply) writes: `3 * size * size`.
    pub fn values(&self) -> usize {
        3 * self.size * self.size
    }

    /// Writes `(x / 255 - mean) / std` of the resized image into `out`.
    ///
    /// # Shapes
    /// - image: `[height, width, 3]`, grey levels
    /// - out: `[3, size, size]`
    pub fn apply(&self, image: &Image, out: &mut [f32]) -> Result<(), Error> {
        self.validate()?;
        if out.len() != self.values() {
            let expected = format!(
                "{} values (3 x {} x {})",
                self.values(),
                self.size,
                self.size
            );
            return Err(Error::Invalid {
                field: "out",
                expected,
                got: out.len().to_string(),
            });
        }
        let (width, height, values) = (image.width, image.height, image.rgb.len());
        if values == 0
            || width
                .checked_mul(height)
                .and_then(|pixels| pixels.checked_mul(3))
                != Some(values)
        {
            let expected = format!("3 x {width} x {height} values, at least one pixel");
            return Err(Error::Invalid {
                field: "image",
                expected,
                got: values.to_string(),
            });
        }
        if (width, height) == (self.size, self.size) && self.window(image).is_whole(image) {
            self.normalise(&image.rgb, out);
        } else {
            self.normalise(&self.resize(image)?, out);
        }
        Ok(())
    }

    /// [`apply`](Self::apply) into a new vector, `[3, size, size]`.
    pub fn to_vec(&self, image: &Image) -> Result<Vec<f32>, Error> {
        self.validate()?;
        let mut out = vec![0.0; self.values()];
        self.apply(image, &mut out)?;
        Ok(out)
    }

    /// The resized and cropped image, `[size, size, 3]`.
    ///
    /// Columns first, then rows, rounded to grey levels between: the order of Pillow 12.3. It shows
    /// where a cubic overshoots; Pillow 13.0 takes rows first for some sizes.
    fn resize(&self, image: &Image) -> Result<Vec<u8>, Error> {
        let filter = match self.interpolation {
            Interpolation::Bilinear => FilterType::Bilinear,
            Interpolation::Bicubic => FilterType::CatmullRom,
        };
        let Window {
            left,
            top,
            width,
            height,
        } = self.window(image);
        let (size, rows) = (self.size, image.height as f64);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        let narrow = resample(
            image,
            (size, image.height),
            &options.crop(left, 0.0, width, rows),
        )?;
        Ok(resample(
            &narrow,
            (size, size),
            &options.crop(0.0, top, size as f64, height),
        )?
        .rgb)
    }

    /// The part of the image that becomes the output. Resampling it straight to the output equals
    /// resizing the whole image and cropping afterwards, and costs nothing for what is cut away.
    fn window(&self, image: &Image) -> Window {
        let (width, height) = (image.width as f64, image.height as f64);
        let Some(crop) = self.crop else {
            return Window {
                left: 0.0,
                top: 0.0,
                width,
                height,
            };
        };
        // The decimal that was written, so that 224 / 0.8 is 280, as in Python, and not 279.999996.
        let crop = (f64::from(crop) * 1e6).round() / 1e6;
        let shorter = (self.size as f64 / crop).floor();
        let resized = |side: f64| (shorter * side / width.min(height)).floor();
        let across = |side: f64| {
            let scale = side / resized(side);
            let start = ((resized(side) - self.size as f64) / 2.0).round_ties_even() * scale;
            (start, (self.size as f64 * scale).min(side - start))
        };
        let ((left, width), (top, height)) = (across(width), across(height));
        Window {
            left,
            top,
            width,
            height,
        }
    }

    /// `[size, size, 3]` grey levels to `[3, size, size]` normalised values.
    fn normalise(&self, rgb: &[u8], out: &mut [f32]) {
        for (channel, plane) in out.chunks_exact_mut(self.size * self.size).enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            for (value, pixel) in plane.iter_mut().zip(rgb.chunks_exact(3)) {
                *value = (f32::from(pixel[channel]) / 255.0 - mean) / std;
            }
        }
    }
}

/// One pass of the resize, to `(width, height)` pixels.
fn resample(
    image: &Image,
    (width, height): (usize, usize),
    options: &ResizeOptions,
) -> Result<Image, Error> {
    let refuse = |error: &dyn std::fmt::Display| Error::Invalid {
        field: "image",
        expected: "one that can be resized".into(),
        got: format!("{} x {} pixels ({error})", image.width, image.height),
    };
    let side = |pixels: usize| u32::try_from(pixels).map_err(|error| refuse(&error));
    let source = ImageRef::new(
        side(image.width)?,
        side(image.height)?,
        &image.rgb,
        PixelType::U8x3,
    )
    .map_err(|error| refuse(&error))?;
    let mut target = Target::new(side(width)?, side(height)?, PixelType::U8x3);
    Resizer::new()
        .resize(&source, &mut target, options)
        .map_err(|error| refuse(&error))?;
    Ok(Image {
        width,
        height,
        rgb: target.into_vec(),
    })
}

/// A rectangle of the source image, in its pixels.
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
    use super::*;

    fn plain(size: usize) -> Preprocess {
        Preprocess {
            size,
            mean: [0.0; 3],
            std: [1.0; 3],
            interpolation: Interpolation::Bilinear,
            crop: None,
        }
    }

    fn image(width: usize, height: usize, value: impl Fn(usize, usize, usize) -> u8) -> Image {
        let rgb = (0..height * width * 3)
            .map(|i| value(i / 3 % width, i / 3 / width, i % 3))
            .collect();
        Image { width, height, rgb }
    }

    #[test]
    fn normalises_into_planes_without_touching_an_image_of_the_right_size() {
        let preprocess = Preprocess {
            mean: [0.0, 0.5, 1.0],
            std: [1.0, 0.5, 0.25],
            ..plain(2)
        };
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
            let window = Preprocess {
                crop: Some(crop),
                ..plain(size)
            }
            .window(&image(side, side, |_, _, _| 0));
            assert_eq!(
                (window.left, window.width),
                (expected, size as f64),
                "{size} / {crop}"
            );
        }
        // 30 x 20 to a shorter side of 10: 15 x 10, of which python's round(2.5) = 2 columns go at
        // the left.
        let window = Preprocess {
            crop: Some(1.0),
            ..plain(10)
        }
        .window(&image(30, 20, |_, _, _| 0));
        assert_eq!(
            [window.left, window.top, window.width, window.height],
            [4.0, 0.0, 20.0, 20.0]
        );
    }

    #[test]
    fn a_sliver_of_an_image_costs_no_more_than_its_window() {
        let sliver = image(30_000, 1, |_, _, _| 9);
        let got = Preprocess {
            crop: Some(0.9),
            ..plain(224)
        }
        .to_vec(&sliver)
        .unwrap();
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
            size: usize,
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
            let preprocess = Preprocess {
                interpolation,
                crop,
                ..plain(size)
            };
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
    fn refuses_what_is_out_of_range() {
        let black = image(2, 2, |_, _, _| 0);
        for (broken, field) in [
            (plain(0), "`size`"),
            (
                Preprocess {
                    std: [1.0, 0.0, 1.0],
                    ..plain(2)
                },
                "`std`",
            ),
            (
                Preprocess {
                    mean: [f32::NAN; 3],
                    ..plain(2)
                },
                "`mean`",
            ),
            (
                Preprocess {
                    crop: Some(1.5),
                    ..plain(2)
                },
                "`crop`",
            ),
        ] {
            let message = broken.to_vec(&black).unwrap_err().to_string();
            assert!(message.contains(field), "{message}");
        }
        assert!(plain(2).apply(&black, &mut [0.0; 11]).is_err());
        assert!(
            plain(2)
                .to_vec(&Image {
                    width: 2,
                    height: 3,
                    rgb: vec![0; 12]
                })
                .is_err()
        );
        let unknown = serde_json::from_str::<Preprocess>(
            r#"{"size": 2, "mean": [0,0,0], "std": [1,1,1], "colour": 1}"#,
        );
        assert!(unknown.is_err());
    }
}
