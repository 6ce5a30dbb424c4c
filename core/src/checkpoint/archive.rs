//! Zip archives, in which PyTorch and NumPy store their tensors.

use std::io::{Cursor, Read};
use std::sync::Arc;

use super::entry::Bytes;

/// The names of a zip's members.
pub(super) fn names(archive: &zip::ZipArchive<Cursor<&[u8]>>) -> Result<Vec<String>, String> {
    let named = archive
        .file_names()
        .map(|name| name.map(|name| name.into_owned()));
    named.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// A member of a zip: its range in the file if it is stored, else its decompressed content.
pub(super) fn member(
    archive: &mut zip::ZipArchive<Cursor<&[u8]>>,
    name: &str,
    length: usize,
) -> Result<Bytes, String> {
    let mut file = archive.by_name(name).map_err(|e| format!("{name}: {e}"))?;
    if file.compression() == zip::CompressionMethod::Stored {
        let start = file
            .data_start()
            .ok_or_else(|| format!("{name}: no data"))? as usize;
        let end = start
            .checked_add(file.size() as usize)
            .filter(|end| *end <= length);
        let end = end.ok_or_else(|| format!("{name} is cut off"))?;
        return Ok(Bytes::In(start..end));
    }
    // A header may claim any size, so nothing is reserved in advance.
    let mut content = Vec::new();
    file.read_to_end(&mut content)
        .map_err(|e| format!("{name}: {e}"))?;
    Ok(Bytes::Own(Arc::from(content)))
}
