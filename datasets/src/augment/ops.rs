//! Operations on 8-bit RGB images with the exact values of Pillow's `ImageOps`, `ImageEnhance` and
//! `Image.transform`, and colour jitter with torchvision's draws.

use peft_core::data::Image;
use peft_core::input::Interpolation;
use peft_core::random::Generator;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::random::uniform;
use crate::error::Error;

/// An operation with its drawn parameters. A factor of 1 leaves the image as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(test, derive(serde::Deserialize))]
pub enum Op {
    /// Stretches each channel to the range 0 to 255.
    AutoContrast,
    /// Makes each channel's histogram flat.
    Equalize,
    /// The negative.
    Invert,
    /// Keeps this many leading bits.
    Posterize(u32),
    /// Inverts the values from this one on.
    Solarize(u32),
    /// Adds this to the values below 128.
    SolarizeAdd(u32),
    /// Changes the saturation; 0 gives grey.
    Color(f64),
    /// Changes the contrast; 0 gives the mean grey.
    Contrast(f64),
    /// Changes the brightness; 0 gives black.
    Brightness(f64),
    /// Changes the sharpness; 0 gives a smoothed image. The outermost pixels stay.
    Sharpness(f64),
    /// Turns the hue by this part of a circle, -0.5 to 0.5.
    Hue(f64),
    /// Turns counter-clockwise about the centre, in degrees.
    Rotate(f64, Interpolation),
    /// Moves each row by this many columns more than the one above.
    ShearX(f64, Interpolation),
    /// Moves each column by this many rows more than the one to its left.
    ShearY(f64, Interpolation),
    /// Moves left by this part of the width.
    TranslateXRel(f64, Interpolation),
    /// Moves up by this part of the height.
    TranslateYRel(f64, Interpolation),
}

impl Op {
    /// Changes the image in place; `fill` is the colour beyond its edge.
    ///
    /// `spare` holds a second image; it is reused from one operation to the next.
    pub(super) fn apply(&self, image: &mut Image, fill: [u8; 3], spare: &mut Vec<u8>) {
        let (width, height) = (image.width as f64, image.height as f64);
        match *self {
            Self::AutoContrast => by_channel(image, stretch),
            Self::Equalize => by_channel(image, flatten),
            Self::Invert => by_value(image, |v| 255 - v),
            Self::Posterize(bits) => {
                let mask = !(0xff_u32 >> bits.min(8)) as u8;
                by_value(image, |v| v & mask);
            }
            Self::Solarize(threshold) => {
                by_value(
                    image,
                    |v| if u32::from(v) < threshold { v } else { 255 - v },
                );
            }
            Self::SolarizeAdd(add) => by_value(image, |v| match v {
                0..128 => (u32::from(v) + add).min(255) as u8,
                _ => v,
            }),
            Self::Color(factor) => {
                for pixel in pixels_mut(image) {
                    let grey = luma(pixel);
                    *pixel = pixel.map(|v| blend(grey, v, factor as f32));
                }
            }
            Self::Contrast(factor) => {
                let (pixels, _) = image.rgb.as_chunks::<3>();
                let sum: u64 = pixels.iter().map(|pixel| u64::from(luma(pixel))).sum();
                let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
                by_value(image, |v| blend(mean, v, factor as f32));
            }
            Self::Brightness(factor) => by_value(image, |v| blend(0, v, factor as f32)),
            Self::Sharpness(factor) => sharpen(image, factor as f32, spare),
            Self::Hue(turn) => {
                // As torchvision casts the shift: truncated towards zero, then modulo 256.
                let turn = (turn * 255.0) as i32 as u8;
                pixels_mut(image).iter_mut().for_each(|pixel| {
                    let [h, s, v] = hsv(*pixel);
                    *pixel = rgb([h.wrapping_add(turn), s, v]);
                });
            }
            Self::Rotate(degrees, filter) => {
                affine(image, rotation(degrees, width, height), filter, fill, spare);
            }
            Self::ShearX(by, filter) => {
                affine(image, [1.0, by, 0.0, 0.0, 1.0, 0.0], filter, fill, spare);
            }
            Self::ShearY(by, filter) => {
                affine(image, [1.0, 0.0, 0.0, by, 1.0, 0.0], filter, fill, spare);
            }
            Self::TranslateXRel(part, filter) => {
                let matrix = [1.0, 0.0, part * width, 0.0, 1.0, 0.0];
                affine(image, matrix, filter, fill, spare);
            }
            Self::TranslateYRel(part, filter) => {
                let matrix = [1.0, 0.0, 0.0, 0.0, 1.0, part * height];
                affine(image, matrix, filter, fill, spare);
            }
        }
    }
}

/// Brightness, contrast, saturation and hue, in random order. A strength of 0 turns that one off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// The factor is uniform in `1 - brightness` (at least 0) to `1 + brightness`; at least 0.
    pub brightness: f64,
    /// The same for contrast.
    pub contrast: f64,
    /// The same for saturation.
    pub saturation: f64,
    /// The turn of the hue is uniform in `-hue` to `hue`, as a part of a circle; 0 to 0.5.
    pub hue: f64,
}

impl ColorJitter {
    pub(super) fn validate(&self) -> Result<(), Error> {
        for (field, strength) in [
            ("color_jitter.brightness", self.brightness),
            ("color_jitter.contrast", self.contrast),
            ("color_jitter.saturation", self.saturation),
        ] {
            let ok = strength >= 0.0 && strength.is_finite();
            Error::check(field, ok, "a finite number, at least 0", strength)?;
        }
        let ok = (0.0..=0.5).contains(&self.hue);
        Error::check("color_jitter.hue", ok, "0 to 0.5", self.hue)
    }

    pub(super) fn draw(&self, generator: &mut Generator, ops: &mut Vec<Op>) {
        let order = generator.permutation(4);
        let mut factor = |strength: f64| {
            let drawn = uniform(generator, (1.0 - strength).max(0.0), 1.0 + strength);
            (strength > 0.0).then_some(drawn)
        };
        let drawn = [
            factor(self.brightness).map(Op::Brightness),
            factor(self.contrast).map(Op::Contrast),
            factor(self.saturation).map(Op::Color),
            (self.hue > 0.0).then(|| Op::Hue(uniform(generator, -self.hue, self.hue))),
        ];
        ops.extend(order.into_iter().filter_map(|index| drawn[index]));
    }
}

fn pixels_mut(image: &mut Image) -> &mut [[u8; 3]] {
    image.rgb.as_chunks_mut::<3>().0
}

/// `Image.blend` of one value: truncated, not rounded, and clipped to 0 to 255.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let (from, to) = (f32::from(from), f32::from(to));
    (from + factor * (to - from)) as u8
}

/// Pillow's conversion to grey: ITU-R 601-2 in fixed point of 16 bits.
fn luma(&[r, g, b]: &[u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Maps all channels by one table.
fn by_value(image: &mut Image, map: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| map(v as u8));
    image
        .rgb
        .iter_mut()
        .for_each(|v| *v = table[usize::from(*v)]);
}

/// Maps each channel by a table made from its histogram; `None` leaves the channel as it is.
fn by_channel(image: &mut Image, table: fn(&[usize; 256]) -> Option<[u8; 256]>) {
    let mut counts = [[0; 256]; 3];
    for pixel in pixels_mut(image) {
        for (counts, v) in counts.iter_mut().zip(pixel) {
            counts[usize::from(*v)] += 1;
        }
    }
    let identity: [u8; 256] = std::array::from_fn(|v| v as u8);
    let tables = counts.map(|counts| table(&counts).unwrap_or(identity));
    for pixel in pixels_mut(image) {
        for (table, v) in tables.iter().zip(pixel) {
            *v = table[usize::from(*v)];
        }
    }
}

/// `ImageOps.autocontrast` without a cutoff.
fn stretch(counts: &[usize; 256]) -> Option<[u8; 256]> {
    let low = counts.iter().position(|count| *count > 0)?;
    let high = counts.iter().rposition(|count| *count > 0)?;
    // One single level cannot be stretched.
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    Some(std::array::from_fn(|v| (v as f64 * scale + offset) as u8))
}

/// `ImageOps.equalize`.
fn flatten(counts: &[usize; 256]) -> Option<[u8; 256]> {
    let last = counts.iter().rfind(|count| **count > 0)?;
    let step = (counts.iter().sum::<usize>() - last) / 255;
    if step == 0 {
        return None;
    }
    // Half a step ahead, which rounds to the nearest level.
    let mut below = step / 2;
    Some(std::array::from_fn(|v| {
        let level = (below / step).min(255) as u8;
        below += counts[v];
        level
    }))
}

/// A blend with `ImageFilter.SMOOTH`, the mean of nine pixels with five times the weight in the
/// middle. An image with fewer than three rows or columns stays, since no pixel of it has all its
/// neighbours.
fn sharpen(image: &mut Image, factor: f32, spare: &mut Vec<u8>) {
    const SIDE: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let row = 3 * image.width;
    spare.clone_from(&image.rgb);
    if image.width < 3 {
        return;
    }
    for (out, rows) in
        (image.rgb.chunks_exact_mut(row).skip(1)).zip(spare.windows(3 * row).step_by(row))
    {
        let (above, rest) = rows.split_at(row);
        let (here, below) = rest.split_at(row);
        for x in 3..row - 3 {
            let line = |line: &[u8], middle: f32| {
                f32::from(line[x - 3]) * SIDE
                    + f32::from(line[x]) * middle
                    + f32::from(line[x + 3]) * SIDE
            };
            // In the order of Pillow's sum, which rounding depends on.
            let smooth = 0.5 + line(below, SIDE) + line(here, MIDDLE) + line(above, SIDE);
            out[x] = blend(smooth as u8, here[x], factor);
        }
    }
}

/// Hue, saturation and value in grey levels, like Pillow's mode `HSV`, with its mix of floats and
/// doubles.
fn hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let saturation = range / f32::from(most);
    let [rc, gc, bc] = [r, g, b].map(|v| f32::from(most - v) / range);
    let hue = if r == most {
        bc - gc
    } else if g == most {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let hue = ((f64::from(hue) / 6.0 + 1.0) % 1.0) as f32;
    let levels = |part: f32| (f64::from(part) * 255.0) as u8;
    [levels(hue), levels(saturation), most]
}

/// From Pillow's mode `HSV` back to RGB.
fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixth = f64::from(hue) * 6.0 / 255.0;
    let part = (sixth - sixth.floor()) as f32;
    let saturation = (f64::from(saturation) / 255.0) as f32;
    let level = |loss: f64| (f64::from(value) * (1.0 - loss)).round() as u8;
    let p = level(f64::from(saturation));
    let q = level(f64::from(saturation * part));
    let t = level(f64::from(saturation) * (1.0 - f64::from(part)));
    match sixth as u8 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

/// The matrix of `Image.rotate`, which takes a pixel of the output to its place in the input.
fn rotation(degrees: f64, width: f64, height: f64) -> [f64; 6] {
    let angle = -degrees.rem_euclid(360.0).to_radians();
    // Pillow rounds to 15 decimals, so that right angles are exact.
    let [cos, sin] = [angle.cos(), angle.sin()].map(|v| (v * 1e15).round_ties_even() / 1e15);
    let (x, y) = (width / 2.0, height / 2.0);
    let left = cos * -x + sin * -y + x;
    let top = -sin * -x + cos * -y + y;
    [cos, sin, left, -sin, cos, top]
}

/// `Image.transform` by a matrix: not antialiased, truncated to whole grey levels, with `fill`
/// where the centre of a pixel comes from outside.
fn affine(
    image: &mut Image,
    [a, b, c, d, e, f]: [f64; 6],
    filter: Interpolation,
    fill: [u8; 3],
    spare: &mut Vec<u8>,
) {
    let (width, height) = (image.width, image.height);
    spare.clone_from(&image.rgb);
    // The image is its own target, so the values before the change are read from the copy.
    let (source, _) = spare.as_chunks::<3>();
    for (row, line) in pixels_mut(image).chunks_exact_mut(width).enumerate() {
        for (column, pixel) in line.iter_mut().enumerate() {
            let (x, y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (a * x + b * y + c, d * x + e * y + f);
            let inside = x >= 0.0 && x < width as f64 && y >= 0.0 && y < height as f64;
            *pixel = match (inside, filter) {
                (false, _) => fill,
                (true, Interpolation::Bilinear) => bilinear(source, width, height, x, y),
                (true, Interpolation::Bicubic) => bicubic(source, width, height, x, y),
            };
        }
    }
}

/// The index nearest to `at` in `0..side`.
fn clamp(at: isize, side: usize) -> usize {
    at.clamp(0, side as isize - 1) as usize
}

fn bilinear(source: &[[u8; 3]], width: usize, height: usize, x: f64, y: f64) -> [u8; 3] {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let columns = [0, 1].map(|i| clamp(left as isize + i, width));
    let rows = [0, 1].map(|i| clamp(top as isize + i, height) * width);
    std::array::from_fn(|channel| {
        let line = |v: [f64; 2], d: f64| v[0] + (v[1] - v[0]) * d;
        let across = rows.map(|row| {
            let values = columns.map(|column| f64::from(source[row + column][channel]));
            line(values, dx)
        });
        line(across, dy) as u8
    })
}

/// Cubic convolution with Pillow's a = -1 for transforms, unlike the -0.5 of its resize.
fn bicubic(source: &[[u8; 3]], width: usize, height: usize, x: f64, y: f64) -> [u8; 3] {
    let (x, y) = (x - 0.5, y - 0.5);
    let (left, top) = (x.floor(), y.floor());
    let (dx, dy) = (x - left, y - top);
    let columns = [-1, 0, 1, 2].map(|i| clamp(left as isize + i, width));
    let rows = [-1, 0, 1, 2].map(|i| clamp(top as isize + i, height) * width);
    std::array::from_fn(|channel| {
        let curve = |[v1, v2, v3, v4]: [f64; 4], d: f64| {
            let (p2, p3) = (-v1 + v3, 2.0 * (v1 - v2) + v3 - v4);
            v2 + d * (p2 + d * (p3 + d * (-v1 + v2 - v3 + v4)))
        };
        let across = rows.map(|row| {
            let values = columns.map(|column| f64::from(source[row + column][channel]));
            curve(values, dx)
        });
        curve(across, dy) as u8
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// `fixtures/scripts/augment.py` made these with Pillow 12.3, timm and torchvision.
    #[test]
    fn every_operation_is_pillows_to_the_value() {
        #[derive(Deserialize)]
        struct Case {
            width: usize,
            height: usize,
            rgb: Vec<u8>,
            fill: [u8; 3],
            results: Vec<(Op, Vec<u8>)>,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../../fixtures/augment/operations.json"))
                .unwrap();
        assert!(cases.iter().map(|case| case.results.len()).sum::<usize>() > 100);
        let mut spare = Vec::new();
        for case in cases {
            for (op, expected) in case.results {
                let mut image = Image {
                    width: case.width,
                    height: case.height,
                    rgb: case.rgb.clone(),
                };
                op.apply(&mut image, case.fill, &mut spare);
                let name = format!("{op:?} of {image:?}");
                assert_eq!(image.rgb, expected, "{name}");
            }
        }
    }
}
