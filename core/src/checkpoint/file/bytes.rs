//! The bytes of a file: mapped into memory, or inside the binary.

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};

/// Number of bytes that are read at once where a whole file is.
pub(super) const PIECE: usize = 16 << 20;

/// A file's bytes: mapped into memory, or inside the binary.
pub(super) enum FileBytes {
    Map(memmap2::Mmap),
    Static(&'static [u8]),
}

impl FileBytes {
    /// Maps a file.
    pub(super) fn map(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path).map_err(Error::io(path))?;
        // An empty file cannot be mapped.
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Err(Error::file(
                path,
                "expected a checkpoint, the file is empty",
            ));
        }
        // SAFETY: the map is read only; a file that another process truncates while it is mapped
        // would raise SIGBUS, as with every reader of mapped checkpoints.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Ok(Self::Map(map))
    }
}

impl FileBytes {
    /// Tells the system that these bytes are not needed soon. Mapped pages that were read otherwise count
    /// as memory of this process.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Self::Map(map) = self {
            // SAFETY: the map is backed by a file and never written, so a page that is dropped is read
            // again with the same content.
            let advised = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    range.start,
                    range.len(),
                )
            };
            // Without effect if the system does not take the advice; the content is the same either way.
            drop(advised);
        }
    }
}

impl std::ops::Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}
