//! Decodes images to 8-bit RGB like torchvision's `pil_loader`, that is, like Pillow's
//! `convert("RGB")`.
//!
//! The values equal Pillow's, except for jpeg, which leaves rounding and the interpolation of
//! colour to the decoder: there 98 % of the values are equal, or 75 % where the colour is
//! subsampled, and nearly all others differ by at most 2 grey levels.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use memchr::memchr;
use peft_core::data::Image;

use crate::error::Error;
use crate::storage::{Around, Exif, Header, is_tiff};
use crate::tiff;

/// The most pixels in an image: Pillow refuses more as a decompression bomb.
const MAX_PIXELS: u64 = 2 * 89_478_485;
/// The most memory that a decoder may take, in bytes: as many pixels with four 16-bit channels.
const MAX_BYTES: u64 = 8 * MAX_PIXELS;

/// Reads a png, jpeg, webp, bmp, gif, pnm or tiff file. The format is detected from the content and not
/// from the name.
///
/// The conversion follows Pillow: grey is repeated over the channels, palettes are looked up, CMYK
/// is multiplied out, alpha is dropped without blending, and 16-bit channels keep their high byte,
/// except that deeper grey without alpha is clipped at 255. EXIF orientation is not applied, except
/// to a tiff, which Pillow turns when it reads it. An animation gives its first frame. Images with more than 178,956,970 pixels are refused before
/// they are decoded.
///
/// # Errors
/// A file that cannot be read or is not a complete image, with its path and what it holds instead.
pub fn decode(path: impl AsRef<Path>) -> Result<Image, Error> {
    let path = path.as_ref();
    let bytes = fs_err::read(path)?;
    decode_bytes(&bytes, Exif::Ignore).map_err(|got| Error::Decode {
        image: format!("`{}`", path.display()),
        got,
    })
}

/// The image in `bytes`, turned as `exif` says, or else what they hold.
pub(crate) fn decode_bytes(bytes: &[u8], exif: Exif) -> Result<Image, String> {
    if bytes.is_empty() {
        return Err("an empty file".into());
    }
    let header = Header::of(bytes);
    if is_tiff(bytes) {
        let page = tiff::decode(bytes, MAX_PIXELS, MAX_BYTES)?;
        return from_decoded(turned(page.into(), &header, exif), None);
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    match reader.format() {
        None => return Err(format!("{} bytes in an unknown format", bytes.len())),
        Some(ImageFormat::Jpeg) if !jpeg_is_complete(bytes) => {
            return Err("a jpeg that ends before its end marker".into());
        }
        Some(_) => {}
    }
    // The default limits are below Pillow's, and would refuse images that it reads.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let failed = |error| match error {
        ImageError::Limits(error) => format!("an image beyond the limits ({error})"),
        error => format!("a damaged or unsupported image ({error})"),
    };
    let decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "an image beyond the limits ({width} x {height}, more than {MAX_PIXELS} pixels)"
        ));
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let mut image = from_decoded(turned(decoded, &header, exif), header.white())?;
    if let Some(around) = header.around() {
        fill(&mut image, around);
    }
    Ok(image)
}

/// Paints what the first frame of a gif leaves empty. (A gif has no orientation.)
fn fill(image: &mut Image, around: &Around) {
    let Around {
        columns,
        rows,
        colour,
    } = around;
    for (place, pixel) in image.rgb.chunks_exact_mut(3).enumerate() {
        let (x, y) = (place % image.width, place / image.width);
        if !columns.contains(&x) || !rows.contains(&y) {
            pixel.copy_from_slice(colour);
        }
    }
}

/// The image, turned upright if that is what `exif` says.
fn turned(mut decoded: DynamicImage, header: &Header, exif: Exif) -> DynamicImage {
    if let Some(turn) = header.turn(exif) {
        decoded.apply_orientation(turn);
    }
    decoded
}

/// `white` is the largest value of a pnm, which the decoder has spread over all that a sample can hold.
fn from_decoded(decoded: DynamicImage, white: Option<u16>) -> Result<Image, String> {
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let high_byte = |value: u16| (value >> 8) as u8;
    let rgb = match (decoded, white) {
        (DynamicImage::ImageLuma8(grey), Some(white)) if white < 255 => {
            let levels = grey.iter().map(|&value| spread(value.into(), 255, white));
            levels.flat_map(|level| [level; 3]).collect()
        }
        (DynamicImage::ImageRgb8(rgb), Some(white)) if white < 255 => {
            let levels = rgb.iter().map(|&value| spread(value.into(), 255, white));
            levels.collect()
        }
        (DynamicImage::ImageRgb16(rgb), Some(white)) => {
            let levels = rgb.iter().map(|&value| spread(value, u16::MAX, white));
            levels.collect()
        }
        (DynamicImage::ImageRgb8(rgb), _) => rgb.into_raw(),
        (DynamicImage::ImageLuma16(grey), _) => grey
            .iter()
            .flat_map(|&value| [value.min(255) as u8; 3])
            .collect(),
        (DynamicImage::ImageLumaA16(grey), _) => grey
            .pixels()
            .flat_map(|pixel| [high_byte(pixel.0[0]); 3])
            .collect(),
        (DynamicImage::ImageRgb16(rgb), _) => rgb.iter().map(|&value| high_byte(value)).collect(),
        (DynamicImage::ImageRgba16(rgba), _) => rgba
            .pixels()
            .flat_map(|pixel| [0, 1, 2].map(|channel| high_byte(pixel.0[channel])))
            .collect(),
        (other, _) => other.into_rgb8().into_raw(),
    };
    Ok(Image { width, height, rgb })
}

/// The level of a pnm's sample that the decoder has spread from 0 to `white` over 0 to `most`: as
/// Pillow spreads it over 0 to 255, with halves rounded to even.
fn spread(value: u16, most: u16, white: u16) -> u8 {
    let own = (f64::from(value) * f64::from(white) / f64::from(most)).round();
    (own / f64::from(white) * 255.0).round_ties_even() as u8
}

/// Whether a jpeg reaches its end marker. The decoder fills the missing part of a truncated file
/// with grey, where Pillow refuses it.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const END: u8 = 0xD9;
    let mut at = 2; // past the start marker
    // Between markers lies entropy-coded data, most of the file.
    while let Some(skipped) = bytes.get(at..).and_then(|rest| memchr(0xFF, rest)) {
        at += skipped;
        match bytes.get(at + 1..) {
            Some(&[END, ..]) => return true,
            // Padding before a marker.
            Some(&[0xFF, ..]) => at += 1,
            // A stuffed zero, TEM and the restart markers have no segment.
            Some(&[0x00 | 0x01 | 0xD0..=0xD7, ..]) => at += 2,
            // Every other marker gives the length of its segment, in which 0xFF means nothing.
            Some(&[_, high, low, ..]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, save_buffer};
    use tempfile::TempDir;

    use super::*;

    /// Writes `values` as `name` into a temporary folder and decodes the file.
    fn round_trip(name: &str, values: &[u8], size: (u32, u32), color: ExtendedColorType) -> Image {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        save_buffer(&path, values, size.0, size.1, color).unwrap();
        decode(path).unwrap()
    }

    fn sixteen(values: &[u16]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect()
    }

    fn error_of(content: &[u8]) -> String {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("broken.png");
        fs_err::write(&path, content).unwrap();
        let message = decode(&path).unwrap_err().to_string();
        assert!(message.contains("broken.png"), "{message}");
        message
    }

    /// A 32 x 32 gradient in the given format.
    fn encoded(format: ImageFormat) -> Vec<u8> {
        let gradient =
            image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([8 * x as u8, 8 * y as u8, 100]));
        let mut bytes = Cursor::new(Vec::new());
        gradient.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn lossless_rgb_comes_back_as_written() {
        let values: Vec<u8> = (0..18).map(|i| i * 14).collect();
        for name in ["a.png", "a.bmp", "a.webp"] {
            let image = round_trip(name, &values, (3, 2), ExtendedColorType::Rgb8);
            assert_eq!(
                (image.width, image.height, &image.rgb),
                (3, 2, &values),
                "{name}"
            );
        }
    }

    #[test]
    fn other_colour_types_become_rgb_as_in_pillow() {
        use ExtendedColorType::*;
        let grey = round_trip("a.png", &[0, 200], (2, 1), L8);
        assert_eq!(grey.rgb, [0, 0, 0, 200, 200, 200]);
        let alpha = round_trip("a.png", &[10, 20, 30, 0], (1, 1), Rgba8);
        assert_eq!(alpha.rgb, [10, 20, 30], "alpha is dropped, not blended");
        let deep = round_trip("a.png", &sixteen(&[0x00FF, 0x8000, 0xFFFF]), (1, 1), Rgb16);
        assert_eq!(
            deep.rgb,
            [0, 128, 255],
            "the high byte, not the rounded one"
        );
        let deep_grey = round_trip("a.png", &sixteen(&[7, 300]), (2, 1), L16);
        assert_eq!(deep_grey.rgb, [7, 7, 7, 255, 255, 255], "clipped");
    }

    /// `fixtures/scripts/data.py` made these with Pillow 13 and torchvision's loader.
    ///
    /// Two jpeg decoders differ by up to 2 grey levels in rounding, and by up to 3 where the colour
    /// is subsampled. Everything else is exact.
    #[test]
    fn images_are_those_of_torchvisions_loader() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data");
        let file = fs_err::read(format!("{folder}/images.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert!(all.len() > 30);
        for (name, expected) in all.iter() {
            let image = decode(format!("{folder}/images/{name}")).unwrap();
            assert_eq!(expected.shape(), [image.height, image.width, 3], "{name}");
            let pairs = image.rgb.iter().zip(expected.data());
            let worst = pairs
                .map(|(got, expected)| got.abs_diff(*expected))
                .max()
                .unwrap();
            let allowed = if name.ends_with(".jpg") { 3 } else { 0 };
            assert!(worst <= allowed, "{name}: off by {worst} grey levels");
        }
    }

    /// `fixtures/scripts/data_kinds.py` made these with Pillow 13 and the datasets library 5.2.
    #[test]
    fn every_kind_is_read_as_by_pillow_and_turned_as_by_the_datasets_library() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data");
        let file = fs_err::read(format!("{folder}/kinds.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert!(all.len() > 60);
        for (name, expected) in all.iter() {
            let (name, exif) = match name.strip_suffix(".upright") {
                Some(name) => (name, Exif::Apply),
                None => (name, Exif::Ignore),
            };
            let bytes = fs_err::read(format!("{folder}/kinds/{name}")).unwrap();
            let image = decode_bytes(&bytes, exif).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(expected.shape(), [image.height, image.width, 3], "{name}");
            let pairs = image.rgb.iter().zip(expected.data());
            let off = pairs.map(|(got, expected)| got.abs_diff(*expected));
            let allowed = if name.ends_with(".jpg") { 3 } else { 0 };
            assert!(off.max() <= Some(allowed), "{name} with {exif:?}");
        }
    }

    /// `fixtures/scripts/image_kinds.py` made these with Pillow 13 and tifffile.
    #[test]
    fn rare_kinds_are_read_as_by_pillow() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data");
        let file = fs_err::read(format!("{folder}/image_kinds.safetensors")).unwrap();
        let all = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert!(all.len() > 40);
        for (name, expected) in all.iter() {
            let image = decode(format!("{folder}/image_kinds/{name}"));
            let image = image.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(expected.shape(), [image.height, image.width, 3], "{name}");
            let pairs = image.rgb.iter().zip(expected.data());
            let off = pairs.map(|(got, expected)| got.abs_diff(*expected)).max();
            // Two jpeg decoders differ, within a tiff as well.
            let allowed = if name.contains("jpeg") { 3 } else { 0 };
            assert!(off <= Some(allowed), "{name}: off by {off:?}");
        }
    }

    /// The same script made these; Pillow refuses most of them too.
    #[test]
    fn kinds_that_are_not_read_are_named() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fixtures/data/image_refused"
        );
        for (name, part) in [
            ("rgb_float.tif", "a tiff of floating-point values (RGB(32))"),
            (
                "grey_double.tif",
                "a tiff of floating-point values (Gray(64))",
            ),
            ("lab.tif", "Lab(8)"),
            ("bands.tif", "Multiband"),
            ("zstd.tif", "a damaged or unsupported tiff"),
            ("cut.tif", "a damaged or unsupported tiff"),
        ] {
            let message = decode(format!("{folder}/{name}")).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_jpeg_is_close_to_what_was_encoded() {
        let image = decode_bytes(&encoded(ImageFormat::Jpeg), Exif::Ignore).unwrap();
        let pixel = &image.rgb[3 * (16 * 32 + 8)..][..3];
        for (got, expected) in pixel.iter().zip([64u8, 128, 100]) {
            assert!(got.abs_diff(expected) <= 8, "{pixel:?}");
        }
    }

    #[test]
    fn incomplete_and_foreign_files_are_refused_by_name() {
        assert!(error_of(b"").contains("an empty file"));
        assert!(
            error_of(b"not an image, but long enough").contains("29 bytes in an unknown format")
        );
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::WebP,
            ImageFormat::Bmp,
        ] {
            let whole = encoded(format);
            assert!(decode_bytes(&whole, Exif::Ignore).is_ok(), "{format:?}");
            for keep in [1, 10, whole.len() / 2, whole.len() * 9 / 10] {
                error_of(&whole[..keep]);
            }
        }
        let missing = decode("/nowhere/at/all.png").unwrap_err().to_string();
        assert!(missing.contains("/nowhere/at/all.png"), "{missing}");
    }

    #[test]
    fn a_decompression_bomb_is_refused_by_its_header() {
        let mut bomb = encoded(ImageFormat::Bmp);
        bomb[18..22].copy_from_slice(&30_000u32.to_le_bytes()); // width
        bomb[22..26].copy_from_slice(&30_000u32.to_le_bytes()); // height
        let message = error_of(&bomb);
        assert!(message.contains("beyond the limits"), "{message}");
    }
}
