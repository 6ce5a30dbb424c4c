//! Decodes the first page of a tiff as Pillow's `convert("RGB")` does.
//!
//! The `tiff` crate decompresses; what the samples mean is decided here, because it lacks palettes,
//! greys of 2 and 4 bits or beside alpha, and rounds the product of CMYK otherwise. Deep greys are
//! cut off at 255 and deep colours keep their high byte, as in Pillow.

use std::io::Cursor;

use image::RgbImage;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use crate::orientation::Directory;

/// `PhotometricInterpretation`: white is 0, black is 0, and an index into a palette.
const WHITE_IS_ZERO: u16 = 0;
const BLACK_IS_ZERO: u16 = 1;
const PALETTE: u16 = 3;

/// The first page of `bytes`, as it is stored. A page beyond `max_pixels`, or whose decoding takes
/// more than `max_bytes`, is refused before it is decoded.
pub(crate) fn decode(bytes: &[u8], max_pixels: u64, max_bytes: u64) -> Result<RgbImage, String> {
    let failed = |error: tiff::TiffError| format!("a damaged or unsupported tiff ({error})");
    let mut file = Decoder::new(Cursor::new(bytes)).map_err(failed)?;
    let photometric: u16 = file
        .get_tag_unsigned(Tag::PhotometricInterpretation)
        .map_err(failed)?;
    let palette = match photometric {
        PALETTE => Some(file.get_tag_u16_vec(Tag::ColorMap).map_err(failed)?),
        _ => None,
    };
    let extra: Option<Vec<u16>> = file
        .find_tag_unsigned_vec(Tag::ExtraSamples)
        .map_err(failed)?;
    // Indices are decompressed as greys are, and greys without being turned over.
    let greys = match photometric {
        PALETTE | WHITE_IS_ZERO => {
            let tag = u64::from(Tag::PhotometricInterpretation.to_u16());
            Directory::of(bytes).and_then(|page| page.with(tag, BLACK_IS_ZERO.into()))
        }
        _ => None,
    };
    let mut limits = Limits::default();
    limits.decoding_buffer_size = max_bytes as usize;
    limits.intermediate_buffer_size = max_bytes as usize;
    let file = Decoder::new(Cursor::new(greys.as_deref().unwrap_or(bytes)));
    let mut file = file.map_err(failed)?.with_limits(limits);

    let (width, height) = file.dimensions().map_err(failed)?;
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(format!(
            "an image beyond the limits ({width} x {height}, more than {max_pixels} pixels)"
        ));
    }
    let colour = file.colortype().map_err(failed)?;
    let mut samples = DecodingResult::U8(Vec::new());
    let layout = file.read_image_to_buffer(&mut samples).map_err(failed)?;
    if samples.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err("an image beyond the limits (of memory)".into());
    }
    let page = Page {
        width: width as usize,
        height: height as usize,
        planes: layout.planes.max(1),
        colour,
    };
    let levels = page.levels(samples, palette.is_some())?;
    let rgb = page.rgb(&levels, photometric, palette.as_deref(), extra.as_deref())?;
    RgbImage::from_raw(width, height, rgb).ok_or_else(|| "a damaged tiff (its size)".into())
}

/// The size of a page, and what its samples are.
struct Page {
    width: usize,
    height: usize,
    /// 1, or the number of channels if each has a plane of its own.
    planes: usize,
    colour: ColorType,
}

impl Page {
    /// Bits of a sample.
    fn bits(&self) -> u8 {
        self.colour.bit_depth()
    }

    fn channels(&self) -> usize {
        usize::from(self.colour.num_samples())
    }

    /// True if a pixel is one grey value, perhaps with further channels beside it.
    fn is_grey(&self) -> bool {
        matches!(
            self.colour,
            ColorType::Gray(_) | ColorType::Multiband { .. }
        )
    }

    /// Every sample as a byte: a grey level, an index into the palette, or a part of a colour.
    fn levels(&self, samples: DecodingResult, indexed: bool) -> Result<Vec<u8>, String> {
        let refused = |what: &str| {
            let kind = self.colour;
            Err(format!(
                "a tiff of {what} ({kind:?}), which is not supported: save it as 8-bit RGB"
            ))
        };
        if indexed && self.bits() > 8 {
            return refused("a palette of more than 256 colours");
        }
        let grey = self.is_grey();
        Ok(match samples {
            DecodingResult::U8(packed) if self.bits() < 8 => self.unpacked(&packed, indexed),
            DecodingResult::U8(levels) => levels,
            DecodingResult::I8(levels) => levels.into_iter().map(|level| level as u8).collect(),
            DecodingResult::U16(deep) if grey => {
                deep.into_iter().map(|value| value.min(255) as u8).collect()
            }
            DecodingResult::U16(deep) => deep.into_iter().map(|value| (value >> 8) as u8).collect(),
            DecodingResult::I16(deep) if grey => deep
                .into_iter()
                .map(|value| value.clamp(0, 255) as u8)
                .collect(),
            DecodingResult::I32(deep) if grey => deep
                .into_iter()
                .map(|value| value.clamp(0, 255) as u8)
                .collect(),
            // Pillow takes the highest bit as a sign.
            DecodingResult::U32(deep) if grey => {
                let level = |value: u32| (value as i32).clamp(0, 255) as u8;
                deep.into_iter().map(level).collect()
            }
            // The conversion cuts fractions off, and makes 0 of what is not a number.
            DecodingResult::F32(deep) if grey => {
                deep.into_iter().map(|value| value as u8).collect()
            }
            DecodingResult::F16(_) | DecodingResult::F32(_) | DecodingResult::F64(_) => {
                return refused("floating-point values");
            }
            _ => return refused("deep values"),
        })
    }

    /// Samples of 1, 2 or 4 bits, of which each row begins with a byte of its own. Greys are spread
    /// over 0 to 255; indices stay.
    fn unpacked(&self, packed: &[u8], indexed: bool) -> Vec<u8> {
        let (bits, row) = (usize::from(self.bits()), self.width * self.channels());
        let most = (1u16 << bits) - 1;
        let spread = if indexed { 1 } else { 255 / most };
        let rows = packed.chunks_exact((row * bits).div_ceil(8));
        rows.take(self.height)
            .flat_map(|bytes| {
                (0..row).map(move |place| {
                    let (byte, bit) = (place * bits / 8, place * bits % 8);
                    let value = u16::from(bytes[byte]) >> (8 - bits - bit) & most;
                    (value * spread) as u8
                })
            })
            .collect()
    }

    /// The colours that the levels stand for.
    fn rgb(
        &self,
        levels: &[u8],
        photometric: u16,
        palette: Option<&[u16]>,
        extra: Option<&[u16]>,
    ) -> Result<Vec<u8>, String> {
        let (pixels, channels) = (self.width * self.height, self.channels());
        if levels.len() < pixels * channels {
            return Err("a damaged tiff (it has fewer samples than its size says)".into());
        }
        let at = |pixel: usize, channel: usize| match self.planes {
            1 => levels[pixel * channels + channel],
            _ => levels[channel * pixels + pixel],
        };
        let each = |colour: &dyn Fn(usize) -> [u8; 3]| Ok((0..pixels).flat_map(colour).collect());
        match (self.colour, palette) {
            (ColorType::Gray(_), Some(palette)) => {
                let colours = palette.len() / 3;
                each(&|pixel| {
                    let index = usize::from(at(pixel, 0));
                    let of = |channel: usize| palette.get(channel * colours + index);
                    [0, 1, 2].map(|channel| of(channel).map_or(0, |value| (value >> 8) as u8))
                })
            }
            (ColorType::Gray(_), None) | (ColorType::Multiband { num_samples: 2, .. }, None)
                if channels == 1 || extra.is_some() =>
            {
                // Pillow turns greys over only where they have at most 8 bits.
                let turned = photometric == WHITE_IS_ZERO && self.bits() <= 8;
                each(&|pixel| [at(pixel, 0) ^ if turned { 255 } else { 0 }; 3])
            }
            (ColorType::RGB(_), None) => each(&|pixel| [0, 1, 2].map(|channel| at(pixel, channel))),
            (ColorType::RGBA(_), None) => {
                // The colours are stored as they look on black.
                let multiplied = extra.is_some_and(|kinds| kinds.first() == Some(&1));
                each(&|pixel| {
                    let alpha = u32::from(at(pixel, 3));
                    [0, 1, 2].map(|channel| match at(pixel, channel) {
                        _ if multiplied && alpha == 0 => 0,
                        level if multiplied => (u32::from(level) * 255 / alpha).min(255) as u8,
                        level => level,
                    })
                })
            }
            (ColorType::CMYK(_) | ColorType::CMYKA(_), None) => {
                each(&|pixel| from_cmyk([0, 1, 2, 3].map(|channel| at(pixel, channel))))
            }
            (ColorType::YCbCr(8), None) => {
                each(&|pixel| from_ycbcr([0, 1, 2].map(|channel| at(pixel, channel))))
            }
            (other, _) => Err(format!(
                "a tiff of another kind of colour ({other:?}), which is not supported: save it as \
                 8-bit RGB"
            )),
        }
    }
}

/// Pillow's product, which rounds to the nearest.
fn from_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)) as u8
    })
}

/// The colours of a jpeg, as JFIF defines them.
fn from_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [
        y + 1.402 * cr,
        y - 0.344_136 * cb - 0.714_136 * cr,
        y + 1.772 * cb,
    ]
    .map(|value| value.round() as u8)
}
