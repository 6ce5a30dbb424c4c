//! Zip archives, in which PyTorch and NumPy store their tensors.

use std::io::{Cursor, Read};
use std::ops::Range;
use std::sync::Arc;

use super::entry::Bytes;

/// The names of a zip's members.
pub(super) fn names(archive: &zip::ZipArchive<Cursor<&[u8]>>) -> Result<Vec<String>, String> {
    let named = archive
        .file_names()
        .map(|name| name.map(|name| name.into_owned()));
    named.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// A member of a zip.
#[derive(Clone, Debug)]
pub(super) struct Member {
    name: String,
    /// Its range in the file if it is stored, else its decompressed content.
    pub(super) bytes: Bytes,
    /// CRC-32 of the content.
    checksum: u32,
}

/// Finds a member of a zip. A stored one is not read yet: [`Member::checked`] does.
pub(super) fn member(
    archive: &mut zip::ZipArchive<Cursor<&[u8]>>,
    name: &str,
    length: usize,
) -> Result<Member, String> {
    let mut file = archive.by_name(name).map_err(|e| format!("{name}: {e}"))?;
    let member = |bytes, checksum| Member {
        name: name.to_owned(),
        bytes,
        checksum,
    };
    if file.compression() == zip::CompressionMethod::Stored {
        let start = file
            .data_start()
            .ok_or_else(|| format!("{name}: no data"))? as usize;
        let end = start
            .checked_add(file.size() as usize)
            .filter(|end| *end <= length);
        let end = end.ok_or_else(|| format!("{name} is cut off"))?;
        return Ok(member(Bytes::In(start..end), file.crc32()));
    }
    // A header may claim any size, so nothing is reserved in advance.
    let mut content = Vec::new();
    // The reader compares the checksum at the end.
    file.read_to_end(&mut content)
        .map_err(|e| format!("{name}: {e}: the file is damaged"))?;
    Ok(member(Bytes::Own(Arc::from(content)), file.crc32()))
}

impl Member {
    /// Compares the content with its checksum, `piece` bytes at a time, of which each is given to
    /// `release` afterwards. False if there is no checksum: PyTorch can leave it out, as 0.
    ///
    /// # Errors
    /// A message with the name and both checksums.
    pub(super) fn checked(
        &self,
        file: &[u8],
        piece: usize,
        release: impl Fn(Range<usize>),
    ) -> Result<bool, String> {
        // What was decompressed was compared then.
        let Bytes::In(range) = &self.bytes else {
            return Ok(true);
        };
        let mut hasher = crc32fast::Hasher::new();
        for start in range.clone().step_by(piece) {
            let part = start..range.end.min(start.saturating_add(piece));
            hasher.update(&file[part.clone()]);
            release(part);
        }
        let found = hasher.finalize();
        if found == self.checksum {
            return Ok(true);
        }
        if self.checksum == 0 {
            return Ok(false);
        }
        Err(format!(
            "{}: expected the checksum (CRC-32) {:08x}, got {found:08x}: the file is damaged",
            self.name, self.checksum
        ))
    }

    /// The content, compared with its checksum.
    ///
    /// # Errors
    /// As [`Member::checked`].
    pub(super) fn content<'a>(&'a self, file: &'a [u8]) -> Result<&'a [u8], String> {
        self.checked(file, usize::MAX, drop)?;
        Ok(self.bytes.of(file))
    }
}
