//! Files that are written completely or not at all, and text that is read from anywhere.

use std::io::{self, Write};
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

/// The text of a file in UTF-8, without the byte-order mark that some editors write before it.
///
/// # Errors
/// Those of the file system, and an error if the text has another encoding; the message has the
/// path.
pub fn read_text(path: &Path) -> io::Result<String> {
    let bytes = fs_err::read(path)?;
    let text = text_of(&bytes).map(str::to_owned);
    text.map_err(|got| {
        let message = format!("{}: expected text in UTF-8, got {got}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// Returns the text in `bytes` without a byte-order mark, or else a description of what they hold.
///
/// # Errors
/// Bytes that are not UTF-8. UTF-16 is recognised by its own mark.
pub fn text_of(bytes: &[u8]) -> std::result::Result<&str, String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("UTF-16: save it as UTF-8".into());
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        format!("another encoding from line {} on", line + 1)
    })
}

/// A temporary file beside `path`, removed unless it is finished.
pub(crate) fn begin(path: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // Temporary files are private by default, but a finished file must be as readable as any other.
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
    // The rename itself must survive a power cut. Not every file system lets a folder be synced, so
    // a failure is ignored.
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

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("names.txt");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path).map_err(|error| error.to_string())
        };
        for (bytes, expected) in [
            (&b"ant\nbee"[..], "ant\nbee"),
            (b"\xef\xbb\xbfant\r\nbee", "ant\r\nbee"),
            (b"\xef\xbb\xbf", ""),
            (b"ant\xef\xbb\xbf", "ant\u{feff}"),
        ] {
            assert_eq!(read(bytes).unwrap(), expected);
        }
        for (bytes, part) in [
            (
                &b"\xff\xfea\0"[..],
                "names.txt: expected text in UTF-8, got UTF-16",
            ),
            (b"\xfe\xff\0a", "got UTF-16: save it as UTF-8"),
            (b"ant\nb\xe9\n", "got another encoding from line 2 on"),
        ] {
            let message = read(bytes).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
