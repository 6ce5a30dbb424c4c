//! How an encoded image is stored: the properties that are lost when it becomes 8-bit RGB, and its
//! orientation. Only headers are read, so that a data set can be looked through quickly.
//!
//! The orientation is found where Pillow's `getexif` finds it: in EXIF, or else in XMP.

use std::io::Read;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;
use memchr::memmem;
use peft_core::data::Storage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => header.tiff(bytes),
            _ => None,
        };
        let upright = |orientation: &Orientation| *orientation != Orientation::NoTransforms;
        header.orientation = header.orientation.filter(upright);
        header
    }

    /// The one kind of a palette that is not looked up.
    pub fn is_tiff_with_palette(&self) -> bool {
        self.tiff && self.palette
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
        self.palette = true;
        let mut at = 13 + table(*bytes.get(10)?);
        let mut frames = 0;
        loop {
            match *bytes.get(at)? {
                0x2C => {
                    frames += 1;
                    self.animated = frames > 1;
                    // The minimal code size follows the frame's own table.
                    at += 10 + table(*bytes.get(at + 9)?) + 1;
                }
                0x21 => {
                    // A control extension whose first flag says that one colour is transparent.
                    let of_first = frames == 0 && bytes.get(at + 1) == Some(&0xF9);
                    self.alpha |= of_first && bytes.get(at + 3)? & 1 == 1;
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
            self.deep = words.take(3).nth(2)?.parse::<u32>().ok()? > 255;
        }
        Some(())
    }

    fn tiff(&mut self, bytes: &[u8]) -> Option<()> {
        self.tiff = true;
        let directory = Directory::of(bytes)?;
        self.deep = directory.value(258).is_some_and(|bits| bits > 8);
        match directory.value(262) {
            Some(0 | 1) => self.grey = true,
            Some(3) => self.palette = true,
            Some(5) => self.cmyk = true,
            _ => {}
        }
        self.alpha = directory.value(338).is_some();
        self.animated = directory.next != 0;
        let value = directory
            .value(274)
            .and_then(|value| u8::try_from(value).ok());
        self.orientation = value.and_then(Orientation::from_exif);
        Some(())
    }
}

/// A directory of a tiff, which is also the form of EXIF.
struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// 12 bytes each.
    entries: &'a [u8],
    /// Where the next one is; 0 if this is the last.
    next: u32,
}

impl<'a> Directory<'a> {
    /// The first directory.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let little = bytes.starts_with(b"II");
        let number = |at| u32_of(bytes, at, little);
        let start = number(4)? as usize;
        let count = usize::from(u16_of(bytes, start, little)?);
        let end = start + 2 + 12 * count;
        Some(Self {
            bytes,
            little,
            entries: bytes.get(start + 2..end)?,
            next: number(end).unwrap_or(0),
        })
    }

    /// The first value of an entry, if it is a number without sign.
    fn value(&self, tag: u16) -> Option<u32> {
        let is = |entry: &&[u8]| u16_of(entry, 0, self.little) == Some(tag);
        let entry = self.entries.chunks_exact(12).find(is)?;
        let count = u32_of(entry, 4, self.little)?;
        let number = |width, read: fn(&[u8], usize, bool) -> Option<u32>| {
            // Values of more than four bytes are elsewhere.
            match count * width > 4 {
                true => read(
                    self.bytes,
                    u32_of(entry, 8, self.little)? as usize,
                    self.little,
                ),
                false => read(entry, 8, self.little),
            }
        };
        match u16_of(entry, 2, self.little)? {
            1 => number(1, |bytes, at, _| bytes.get(at).map(|&byte| byte.into())),
            3 => number(2, |bytes, at, little| {
                u16_of(bytes, at, little).map(Into::into)
            }),
            4 => number(4, u32_of),
            _ => None,
        }
    }
}

fn u16_of(bytes: &[u8], at: usize, little: bool) -> Option<u16> {
    let two = *bytes.get(at..)?.first_chunk()?;
    Some(if little {
        u16::from_le_bytes(two)
    } else {
        u16::from_be_bytes(two)
    })
}

fn u32_of(bytes: &[u8], at: usize, little: bool) -> Option<u32> {
    let four = *bytes.get(at..)?.first_chunk()?;
    Some(if little {
        u32::from_le_bytes(four)
    } else {
        u32::from_be_bytes(four)
    })
}

fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    u32_of(bytes, at, false)
}

fn of_exif(exif: &[u8]) -> Option<Orientation> {
    let value = Directory::of(exif)?.value(274)?;
    Orientation::from_exif(u8::try_from(value).ok()?)
}

/// `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn of_xmp(xmp: &[u8]) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    let rest = &xmp[memmem::find(xmp, KEY)? + KEY.len()..];
    let digit = rest
        .strip_prefix(b"=\"")
        .or_else(|| rest.strip_prefix(b">"))?;
    Orientation::from_exif(digit.first()?.checked_sub(b'0')?)
}

/// The key and the text of a png's text chunk.
fn text_chunk<'a>(kind: &[u8], data: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (key, rest) = split_at_zero(data)?;
    let (compressed, text) = match kind {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.get(1..)?),
        _ => {
            // A flag and a method, then the language and the key in it.
            let (_, rest) = (rest.get(..2)?, split_at_zero(rest.get(2..)?)?.1);
            (data.get(key.len() + 1) == Some(&1), split_at_zero(rest)?.1)
        }
    };
    if !compressed {
        return Some((key, text.to_vec()));
    }
    // A text of this kind is small; one that is not must not fill the memory.
    let mut whole = Vec::new();
    ZlibDecoder::new(text)
        .take(1 << 24)
        .read_to_end(&mut whole)
        .ok()?;
    Some((key, whole))
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = memchr::memchr(0, bytes)?;
    Some((&bytes[..zero], &bytes[zero + 1..]))
}

/// The bytes of a raw profile: three lines of a head, then hexadecimal digits.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|&byte| byte == b'\n').skip(3).flatten();
    let digits: Vec<u8> = lines
        .filter_map(|&byte| char::from(byte).to_digit(16).map(|digit| digit as u8))
        .collect();
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| 16 * pair[0] + pair[1])
        .collect();
    Some(bytes.strip_prefix(b"Exif\0\0").unwrap_or(&bytes).to_vec())
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
