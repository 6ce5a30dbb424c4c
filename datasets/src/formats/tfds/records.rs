//! TFRecord: a record is its length, a checksum of that, the bytes, and a checksum of these.
//!
//! ```text
//! u64 length   u32 masked CRC-32C of the length   u8[length]   u32 masked CRC-32C of the bytes
//! ```
//!
//! All numbers are little endian. TensorFlow, `tensorflow/core/lib/io/record_writer.h`.

use std::ops::Range;
use std::path::Path;

use crate::error::Error;

/// The constant that a masked checksum adds after rotating, so that checksums of data which hold checksums stay good.
const MASK: u32 = 0xa282_ead8;

/// The places of the records of a file, up to the first that is damaged.
pub fn of<'a>(
    bytes: &'a [u8],
    path: &'a Path,
) -> impl Iterator<Item = Result<Range<usize>, Error>> + 'a {
    let (mut at, mut number) = (0, 0);
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        number += 1;
        let record = next(bytes, at).map_err(|got| {
            let place = format!("`{}` record {number}", path.display());
            Error::record(place, "a whole TFRecord", got)
        });
        at = match &record {
            Ok(record) => record.end + 4,
            // Where the next record starts is unknown.
            Err(_) => bytes.len(),
        };
        Some(record)
    })
}

/// The record that starts at a byte, or else what is wrong with it.
fn next(bytes: &[u8], at: usize) -> Result<Range<usize>, String> {
    let ends = || format!("a file that ends within it, at byte {}", bytes.len());
    let length = bytes.get(at..at + 8).ok_or_else(ends)?;
    if checksum_at(bytes, at + 8).ok_or_else(ends)? != masked(length) {
        return Err("a length with another checksum".to_owned());
    }
    let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
    let start = at + 12;
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| start.checked_add(length));
    let end = end.ok_or_else(ends)?;
    let content = bytes.get(start..end).ok_or_else(ends)?;
    match checksum_at(bytes, end).ok_or_else(ends)? == masked(content) {
        true => Ok(start..end),
        false => Err("bytes with another checksum".to_owned()),
    }
}

fn checksum_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(four.try_into().ok()?))
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as it is written.
    fn record(content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u64).to_le_bytes();
        [
            &length[..],
            &masked(&length).to_le_bytes(),
            content,
            &masked(content).to_le_bytes(),
        ]
        .concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<&[u8]>, String> {
        let places = of(bytes, Path::new("shard")).collect::<Result<Vec<_>, _>>();
        let places = places.map_err(|e| e.to_string())?;
        Ok(places.into_iter().map(|place| &bytes[place]).collect())
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let file = [record(b"one"), record(b""), record(b"three")].concat();
        assert_eq!(read(&file).unwrap(), [&b"one"[..], b"", b"three"]);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            let message = read(&damaged).unwrap_err();
            assert!(message.contains("`shard` record"), "{at}: {message}");
        }
        let ends = [
            0,
            record(b"one").len(),
            record(b"one").len() + record(b"").len(),
        ];
        for end in (0..file.len()).filter(|end| !ends.contains(end)) {
            let message = read(&file[..end]).unwrap_err();
            assert!(
                message.contains("a file that ends within it"),
                "{end}: {message}"
            );
        }
    }

    #[test]
    fn a_length_that_no_file_has_is_refused() {
        let length = u64::MAX.to_le_bytes();
        let file = [&length[..], &masked(&length).to_le_bytes(), &[0; 20]].concat();
        assert!(
            read(&file)
                .unwrap_err()
                .contains("a file that ends within it")
        );
    }
}
