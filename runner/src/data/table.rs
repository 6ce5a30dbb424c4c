//! A table of rows of equal length, written once from first to last and then read in any order: in
//! memory, or in a memory-mapped file that is either complete or ignored.
//!
//! The file holds the rows one after the other, then a trailer in JSON, the trailer's length in eight
//! bytes (little endian) and the BLAKE3 hash of everything before it. What describes the rows comes last,
//! because rows without a value are known only at the end, and because a file that was cut off then lacks
//! it. The rows start at the first byte, so that a row is a slice of the mapping.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};
use serde::{Deserialize, Serialize};

const FORMAT: &str = "peft-rows/1";
const HASH: usize = blake3::OUT_LEN;
const LENGTH: usize = size_of::<u64>();

/// A complete table.
#[derive(Debug)]
pub struct Table {
    row_bytes: usize,
    /// The rows that have no value, and why.
    missing: BTreeMap<usize, String>,
    bytes: Bytes,
}

/// Where the rows are.
#[derive(Debug)]
enum Bytes {
    /// Mapped, not allocated, so that they do not count as memory of a trial.
    Memory(MmapMut),
    File(Mmap),
}

/// The number and size of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of rows, including those without a value.
    pub rows: usize,
    /// Bytes of each row.
    pub row_bytes: usize,
}

impl Shape {
    /// Bytes of all rows.
    pub fn bytes(self) -> usize {
        self.rows * self.row_bytes
    }
}

/// What the end of a file says about it.
#[derive(Serialize, Deserialize)]
struct Trailer {
    format: String,
    key: String,
    rows: usize,
    row_bytes: usize,
    missing: BTreeMap<usize, String>,
}

impl Table {
    /// The table in the file at `path`; `None` if there is no such file.
    ///
    /// # Errors
    /// If the file is cut off or damaged, or has another key or shape.
    pub fn open(path: &Path, key: &str, shape: Shape) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        // SAFETY: this program replaces files of a cache by renaming and never changes them in place. If
        // another program changes one meanwhile, rows may be wrong, as with any file.
        let map = unsafe { Mmap::map(&file)? };
        // All of the file is hashed once. That takes a fraction of the time in which the rows could be computed
        // again, and brings them into the system's page cache, from which they are read afterwards.
        let trailer = check(&map).ok_or_else(|| invalid("it is damaged or cut off"))?;
        let same = trailer.format == FORMAT
            && trailer.key == key
            && (trailer.rows, trailer.row_bytes) == (shape.rows, shape.row_bytes);
        if !same {
            return Err(invalid("it belongs to other images or another backbone"));
        }
        Ok(Some(Self {
            row_bytes: shape.row_bytes,
            missing: trailer.missing,
            bytes: Bytes::File(map),
        }))
    }

    /// A row; `None` if it has no value.
    pub fn row(&self, index: usize) -> Option<&[u8]> {
        if self.missing.contains_key(&index) {
            return None;
        }
        self.bytes()
            .get(index * self.row_bytes..(index + 1) * self.row_bytes)
    }

    /// All rows, one after the other; those without a value are zero.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Memory(map) => map,
            Bytes::File(map) => map,
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The rows without a value, and why.
    pub fn missing(&self) -> &BTreeMap<usize, String> {
        &self.missing
    }

    /// Bytes that count against a budget of memory: none of a file's, because the system can drop its pages
    /// at any time.
    pub fn memory_bytes(&self) -> usize {
        match &self.bytes {
            Bytes::Memory(map) => map.len(),
            Bytes::File(_) => 0,
        }
    }
}

/// The trailer of a file, if the file is complete and undamaged. Nothing in it is trusted before the hash of
/// all of it is right.
fn check(file: &[u8]) -> Option<Trailer> {
    let (content, hash) = file.split_at_checked(file.len().checked_sub(HASH)?)?;
    if blake3::hash(content).as_bytes() != hash {
        return None;
    }
    let (content, length) = content.split_at_checked(content.len().checked_sub(LENGTH)?)?;
    let length = usize::try_from(u64::from_le_bytes(length.try_into().ok()?)).ok()?;
    let rows = content.len().checked_sub(length)?;
    let trailer: Trailer = serde_json::from_slice(&content[rows..]).ok()?;
    let whole = trailer.rows.checked_mul(trailer.row_bytes)? == rows;
    whole.then_some(trailer)
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// A table in the making.
pub struct Writer {
    shape: Shape,
    written: usize,
    missing: BTreeMap<usize, String>,
    sink: Sink,
}

enum Sink {
    Memory(MmapMut),
    File {
        file: BufWriter<File>,
        hasher: Box<blake3::Hasher>,
        partial: PathBuf,
        path: PathBuf,
        key: String,
    },
}

impl Writer {
    /// Writes into memory.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn memory(shape: Shape) -> io::Result<Self> {
        // The system refuses to map zero bytes.
        let map = MmapMut::map_anon(shape.bytes().max(1))?;
        Ok(Self::new(shape, Sink::Memory(map)))
    }

    /// Writes into a file that gets its name only once it is complete. The caller holds the lock of the key,
    /// because two writers would write to one partial file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn file(path: &Path, key: &str, shape: Shape) -> io::Result<Self> {
        let partial = path.with_extension("partial");
        // A partial file of a process that was killed is overwritten.
        let file = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
        let sink = Sink::File {
            file,
            hasher: Box::default(),
            partial,
            path: path.to_owned(),
            key: key.to_owned(),
        };
        Ok(Self::new(shape, sink))
    }

    fn new(shape: Shape, sink: Sink) -> Self {
        Self {
            shape,
            written: 0,
            missing: BTreeMap::new(),
            sink,
        }
    }

    /// Writes the next row.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn push(&mut self, row: &[u8]) -> io::Result<()> {
        debug_assert_eq!(row.len(), self.shape.row_bytes);
        match &mut self.sink {
            Sink::Memory(map) => {
                let start = self.written * self.shape.row_bytes;
                map[start..start + row.len()].copy_from_slice(row);
            }
            Sink::File { file, hasher, .. } => {
                // Hashed on the way, so that the finished file need not be read again.
                hasher.update(row);
                file.write_all(row)?;
            }
        }
        self.written += 1;
        Ok(())
    }

    /// Writes a row without a value, and why it has none.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn skip(&mut self, why: &str) -> io::Result<()> {
        // Zeros in its place keep every row at a multiple of the row size.
        self.missing.insert(self.written, why.to_owned());
        self.push(&vec![0; self.shape.row_bytes])
    }

    /// The number of rows so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// The table, once all rows are written.
    ///
    /// # Errors
    /// If rows are missing or the disk is full.
    pub fn finish(mut self) -> io::Result<Table> {
        if self.written != self.shape.rows {
            return Err(invalid("not all rows were written"));
        }
        // A type with a destructor does not let its fields move out: they are exchanged for empty ones.
        let missing = std::mem::take(&mut self.missing);
        let Shape { rows, row_bytes } = self.shape;
        let bytes = match &mut self.sink {
            Sink::Memory(map) => Bytes::Memory(std::mem::replace(map, MmapMut::map_anon(1)?)),
            Sink::File {
                file,
                hasher,
                partial,
                path,
                key,
            } => {
                let trailer = Trailer {
                    format: FORMAT.to_owned(),
                    key: key.clone(),
                    rows,
                    row_bytes,
                    missing: missing.clone(),
                };
                let mut end = serde_json::to_vec(&trailer)?;
                end.extend((end.len() as u64).to_le_bytes());
                hasher.update(&end);
                end.extend(hasher.finalize().as_bytes());
                file.write_all(&end)?;
                // The rows must be on disk before the name is: a crash may otherwise leave an empty file.
                file.flush()?;
                file.get_ref().sync_all()?;
                std::fs::rename(&*partial, &*path)?;
                let file = File::open(path)?;
                // SAFETY: as in `Table::open`.
                Bytes::File(unsafe { Mmap::map(&file)? })
            }
        };
        Ok(Table {
            row_bytes,
            missing,
            bytes,
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Sink::File { partial, .. } = &self.sink {
            // After `finish` there is no such file any more.
            let _ = std::fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        rows: 3,
        row_bytes: 4,
    };

    fn fill(mut writer: Writer) -> Table {
        writer.push(&[1; 4]).unwrap();
        writer.skip("not an image").unwrap();
        writer.push(&[3; 4]).unwrap();
        writer.finish().unwrap()
    }

    fn same(table: &Table) {
        assert_eq!(table.row(0), Some(&[1; 4][..]));
        assert_eq!(table.row(1), None);
        assert_eq!(table.row(2), Some(&[3; 4][..]));
        assert_eq!(table.missing()[&1], "not an image");
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rows");
        same(&fill(Writer::memory(SHAPE).unwrap()));
        same(&fill(Writer::file(&path, "key", SHAPE).unwrap()));
        same(&Table::open(&path, "key", SHAPE).unwrap().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rows");
        assert!(Table::open(&path, "key", SHAPE).unwrap().is_none());
        fill(Writer::file(&path, "key", SHAPE).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let refused = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let error = Table::open(&path, "key", SHAPE).unwrap_err();
            assert_eq!(error.to_string(), "it is damaged or cut off");
        };
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            refused(&changed);
            refused(&whole[..place]);
        }
        std::fs::write(&path, &whole).unwrap();
        for (key, rows) in [("other", 3), ("key", 2)] {
            let shape = Shape { rows, ..SHAPE };
            let error = Table::open(&path, key, shape).unwrap_err().to_string();
            assert_eq!(error, "it belongs to other images or another backbone");
        }
    }

    #[test]
    fn an_unfinished_file_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.rows");
        let mut writer = Writer::file(&path, "key", SHAPE).unwrap();
        writer.push(&[1; 4]).unwrap();
        assert!(Table::open(&path, "key", SHAPE).unwrap().is_none());
        assert!(writer.finish().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
