//! Files that are written completely or not at all.

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// Prefix of the names of files that are still being written.
const TEMPORARY: &str = ".writing-";

/// Removes files that a killed process left unfinished, in a folder that no other process writes to.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

/// Writes a file atomically: a reader sees either the old content or the new one, never a part. The
/// content goes to a temporary file in the same folder, which is synced and renamed.
///
/// # Errors
/// [`Error::Io`] with the path: a full disk, a folder that does not exist, missing rights.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = begin(path)?;
    file.write_all(content).map_err(Error::io(path))?;
    finish(file, path)
}

/// A temporary file beside `path`, removed unless it is finished.
pub(crate) fn begin(path: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // Temporary files are private by default; this one becomes an ordinary file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
        .tempfile_in(folder_of(path))
        .map_err(Error::io(path))
}

/// Renames it to `path`.
pub(crate) fn finish(file: NamedTempFile, path: &Path) -> Result<()> {
    let io = || Error::io(path);
    file.as_file().sync_all().map_err(io())?;
    file.persist(path).map_err(|e| io()(e.error))?;
    // The rename itself must survive a power cut; not every file system lets a folder be synced.
    if let Ok(folder) = std::fs::File::open(folder_of(path)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_of_a_killed_process_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".writing-half"), b"x").unwrap();
        std::fs::write(folder.path().join("whole"), b"x").unwrap();
        sweep(folder.path()).unwrap();
        let mut left = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(left.next().unwrap().unwrap().file_name(), "whole");
        assert!(left.next().is_none());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let path = Path::new("no/such/folder/file");
        let error = write_atomically(path, b"x").unwrap_err().to_string();
        assert!(error.starts_with("no/such/folder/file: "), "{error}");
    }
}
