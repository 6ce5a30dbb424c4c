//! A contact sheet: images as they are, beside what a backbone sees, with their classes.

use std::io::Cursor;

use font8x8::UnicodeFonts;
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use peft_core::data::{Dataset, Image, Split};
use peft_datasets::Preprocess;

use super::check::named;
use crate::exit::{At, Exit, Failure, config_error, failure};

/// Width and height of a picture, in pixels.
const PICTURE: u32 = 112;
/// Width and height of a letter, in pixels.
const LETTER: u32 = 8;
/// Pixels around a cell.
const MARGIN: u32 = 6;
const COLUMNS: u32 = 4;
const BACKGROUND: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb<u8> = Rgb([32; 3]);

/// Paints the images at `indices` of a split, in rows of four, as a PNG.
///
/// # Errors
/// If an image cannot be read.
pub fn paint(
    dataset: &dyn Dataset,
    split: Split,
    indices: &[usize],
    preprocess: &Preprocess,
) -> Result<Vec<u8>, Failure> {
    let (width, height) = (2 * PICTURE + MARGIN, PICTURE + LETTER + 2);
    let rows = (indices.len() as u32).div_ceil(COLUMNS).max(1);
    let mut sheet = RgbImage::from_pixel(
        COLUMNS * (width + 2 * MARGIN) + MARGIN,
        rows * (height + MARGIN) + MARGIN,
        BACKGROUND,
    );
    for (place, &index) in indices.iter().enumerate() {
        let at = format!("{split} image {index}");
        let image = dataset.image(split, index).at(&at)?;
        let labels = dataset.labels(split, index).at(&at)?;
        let place = place as u32;
        let left = MARGIN + place % COLUMNS * (width + 2 * MARGIN);
        let top = MARGIN + place / COLUMNS * (height + MARGIN);
        paste(&mut sheet, &picture(&image)?, [left, top]);
        let seen = picture(&seen(&image, preprocess)?)?;
        paste(&mut sheet, &seen, [left + PICTURE + MARGIN, top]);
        let class = named(dataset, &labels);
        write(
            &mut sheet,
            &class,
            [left, top + PICTURE + 2],
            width / LETTER,
        );
    }
    let mut png = Cursor::new(Vec::new());
    let written = sheet.write_to(&mut png, ImageFormat::Png);
    written.map_err(|e| failure(Exit::Unexpected, e))?;
    Ok(png.into_inner())
}

/// The image that the backbone gets, with the normalisation undone.
fn seen(image: &Image, preprocess: &Preprocess) -> Result<Image, Failure> {
    let input = preprocess.input;
    let values = preprocess.to_vec(image).map_err(config_error)?;
    let plane = input.size.pixels();
    let level = |i: usize| {
        let (pixel, channel) = (i / 3, i % 3);
        let value = values[channel * plane + pixel] * input.std[channel] + input.mean[channel];
        (value * 255.0).round().clamp(0.0, 255.0) as u8
    };
    Ok(Image {
        width: input.size.width,
        height: input.size.height,
        rgb: (0..3 * plane).map(level).collect(),
    })
}

/// An image scaled to a square box without changing its aspect: small ones by repeating pixels, so that
/// these can be seen, large ones with a filter.
fn picture(image: &Image) -> Result<RgbImage, Failure> {
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let (width, height) = (side(image.width), side(image.height));
    let own = RgbImage::from_raw(width, height, image.rgb.clone());
    let own = own.ok_or_else(|| {
        failure(
            Exit::Unexpected,
            "the pixels of an image are not as many as its sides say",
        )
    })?;
    let scale = f64::from(PICTURE) / f64::from(width.max(height).max(1));
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let filter = if scale >= 1.0 {
        FilterType::Nearest
    } else {
        FilterType::Triangle
    };
    Ok(imageops::resize(
        &own,
        scaled(width),
        scaled(height),
        filter,
    ))
}

/// Pastes a picture into the middle of the box whose corner is at `left`, `top`.
fn paste(sheet: &mut RgbImage, picture: &RgbImage, [left, top]: [u32; 2]) {
    let x = left + PICTURE.saturating_sub(picture.width()) / 2;
    let y = top + PICTURE.saturating_sub(picture.height()) / 2;
    imageops::replace(sheet, picture, i64::from(x), i64::from(y));
}

/// Writes at most `letters` letters; those that the font lacks become question marks.
fn write(sheet: &mut RgbImage, text: &str, [left, top]: [u32; 2], letters: u32) {
    for (place, letter) in (0..letters).zip(text.chars()) {
        let glyph = font8x8::BASIC_FONTS.get(letter);
        let glyph = glyph.or_else(|| font8x8::LATIN_FONTS.get(letter));
        let Some(glyph) = glyph.or_else(|| font8x8::BASIC_FONTS.get('?')) else {
            continue;
        };
        for (y, row) in (0..LETTER).zip(glyph) {
            for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                sheet.put_pixel(left + place * LETTER + x, top + y, INK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use peft_core::DatasetConfig;
    use peft_core::input::{CropMode, InputSpec, Interpolation};

    use super::*;

    #[test]
    fn a_sheet_holds_each_image_twice() {
        let config: Box<dyn DatasetConfig> = serde_yaml::from_str("name: digits").unwrap();
        let dataset = config.open().unwrap();
        let preprocess = Preprocess::new(&InputSpec {
            size: 28.into(),
            mean: [0.5; 3],
            std: [0.25; 3],
            interpolation: Interpolation::Bilinear,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
        });
        let png = paint(&*dataset, Split::Test, &[0, 5, 7, 9, 11], &preprocess).unwrap();
        let sheet = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(sheet.dimensions(), (4 * 242 + 6, 2 * 128 + 6));
        // Eight columns of pixels become 14 pixels each, and the backbone's 28 become 4.
        let sample = dataset.sample(Split::Test, 5).unwrap().image;
        let own = |x: usize, y: usize| sample.rgb[3 * (y * sample.width + x)];
        let at = |x: u32, y: u32| sheet.get_pixel(242 + 6 + x, 6 + y).0[0];
        assert_eq!(at(3 * 14 + 5, 2 * 14 + 7), own(3, 2));
        let ink = sheet.pixels().filter(|pixel| **pixel == INK).count();
        assert!(ink > 50, "the labels are {ink} pixels");
    }
}
