//! Pictures of numbers: heat maps, alone or over an image, and prompts as images.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use peft_core::saliency::Heat;

use crate::exit::{Exit, Failure, failure};

/// The colours of matplotlib's viridis at nine equidistant places from the least value to the largest.
const VIRIDIS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 44, 122],
    [59, 81, 139],
    [44, 113, 142],
    [33, 144, 141],
    [39, 173, 129],
    [92, 200, 99],
    [170, 220, 50],
    [253, 231, 37],
];

/// The side to which small images are enlarged, in pixels.
pub const SIDE: u32 = 224;

/// The image of normalised values `[3, h, w]`, enlarged to at least [`SIDE`] pixels.
pub fn image(
    values: &[f32],
    [height, width]: [usize; 2],
    mean: [f32; 3],
    std: [f32; 3],
) -> RgbImage {
    let level = |channel: usize, at: usize| {
        let value = values[channel * height * width + at] * std[channel] + mean[channel];
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    };
    enlarged(&pixels([height, width], |at| {
        [level(0, at), level(1, at), level(2, at)]
    }))
}

/// A prompt `[3, h, w]` as an image: grey where nothing changes, and the largest change at the end of the scale.
pub fn prompt(values: &[f32], [height, width]: [usize; 2]) -> RgbImage {
    let largest = values
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let level = |channel: usize, at: usize| {
        let value = values[channel * height * width + at];
        (128.0 + value * scale).round().clamp(0.0, 255.0) as u8
    };
    enlarged(&pixels([height, width], |at| {
        [level(0, at), level(1, at), level(2, at)]
    }))
}

fn pixels([height, width]: [usize; 2], colour: impl Fn(usize) -> [u8; 3]) -> RgbImage {
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        Rgb(colour(y as usize * width + x as usize))
    })
}

/// Small images by repeating pixels, so that these can be seen.
fn enlarged(image: &RgbImage) -> RgbImage {
    let factor = SIDE
        .div_ceil(image.width().max(image.height()).max(1))
        .max(1);
    RgbImage::from_fn(image.width() * factor, image.height() * factor, |x, y| {
        *image.get_pixel(x / factor, y / factor)
    })
}

/// A heat map whose cells are squares.
pub fn heat(heat: &Heat) -> RgbImage {
    let scale = Scale::of(heat);
    let [rows, columns] = heat.grid;
    enlarged(&pixels([rows, columns], |at| {
        viridis(scale.place(heat.values[at]))
    }))
}

/// A heat map over an image, which is shown in grey below it; values between the positions are interpolated.
pub fn over(heat: &Heat, below: &RgbImage) -> RgbImage {
    let scale = Scale::of(heat);
    let (width, height) = below.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let value = heat_at(
            heat,
            (f64::from(y) + 0.5) / f64::from(height),
            (f64::from(x) + 0.5) / f64::from(width),
        );
        let Rgb([red, green, blue]) = *below.get_pixel(x, y);
        let grey = 0.299 * f32::from(red) + 0.587 * f32::from(green) + 0.114 * f32::from(blue);
        let colour = viridis(scale.place(value));
        Rgb(colour.map(|part| (0.55 * f32::from(part) + 0.45 * grey).round() as u8))
    })
}

/// The value at a place of the image, from 0 to 1 in each direction, between those of the nearest positions.
fn heat_at(heat: &Heat, down: f64, across: f64) -> f32 {
    let [rows, columns] = heat.grid;
    let between = |place: f64, count: usize| {
        let place = (place * count as f64 - 0.5).clamp(0.0, (count - 1) as f64);
        let first = place.floor() as usize;
        (
            first,
            (first + 1).min(count - 1),
            (place - first as f64) as f32,
        )
    };
    let (top, bottom, down) = between(down, rows);
    let (left, right, across) = between(across, columns);
    let at = |row: usize, column: usize| heat.values[row * columns + column];
    let line = |row| at(row, left) * (1.0 - across) + at(row, right) * across;
    line(top) * (1.0 - down) + line(bottom) * down
}

/// The least value of a map and the span to its largest.
struct Scale {
    least: f32,
    span: f32,
}

impl Scale {
    fn of(heat: &Heat) -> Self {
        let finite = heat
            .values
            .iter()
            .copied()
            .filter(|value| value.is_finite());
        let (least, largest) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), value| {
            (a.min(value), b.max(value))
        });
        Self {
            least,
            span: largest - least,
        }
    }

    /// The place of a value between the least and the largest, from 0 to 1; 0 in a map of one value.
    fn place(&self, value: f32) -> f32 {
        match self.span > 0.0 {
            true => ((value - self.least) / self.span).clamp(0.0, 1.0),
            false => 0.0,
        }
    }
}

/// The colour of a place from 0 to 1.
fn viridis(place: f32) -> [u8; 3] {
    let place = place * (VIRIDIS.len() - 1) as f32;
    let first = (place as usize).min(VIRIDIS.len() - 2);
    let share = place - first as f32;
    std::array::from_fn(|part| {
        let [low, high] = [VIRIDIS[first][part], VIRIDIS[first + 1][part]].map(f32::from);
        (low + share * (high - low)).round() as u8
    })
}

/// Pictures beside each other, in rows of `columns`.
pub fn sheet(pictures: &[RgbImage], columns: usize) -> RgbImage {
    const MARGIN: u32 = 6;
    let width = pictures.iter().map(RgbImage::width).max().unwrap_or(1);
    let height = pictures.iter().map(RgbImage::height).max().unwrap_or(1);
    let columns = columns.min(pictures.len()).max(1);
    let rows = pictures.len().div_ceil(columns).max(1);
    let mut sheet = RgbImage::from_pixel(
        columns as u32 * (width + MARGIN) - MARGIN,
        rows as u32 * (height + MARGIN) - MARGIN,
        Rgb([255; 3]),
    );
    for (place, picture) in pictures.iter().enumerate() {
        let (row, column) = (place / columns, place % columns);
        let left = column as u32 * (width + MARGIN);
        let top = row as u32 * (height + MARGIN);
        image::imageops::replace(&mut sheet, picture, i64::from(left), i64::from(top));
    }
    sheet
}

/// The bytes of a PNG.
///
/// # Errors
/// If there is no memory for it.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>, Failure> {
    let mut png = Cursor::new(Vec::new());
    let written = picture.write_to(&mut png, ImageFormat::Png);
    written.map_err(|e| failure(Exit::Unexpected, e))?;
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_is_interpolated_between_positions_and_ends_at_the_ends_of_the_scale() {
        let map = Heat {
            grid: [1, 2],
            values: vec![1.0, 3.0],
        };
        assert_eq!(heat_at(&map, 0.5, 0.0), 1.0);
        assert_eq!(heat_at(&map, 0.5, 0.5), 2.0);
        assert_eq!(heat_at(&map, 0.5, 1.0), 3.0);
        let picture = heat(&map);
        assert_eq!(picture.dimensions(), (SIDE, SIDE / 2));
        assert_eq!(picture.get_pixel(0, 0).0, VIRIDIS[0]);
        assert_eq!(picture.get_pixel(SIDE - 1, 0).0, VIRIDIS[8]);
    }

    #[test]
    fn a_prompt_is_grey_where_nothing_changes() {
        let picture = prompt(&[0.0, 0.5, -0.5, 0.0, 0.0, 0.0], [1, 2]);
        assert_eq!(picture.get_pixel(0, 0).0, [128, 1, 128]);
        assert_eq!(picture.get_pixel(SIDE - 1, 0).0, [255, 128, 128]);
        assert_eq!(prompt(&[0.0; 3], [1, 1]).get_pixel(0, 0).0, [128; 3]);
    }
}
