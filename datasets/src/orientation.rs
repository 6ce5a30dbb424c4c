//! Where a camera's orientation is written: in EXIF, whose form is the directory of a tiff, or in XMP.

use std::io::Read;

use flate2::read::ZlibDecoder;
use image::metadata::Orientation;
use memchr::memmem;

/// The entry of a directory that holds the orientation.
pub(crate) const ORIENTATION: u64 = 274;

/// A directory of a tiff, which is also the form of EXIF.
pub(crate) struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// Bytes of a place in the file: 4, or 8 in a BigTIFF.
    width: usize,
    /// Where the first entry is.
    first: usize,
    /// The number of entries.
    count: usize,
    /// Where the next directory is; 0 if this is the last.
    pub next: u64,
}

impl<'a> Directory<'a> {
    /// The first directory.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let little = bytes.starts_with(b"II");
        let number = |at, width| number(bytes, at, width, little);
        // A BigTIFF counts in 8 bytes what others count in 2, and finds in 8 what they find in 4.
        let (width, counted) = match number(2, 2)? {
            43 => (8, 8),
            _ => (4, 2),
        };
        let start = usize::try_from(number(width, width)?).ok()?;
        let count = usize::try_from(number(start, counted)?).ok()?;
        let first = start.checked_add(counted)?;
        let end = count.checked_mul(4 + 2 * width)?.checked_add(first)?;
        bytes.get(first..end)?;
        Some(Self {
            bytes,
            little,
            width,
            first,
            count,
            next: number(end, width).unwrap_or(0),
        })
    }

    /// Where an entry is.
    fn entry(&self, tag: u64) -> Option<usize> {
        let places = (0..self.count).map(|index| self.first + index * (4 + 2 * self.width));
        let is = |at: &usize| number(self.bytes, *at, 2, self.little) == Some(tag);
        places.into_iter().find(is)
    }

    /// Where the values of an entry are, and the bytes of each, if they are numbers without sign.
    fn values(&self, tag: u64) -> Option<(usize, usize)> {
        let entry = self.entry(tag)?;
        let number = |at, width| number(self.bytes, at, width, self.little);
        let bytes = match number(entry + 2, 2)? {
            1 => 1,
            3 => 2,
            4 => 4,
            _ => return None,
        };
        let all = number(entry + 4, self.width)?.checked_mul(bytes as u64)?;
        let place = entry + 4 + self.width;
        // Values that do not fit into the entry are elsewhere.
        let at = match all > self.width as u64 {
            true => usize::try_from(number(place, self.width)?).ok()?,
            false => place,
        };
        Some((at, bytes))
    }

    /// The first value of an entry, if it is a number without sign.
    pub fn value(&self, tag: u64) -> Option<u64> {
        let (at, bytes) = self.values(tag)?;
        number(self.bytes, at, bytes, self.little)
    }

    /// A copy of the file in which the first value of an entry is another number.
    pub fn with(&self, tag: u64, value: u64) -> Option<Vec<u8>> {
        let (at, bytes) = self.values(tag)?;
        let mut file = self.bytes.to_vec();
        let place = file.get_mut(at..at.checked_add(bytes)?)?;
        match self.little {
            true => place.copy_from_slice(&value.to_le_bytes()[..bytes]),
            false => place.copy_from_slice(&value.to_be_bytes()[8 - bytes..]),
        }
        Some(file)
    }
}

/// A number of at most 8 bytes.
fn number(bytes: &[u8], at: usize, width: usize, little: bool) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?.iter();
    let more = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    Some(match little {
        true => bytes.rev().fold(0, more),
        false => bytes.fold(0, more),
    })
}

/// Four bytes, the highest first.
pub(crate) fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at, 4, false).map(|number| number as u32)
}

/// The orientation in EXIF.
pub(crate) fn of_exif(exif: &[u8]) -> Option<Orientation> {
    let value = Directory::of(exif)?.value(ORIENTATION)?;
    Orientation::from_exif(u8::try_from(value).ok()?)
}

/// The orientation in XMP: `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
pub(crate) fn of_xmp(xmp: &[u8]) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    let rest = &xmp[memmem::find(xmp, KEY)? + KEY.len()..];
    let digit = rest
        .strip_prefix(b"=\"")
        .or_else(|| rest.strip_prefix(b">"))?;
    Orientation::from_exif(digit.first()?.checked_sub(b'0')?)
}

/// The key and the text of a png's text chunk.
pub(crate) fn text_chunk<'a>(kind: &[u8], data: &'a [u8]) -> Option<(&'a [u8], Vec<u8>)> {
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
pub(crate) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
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
