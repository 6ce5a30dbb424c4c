//! Archives from the network become files below one folder, and nothing else: no path leaves the
//! folder, no link is made, and no more bytes are written than were stated.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use fs_err::File;

/// How much an archive may unpack to, and where its files go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of all files.
    pub bytes: u64,
    /// Folders that are taken off the front of every path.
    pub strip: usize,
}

/// The most entries of an archive: the largest sets have a few hundred thousand images.
const ENTRIES: usize = 4_000_000;

/// Why an archive is not unpacked.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", archive.display())]
pub struct Refused {
    archive: PathBuf,
    message: String,
}

/// Unpacks a tar, a tar in gzip or a zip, told by its first bytes, into a folder in which nothing but
/// this function makes files. Returns the number of files.
///
/// # Errors
/// An archive of another kind or a damaged one; an entry whose path leaves the folder, or that is a
/// link or a device; more bytes than the limit; a full disk.
pub fn unpack(archive: &Path, folder: &Path, limits: Limits) -> Result<usize, Refused> {
    let refused = |message: String| Refused {
        archive: archive.to_owned(),
        message,
    };
    let mut target = Target {
        folder,
        limits,
        entries: 0,
        files: 0,
        left: limits.bytes,
    };
    let mut first = [0; 4];
    let mut file = File::open(archive).map_err(|e| refused(e.to_string()))?;
    let read = file
        .read(&mut first)
        .and_then(|_| io::Seek::rewind(&mut file));
    read.map_err(|e| refused(e.to_string()))?;
    let file = BufReader::with_capacity(1 << 18, file);
    match first {
        [0x1F, 0x8B, ..] => target.tar(MultiGzDecoder::new(file)),
        [b'P', b'K', ..] => target.zip(file),
        _ => target.tar(file),
    }
    .map_err(|e| refused(e.to_string()))?;
    Ok(target.files)
}

/// The folder that is unpacked into, and what may still be written there.
struct Target<'a> {
    folder: &'a Path,
    limits: Limits,
    entries: usize,
    files: usize,
    left: u64,
}

impl Target<'_> {
    fn tar(&mut self, stream: impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries()? {
            let entry = entry?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = entry.header().entry_type();
            match kind {
                _ if kind.is_dir() => self.count()?,
                _ if kind.is_file() => self.write(&name, entry)?,
                // Notes of the format, which are not files.
                _ if kind.is_pax_global_extensions() => self.count()?,
                _ => {
                    return Err(io::Error::other(format!(
                        "{name}: expected a file, got {kind:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    fn zip(&mut self, file: impl Read + io::Seek) -> io::Result<()> {
        let mut archive = zip::ZipArchive::new(file)?;
        for index in 0..archive.len() {
            let entry = archive.by_index(index)?;
            let name = entry.name()?.into_owned();
            if entry.is_symlink() {
                return Err(io::Error::other(format!(
                    "{name}: expected a file, got a link"
                )));
            }
            match entry.is_dir() {
                true => self.count()?,
                false => self.write(&name, entry)?,
            }
        }
        Ok(())
    }

    fn count(&mut self) -> io::Result<()> {
        self.entries += 1;
        match self.entries > ENTRIES {
            true => Err(io::Error::other(format!("more than {ENTRIES} entries"))),
            false => Ok(()),
        }
    }

    /// Writes an entry below the folder.
    fn write(&mut self, name: &str, mut content: impl Read) -> io::Result<()> {
        self.count()?;
        let Some(path) = inside(name, self.limits.strip)? else {
            return Ok(());
        };
        let path = self.folder.join(path);
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let mut file = File::create(&path)?;
        let mut buffer = [0; 1 << 16];
        loop {
            let count = content.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            // Counted as it arrives: the sizes that headers state may be wrong.
            let Some(left) = self.left.checked_sub(count as u64) else {
                let limit = self.limits.bytes;
                let message = format!("{name}: more than the {limit} bytes that were expected");
                return Err(io::Error::other(message));
            };
            self.left = left;
            file.write_all(&buffer[..count])?;
        }
        self.files += 1;
        Ok(())
    }
}

/// The path of an entry without its first `strip` folders; `None` if it has no more than these.
///
/// # Errors
/// A path that leads out of the folder, on this system or on another.
fn inside(name: &str, strip: usize) -> io::Result<Option<PathBuf>> {
    let drive = name.as_bytes().get(1) == Some(&b':');
    let leaves = name.starts_with('/') || name.split('/').any(|part| part == "..");
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if leaves || drive || name.contains(['\\', '\0']) || parts.is_empty() {
        let message = format!("{name:?}: expected a path inside of the folder");
        return Err(io::Error::other(message));
    }
    Ok((parts.len() > strip).then(|| parts[strip..].iter().collect()))
}

/// Moves everything below `from` to the same place below `to`, file by file where a folder is there
/// already.
///
/// # Errors
/// Those of the file system.
pub fn merge(from: &Path, to: &Path) -> io::Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        match place.is_dir() && path.is_dir() {
            true => merge(&path, &place)?,
            false => fs_err::rename(&path, &place)?,
        }
    }
    fs_err::remove_dir(from)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use zip::write::SimpleFileOptions;

    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 1000,
        strip: 0,
    };

    /// A tar of entries of any names: the checks of the library that makes it are left out.
    fn tar(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("target").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer
                .start_file(*name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Unpacks into a folder within a folder, in which nothing else may appear.
    fn unpacked(archive: &[u8], limits: Limits) -> Result<Vec<(String, Vec<u8>)>, String> {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("folder");
        let path = outer.path().join("archive");
        std::fs::write(&path, archive).unwrap();
        std::fs::create_dir(&folder).unwrap();
        let done = unpack(&path, &folder, limits).map_err(|e| e.to_string());
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2);
        let mut found = Vec::new();
        let mut folders = vec![folder.clone()];
        while let Some(next) = folders.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                assert!(!path.is_symlink());
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
                        found.push((name.to_owned(), std::fs::read(&path).unwrap()));
                    }
                }
            }
        }
        found.sort();
        done.map(|count| {
            assert_eq!(count, found.len());
            found
        })
    }

    #[test]
    fn three_kinds_of_archives_give_the_same_files() {
        use tar::EntryType::{Directory, Regular};
        let tar = tar(&[
            ("a/", Directory, b""),
            ("a/b.txt", Regular, b"one"),
            ("./a/c/d", Regular, b"two"),
        ]);
        let zip = zip(&[("a/b.txt", b"one"), ("a/c/d", b"two")]);
        let found = |strip: usize, names: [&str; 2]| {
            let limits = Limits { strip, ..LIMITS };
            let contents = [b"one".to_vec(), b"two".to_vec()];
            let names = names.map(str::to_owned);
            let expected: Vec<_> = names.into_iter().zip(contents).collect();
            for archive in [&tar, &gzip(&tar), &zip] {
                assert_eq!(unpacked(archive, limits).unwrap(), expected);
            }
        };
        found(0, ["a/b.txt", "a/c/d"]);
        found(1, ["b.txt", "c/d"]);
        let deep = Limits { strip: 2, ..LIMITS };
        assert_eq!(
            unpacked(&tar, deep).unwrap(),
            [("d".to_owned(), b"two".to_vec())]
        );
    }

    #[test]
    fn no_path_leaves_the_folder() {
        for name in ["../x", "a/../../x", "/etc/x", "a\\..\\x", "C:x", "a/.."] {
            for archive in [
                tar(&[(name, tar::EntryType::Regular, b"x")]),
                zip(&[(name, b"x")]),
            ] {
                let message = unpacked(&archive, LIMITS).unwrap_err();
                assert!(
                    message.contains("expected a path inside"),
                    "{name}: {message}"
                );
            }
        }
    }

    #[test]
    fn links_and_devices_are_refused() {
        use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
        for kind in [Symlink, Link, Char, Block, Fifo] {
            let archive = tar(&[("a", kind, b""), ("a/b", Regular, b"x")]);
            let message = unpacked(&archive, LIMITS).unwrap_err();
            assert!(message.contains("a: expected a file, got"), "{message}");
        }
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        writer.add_symlink("a", "/etc", options).unwrap();
        let archive = writer.finish().unwrap().into_inner();
        let message = unpacked(&archive, LIMITS).unwrap_err();
        assert!(
            message.contains("a: expected a file, got a link"),
            "{message}"
        );
    }

    #[test]
    fn bombs_and_damaged_archives_are_refused() {
        use tar::EntryType::Regular;
        let zeros = vec![0; 1 << 20];
        let bomb = tar(&[("a", Regular, &zeros)]);
        for archive in [gzip(&bomb), zip(&[("a", &zeros)])] {
            assert!(archive.len() < 5000);
            let message = unpacked(&archive, LIMITS).unwrap_err();
            assert!(message.contains("more than the 1000 bytes"), "{message}");
        }
        let whole = gzip(&tar(&[("a", Regular, b"x")]));
        assert!(unpacked(&whole[..whole.len() / 2], LIMITS).is_err());
        assert!(unpacked(b"text", LIMITS).is_err());
        assert!(unpacked(b"PK text", LIMITS).is_err());
    }

    #[test]
    fn folders_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for (path, content) in [
            ("from/a/new", "1"),
            ("from/a/both", "1"),
            ("to/a/both", "0"),
            ("to/a/old", "0"),
        ] {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), content).unwrap();
        }
        merge(&at("from"), &at("to")).unwrap();
        assert!(!at("from").exists());
        let read = |path: &str| std::fs::read_to_string(at(path)).unwrap();
        assert_eq!(
            ["new", "both", "old"].map(|name| read(&format!("to/a/{name}"))),
            ["1", "1", "0"]
        );
    }
}
