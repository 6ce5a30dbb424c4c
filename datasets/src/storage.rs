//! How an encoded image is stored: the properties that are lost when it becomes 8-bit RGB, and its
//! orientation. Only headers are read, so that a data set can be looked through quickly.
//!
//! The orientation is found where Pillow's `getexif` finds it: in EXIF, or else in XMP.

use std::ops::Range;

use image::metadata::Orientation;
use peft_core::data::Storage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::orientation::{Directory, ORIENTATION, from_hex, of_exif, of_xmp, text_chunk, u32_be};

/// What is done with the orientation that a camera notes beside the pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// Images are turned upright.
    Apply,
    /// The pixels are taken as they are stored. A tiff is turned all the same, as Pillow turns it
    /// when it reads it.
    #[default]
    Ignore,
}

impl Exif {
    pub(crate) fn is_ignore(&self) -> bool {
        *self == Self::Ignore
    }

    pub(crate) fn apply() -> Self {
        Self::Apply
    }

    pub(crate) fn is_apply(&self) -> bool {
        *self == Self::Apply
    }
}

/// Entries of a tiff's directory.
const BITS: u64 = 258;
const PHOTOMETRIC: u64 = 262;
const EXTRA_SAMPLES: u64 = 338;
const SAMPLE_FORMAT: u64 = 339;

/// Whether bytes begin as a tiff does, or a BigTIFF, whose places have eight bytes.
pub(crate) fn is_tiff(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..]
    )
}

/// The part of a gif's canvas that its first frame leaves empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Around {
    /// The columns and rows of the frame.
    pub columns: Range<usize>,
    pub rows: Range<usize>,
    /// The colour of everything else, as in Pillow: the transparent one of the palette, or its first.
    pub colour: [u8; 3],
}

/// What the headers of an encoded image say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// One channel without a palette.
    grey: bool,
    palette: bool,
    alpha: bool,
    cmyk: bool,
    /// More than 8 bits in a value.
    deep: bool,
    /// More than one frame or page.
    animated: bool,
    tiff: bool,
    /// A value is a fraction, or a whole number of 32 bits.
    float: bool,
    long: bool,
    /// The largest value of a pnm.
    white: Option<u16>,
    /// What lies around the first frame of a gif that does not fill its canvas.
    around: Option<Around>,
    /// Where the first row and column of the pixels belong, unless that is where they are.
    orientation: Option<Orientation>,
}

impl Header {
    /// Reads the headers of an image; of one that is none of the kinds that are read, or that
    /// breaks off, what there is.
    pub fn of(bytes: &[u8]) -> Self {
        let mut header = Self::default();
        // `None` is an image that breaks off; the decoder says so when it is read.
        let _ = match bytes {
            [0x89, b'P', b'N', b'G', ..] => header.png(bytes),
            [0xFF, 0xD8, ..] => header.jpeg(bytes),
            [b'G', b'I', b'F', b'8', ..] => header.gif(bytes),
            [b'R', b'I', b'F', b'F', ..] => header.webp(bytes),
            [b'B', b'M', ..] => header.bmp(bytes),
            [b'P', b'1'..=b'7', ..] => header.pnm(bytes),
            _ if is_tiff(bytes) => header.tiff(bytes),
            _ => None,
        };
        let upright = |orientation: &Orientation| *orientation != Orientation::NoTransforms;
        header.orientation = header.orientation.filter(upright);
        header
    }

    /// The largest value of a pnm, which stands for white.
    pub fn white(&self) -> Option<u16> {
        self.white
    }

    /// What lies around the first frame of a gif.
    pub fn around(&self) -> Option<&Around> {
        self.around.as_ref()
    }

    /// Whether an earlier version of this program read other pixels, so that what was computed from
    /// them must not be found again.
    pub fn is_read_anew(&self) -> bool {
        let scaled = self
            .white
            .is_some_and(|white| white != 255 && white != u16::MAX);
        let tiff = self.tiff && (self.cmyk || self.alpha || (self.grey && self.deep));
        scaled || tiff || self.around.is_some()
    }

    /// How the decoded pixels are to be turned.
    pub fn turn(&self, exif: Exif) -> Option<Orientation> {
        self.orientation.filter(|_| self.tiff || exif.is_apply())
    }

    /// What is special about the image, and what reading does with it.
    pub fn storage(&self, exif: Exif) -> Vec<Storage> {
        let tagged = match (self.tiff, exif) {
            (true, _) => "turned upright, as Pillow turns every tiff",
            (false, Exif::Apply) => "turned upright",
            (false, Exif::Ignore) => "left as stored; `exif: apply` turns them upright",
        };
        let deep = match (self.grey, self.alpha) {
            _ if self.float => (
                "floating-point",
                "fractions are cut off, and values outside of 0 to 255 become 0 or 255, as in Pillow",
            ),
            _ if self.long => (
                "32-bit greyscale",
                "values above 255 become 255, as in Pillow",
            ),
            (true, false) => (
                "16-bit greyscale",
                "values above 255 become 255, as in Pillow",
            ),
            _ => ("16-bit", "the high byte of each value is taken"),
        };
        let all = [
            (self.orientation.is_some(), ("EXIF orientation", tagged)),
            (self.deep, deep),
            (self.cmyk, ("CMYK", "multiplied out to RGB")),
            (
                self.animated,
                ("animated", "the first frame or page is taken"),
            ),
            (self.grey, ("greyscale", "repeated over the three channels")),
            (self.palette, ("palette", "colours are looked up")),
            (self.alpha, ("alpha", "dropped without blending")),
        ];
        let there = all.into_iter().filter(|(there, _)| *there);
        there
            .map(|(_, (what, done))| Storage { what, done })
            .collect()
    }

    /// A value of EXIF goes before one of XMP.
    fn turned(&mut self, exif: Option<&[u8]>, xmp: Option<&[u8]>) {
        let found = exif.and_then(of_exif).or_else(|| xmp.and_then(of_xmp));
        self.orientation = self.orientation.or(found);
    }

    fn png(&mut self, bytes: &[u8]) -> Option<()> {
        let (depth, colour) = (bytes.get(24)?, bytes.get(25)?);
        self.deep = *depth == 16;
        self.grey = matches!(colour, 0 | 4);
        self.palette = *colour == 3;
        self.alpha = matches!(colour, 4 | 6);
        let (mut xmp, mut at) = (None, 8);
        while let Some(length) = u32_be(bytes, at) {
            let data = at + 8..(at + 8).checked_add(length as usize)?;
            let kind = bytes.get(at + 4..at + 8)?;
            let data = bytes.get(data)?;
            match kind {
                b"eXIf" => self.turned(Some(data), None),
                b"acTL" => self.animated = u32_be(data, 0)? > 1,
                b"tRNS" => self.alpha = true,
                b"tEXt" | b"zTXt" | b"iTXt" => match text_chunk(kind, data) {
                    // ImageMagick's way, from before there was a chunk for it.
                    Some((key, text)) if key == b"Raw profile type exif" => {
                        self.turned(from_hex(&text).as_deref(), None);
                    }
                    Some((key, text)) if key == b"XML:com.adobe.xmp" => xmp = Some(text),
                    _ => {}
                },
                _ => {}
            }
            at += 12 + length as usize;
        }
        self.turned(None, xmp.as_deref());
        Some(())
    }

    fn jpeg(&mut self, bytes: &[u8]) -> Option<()> {
        let (mut xmp, mut at) = (None, 2);
        loop {
            if *bytes.get(at)? != 0xFF {
                break;
            }
            let marker = *bytes.get(at + 1)?;
            match marker {
                0xFF => {
                    at += 1;
                    continue;
                }
                0x01 | 0xD0..=0xD7 => {
                    at += 2;
                    continue;
                }
                // Pixels follow, or the end.
                0xDA | 0xD9 => break,
                _ => {}
            }
            let length = usize::from(u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?));
            let data = bytes.get(at + 4..at + 2 + length)?;
            match marker {
                0xE1 => {
                    if let Some(exif) = data.strip_prefix(b"Exif\0\0") {
                        self.turned(Some(exif), None);
                    } else if data.starts_with(b"http://ns.adobe.com/xap/1.0/\0") {
                        xmp = Some(data);
                    }
                }
                // The start of a frame: precision, height, width, channels.
                0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                    self.deep = *data.first()? > 8;
                    self.grey = *data.get(5)? == 1;
                    self.cmyk = *data.get(5)? == 4;
                }
                _ => {}
            }
            at += 2 + length;
        }
        self.turned(None, xmp);
        Some(())
    }

    fn gif(&mut self, bytes: &[u8]) -> Option<()> {
        let table = |flags: u8| match flags & 0x80 {
            0 => 0,
            _ => 3 << ((flags & 7) + 1),
        };
        let short = |at: usize| {
            let two = bytes.get(at..).and_then(|rest| rest.first_chunk())?;
            Some(usize::from(u16::from_le_bytes(*two)))
        };
        self.palette = true;
        let mut at = 13 + table(*bytes.get(10)?);
        let (mut frames, mut transparent) = (0, 0);
        loop {
            match *bytes.get(at)? {
                0x2C => {
                    frames += 1;
                    self.animated = frames > 1;
                    if frames == 1 {
                        let (left, top) = (short(at + 1)?, short(at + 3)?);
                        let (columns, rows) =
                            (left..left + short(at + 5)?, top..top + short(at + 7)?);
                        let fills = left == 0 && top == 0;
                        let own = table(*bytes.get(at + 9)?) > 0;
                        let colour = if own { at + 10 } else { 13 } + 3 * transparent;
                        let colour = *bytes.get(colour..)?.first_chunk()?;
                        self.around = (!fills || columns.end < short(6)? || rows.end < short(8)?)
                            .then_some(Around {
                                columns,
                                rows,
                                colour,
                            });
                    }
                    // The minimal code size follows the frame's own table.
                    at += 10 + table(*bytes.get(at + 9)?) + 1;
                }
                0x21 => {
                    // A control extension whose first flag says that one colour is transparent.
                    let of_first = frames == 0 && bytes.get(at + 1) == Some(&0xF9);
                    if of_first && bytes.get(at + 3)? & 1 == 1 {
                        self.alpha = true;
                        transparent = usize::from(*bytes.get(at + 6)?);
                    }
                    at += 2;
                }
                _ => return Some(()),
            }
            loop {
                let length = usize::from(*bytes.get(at)?);
                at += 1 + length;
                if length == 0 {
                    break;
                }
            }
        }
    }

    fn webp(&mut self, bytes: &[u8]) -> Option<()> {
        let (mut xmp, mut at) = (None, 12);
        while let Some(length) = bytes.get(at + 4..).and_then(|rest| rest.first_chunk()) {
            let length = u32::from_le_bytes(*length) as usize;
            let end = (at + 8).checked_add(length)?;
            let data = bytes.get(at + 8..end)?;
            match bytes.get(at..at + 4)? {
                b"VP8X" => {
                    self.animated = data.first()? & 0x02 != 0;
                    self.alpha = data.first()? & 0x10 != 0;
                }
                b"VP8L" => self.alpha |= data.get(4)? & 0x10 != 0,
                b"EXIF" => {
                    let exif = data.strip_prefix(b"Exif\0\0").unwrap_or(data);
                    self.turned(Some(exif), None);
                }
                b"XMP " => xmp = Some(data),
                _ => {}
            }
            at = end + length % 2;
        }
        self.turned(None, xmp);
        Some(())
    }

    fn bmp(&mut self, bytes: &[u8]) -> Option<()> {
        // The oldest header has shorter sides.
        let at = if *bytes.get(14)? == 12 { 24 } else { 28 };
        let bits = u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        self.palette = (1..=8).contains(&bits);
        Some(())
    }

    fn pnm(&mut self, bytes: &[u8]) -> Option<()> {
        self.grey = matches!(bytes[1], b'1' | b'2' | b'4' | b'5');
        if matches!(bytes[1], b'2' | b'3' | b'5' | b'6') {
            // Width, height and the largest value, between which comments may stand.
            let head = &bytes[2..bytes.len().min(4096)];
            let head = String::from_utf8_lossy(head);
            let lines = head.lines();
            let words = lines.flat_map(|line| {
                line.split('#')
                    .next()
                    .unwrap_or_default()
                    .split_whitespace()
            });
            self.white = words.take(3).nth(2)?.parse().ok();
            self.deep = self.white? > 255;
        }
        Some(())
    }

    fn tiff(&mut self, bytes: &[u8]) -> Option<()> {
        self.tiff = true;
        let directory = Directory::of(bytes)?;
        let bits = directory.value(BITS).unwrap_or(1);
        self.deep = bits > 8;
        self.float = directory.value(SAMPLE_FORMAT) == Some(3);
        self.long = bits > 16;
        match directory.value(PHOTOMETRIC) {
            Some(0 | 1) => self.grey = true,
            Some(3) => self.palette = true,
            Some(5) => self.cmyk = true,
            _ => {}
        }
        self.alpha = directory.value(EXTRA_SAMPLES).is_some_and(|kind| kind > 0);
        self.animated = directory.next != 0;
        let value = directory
            .value(ORIENTATION)
            .and_then(|value| u8::try_from(value).ok());
        self.orientation = value.and_then(Orientation::from_exif);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Vec<&'static str> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data");
        let path = format!("{folder}/{name}");
        let storage = Header::of(&fs_err::read(path).unwrap()).storage(Exif::Ignore);
        storage.iter().map(|storage| storage.what).collect()
    }

    #[test]
    fn what_is_special_about_an_image_is_in_its_headers() {
        for (name, expected) in [
            ("images/rgb.png", &[][..]),
            ("images/rgb.bmp", &[]),
            ("images/rgb.ppm", &[]),
            ("images/444.jpg", &[]),
            ("images/lossy.webp", &[]),
            ("kinds/turned_1.png", &[]),
            ("kinds/turned_2.png", &["EXIF orientation"]),
            ("kinds/turned_6.jpg", &["EXIF orientation"]),
            ("kinds/turned_8.webp", &["EXIF orientation"]),
            ("kinds/turned_5.tif", &["EXIF orientation"]),
            ("kinds/xmp_3.png", &["EXIF orientation"]),
            ("kinds/raw_6.png", &["EXIF orientation"]),
            ("images/grey_16.png", &["16-bit greyscale", "greyscale"]),
            ("images/rgb_16.png", &["16-bit"]),
            ("kinds/grey_16.tif", &["16-bit greyscale", "greyscale"]),
            ("kinds/grey_16.pgm", &["16-bit greyscale", "greyscale"]),
            ("images/cmyk.jpg", &["CMYK"]),
            ("kinds/cmyk.tif", &["CMYK"]),
            ("kinds/pages.tif", &["animated"]),
            ("kinds/frames.png", &["animated"]),
            ("kinds/frames.webp", &["animated", "alpha"]),
            ("kinds/frames.gif", &["animated", "palette"]),
            ("images/palette.gif", &["palette"]),
            ("images/palette_4.png", &["palette"]),
            ("images/palette.bmp", &["palette"]),
            ("images/grey.jpg", &["greyscale"]),
            ("images/grey.pgm", &["greyscale"]),
            ("kinds/bit.pbm", &["greyscale"]),
            ("kinds/bit.tif", &["greyscale"]),
            ("images/rgba.png", &["alpha"]),
            ("images/grey_alpha.png", &["greyscale", "alpha"]),
            ("images/lossless_alpha.webp", &["alpha"]),
        ] {
            assert_eq!(named(name), expected, "{name}");
        }
    }

    #[test]
    fn an_image_that_breaks_off_is_no_panic() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data/kinds");
        for entry in fs_err::read_dir(folder).unwrap() {
            let bytes = fs_err::read(entry.unwrap().path()).unwrap();
            for keep in 0..bytes.len() {
                Header::of(&bytes[..keep]);
            }
        }
    }
}
