//! The prefix cache. The output of the frozen part below the first cut is computed once for each
//! image and then read, epoch after epoch and trial after trial. If nothing frozen lies below the
//! first cut, the pixels of the resized images are stored instead.
//!
//! The activations of a split are a [`Table`] with one row per image, found by a key: a hash of
//! weights, backbone, preprocessing, data, split, cut and types. A table is held in memory, or in a
//! file of the cache's folder, which other runs and other processes share; a lock lets only one of
//! them fill it.

pub mod available;
mod budget;
mod fill;
mod key;
mod prefix;

pub use prefix::Prefix;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use peft_core::Taps;

use crate::cache::available::available_memory;
use crate::cache::budget::{DEVICE_BUDGET, DISK_BUDGET, too_much};
use crate::cache::fill::{Unavailable, fill};
use crate::cache::key::Request;
use crate::config::cache::Store;
use crate::data::images::names;
use crate::data::loader::Loader;
use crate::data::on_device::DeviceTable;
use crate::data::random::EpochRandom;
use crate::data::rows::{Encoding, Rows, Tables};
use crate::data::table::{Table, Writer};
use crate::exit::Failure;
use crate::lock::wait_for;
use crate::run::progress::Reporter;

/// The cost of caching for a trial.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds spent on filling; 0 if another trial had filled the tables.
    pub seconds: f64,
    /// Bytes of the rows.
    pub bytes: usize,
}

/// The tables that this process holds, and the folder of those that outlive it.
pub struct Caches {
    folder: PathBuf,
    /// Whether other trials of this process will ask for the same tables.
    shared: bool,
    /// Tables by key, the one used last at the end.
    tables: Mutex<Vec<(String, Arc<Table>)>>,
    /// Tables on the device by key.
    device_tables: Mutex<Vec<(String, Arc<DeviceTable>)>>,
}

impl Caches {
    /// Caches whose files lie in `folder`, which is made when the first one is written.
    pub fn new(folder: &Path, shared: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            shared,
            tables: Mutex::default(),
            device_tables: Mutex::default(),
        }
    }

    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the loader with rows in place of its images, if the trial's `prefix_cache` allows
    /// it; rows that do not exist yet are computed. The trial goes through the images `uses` times,
    /// with or without random changes.
    ///
    /// # Errors
    /// If an image cannot be read and `on_error` is `fail`, or the run is interrupted. A full disk, a damaged
    /// file or too small a budget is not an error; it is reported, and caching is skipped.
    pub fn attach<'a>(
        &self,
        loader: Loader<'a>,
        prefix: &Prefix,
        random: Option<EpochRandom>,
        uses: usize,
        interrupt: &AtomicBool,
        reporter: &Reporter,
    ) -> Result<(Loader<'a>, Cost), Failure> {
        let store = prefix.store();
        if store == Store::Off {
            return Ok((loader, Cost::default()));
        }
        // Changes that come after what is stored are applied to each row when it is read.
        let random = random.filter(|random| prefix.is_changed_by(random));
        if let Some(why) = random.and_then(|random| prefix.refusal(&random)) {
            let splits = names(loader.splits());
            reporter.line(&format!("prefix cache: off for {splits}: {why}"));
            return Ok((loader, Cost::default()));
        }
        let mut cost = Cost::default();
        // Pixels stay in memory: they are changed and normalised there.
        let mut tables = match (store, prefix.encoding()) {
            (Store::Device, Encoding::Values(_)) => Tables::Device(Vec::new()),
            _ => Tables::Host(Vec::new()),
        };
        for &split in loader.splits() {
            let request = Request::new(split, &loader, prefix, random);
            let mut table = || self.table(&request, &loader, uses, interrupt, reporter, &mut cost);
            let found = match &mut tables {
                Tables::Host(tables) => table().map(|table| tables.push(table)),
                Tables::Device(tables) => {
                    let table = self.device_table(&request, table);
                    table.map(|table| tables.push(table))
                }
            };
            match found {
                Ok(()) => cost.bytes += request.shape.bytes(),
                Err(Unavailable::Pointless) => return Ok((loader, cost)),
                Err(Unavailable::Because(why)) => {
                    reporter.line(&format!("prefix cache: off for {split}: {why}"));
                    return Ok((loader, cost));
                }
                Err(Unavailable::Failed(failure)) => return Err(failure),
            }
        }
        let rows = Rows {
            cut: prefix.cut(),
            shape: prefix.shape(),
            views: random.map_or(1, |random| random.views),
            encoding: prefix.encoding(),
            tables,
        };
        Ok((loader.with_rows(rows), cost))
    }

    /// Returns the table on the device; if it is not there yet, it is copied from the one that
    /// `table` returns.
    fn device_table(
        &self,
        request: &Request,
        table: impl FnOnce() -> Result<Arc<Table>, Unavailable>,
    ) -> Result<Arc<DeviceTable>, Unavailable> {
        let mut held = self.device_tables();
        if let Some((_, found)) = held.iter().find(|(key, _)| *key == request.key) {
            return Ok(found.clone());
        }
        let bytes = request.shape.bytes();
        let budget = request.prefix.budget().unwrap_or(DEVICE_BUDGET);
        let total = |held: &[(String, Arc<DeviceTable>)]| -> usize {
            held.iter().map(|(_, table)| table.bytes()).sum()
        };
        if total(&held) + bytes > budget {
            // Loaders hold the tables that they read, so that a table held here only is unused.
            held.retain(|(_, table)| Arc::strong_count(table) > 1);
        }
        if total(&held) + bytes > budget {
            return Err(Unavailable::Because(too_much(bytes, budget)));
        }
        // Filling the table takes long, and other threads must not wait for it.
        drop(held);
        let table = table()?;
        let (values, device) = (request.prefix.value_type(), &request.prefix.device.device);
        let copy = Arc::new(DeviceTable::new(&table, values, device));
        self.device_tables()
            .push((request.key.clone(), copy.clone()));
        // The table in memory was only needed for the copy. One in a file takes no memory and stays.
        self.tables()
            .retain(|(key, table)| *key != request.key || table.memory_bytes() == 0);
        Ok(copy)
    }

    /// Returns the table that this process holds, the one on disk, or a new one.
    fn table(
        &self,
        request: &Request,
        loader: &Loader,
        uses: usize,
        interrupt: &AtomicBool,
        reporter: &Reporter,
        cost: &mut Cost,
    ) -> Result<Arc<Table>, Unavailable> {
        if let Some(table) = self.held(&request.key) {
            return Ok(table);
        }
        let path = self.folder.join(&request.key).with_extension("rows");
        if let Some(table) = open(&path, request, reporter) {
            return Ok(self.hold(&request.key, table));
        }
        // Filling reads every image once per view. A trial that reads them no more often gains
        // nothing, unless another one will use the table.
        if uses <= request.views() && !self.shared {
            return Err(Unavailable::Pointless);
        }
        let bytes = request.shape.bytes();
        let budget = request.prefix.budget();
        // Only a quarter, because the validation split has a table of its own, and batches and
        // activations need room too.
        let in_memory = budget.unwrap_or_else(|| available_memory() / 4);
        let on_disk = budget.unwrap_or(DISK_BUDGET);
        let fits = self.make_room(bytes, in_memory);
        let to_disk = match request.prefix.store() {
            Store::Disk => true,
            Store::Memory if !fits => {
                return Err(Unavailable::Because(too_much(bytes, in_memory)));
            }
            _ => !fits,
        };
        if to_disk && bytes > on_disk {
            return Err(Unavailable::Because(too_much(bytes, on_disk)));
        }
        if !to_disk {
            let start = Instant::now();
            let writer = Writer::memory(request.shape).map_err(|e| because(&"memory", &e))?;
            let below = self.below(request, loader);
            let table = fill(writer, request, loader, below, interrupt, reporter)?;
            cost.seconds += start.elapsed().as_secs_f64();
            return Ok(self.hold(&request.key, table));
        }
        let folder = self.folder.display();
        fs_err::create_dir_all(&self.folder).map_err(|e| because(&folder, &e))?;
        // The lock is on a file of its own: the table is replaced by renaming, so a lock on it
        // would hold a file that no longer has the name. Lock files are never removed, for the same
        // reason.
        let lock = path.with_extension("lock");
        let lock = File::create(&lock).map_err(|e| because(&lock.display(), &e))?;
        // The operating system releases the lock of a process that dies, so this wait always ends.
        wait_for(&lock, &path, interrupt)?;
        // Look again: another process may have written the file meanwhile. Damage was reported
        // above.
        if let Ok(Some(table)) = Table::open(&path, &request.key, request.shape) {
            return Ok(self.hold(&request.key, table));
        }
        // Time spent waiting for another process is not charged to this trial.
        let start = Instant::now();
        self.make_room_on_disk(bytes, on_disk);
        let writer = Writer::file(&path, &request.key, request.shape);
        let writer = writer.map_err(|e| because(&path.display(), &e))?;
        let below = self.below(request, loader);
        let table = fill(writer, request, loader, below, interrupt, reporter)?;
        cost.seconds += start.elapsed().as_secs_f64();
        Ok(self.hold(&request.key, table))
    }

    /// The rows of the nearest lower cut that this process holds, if the rows of the request follow from
    /// them to the bit: a sweep over boundaries then runs each block once.
    fn below(&self, request: &Request, loader: &Loader) -> Option<Rows> {
        if request.random.is_some() || !request.prefix.is_exact() {
            return None;
        }
        let taps = request.prefix.taps;
        // The value at the first cut that a side network reads is not yet one of its rows. At cut 0 the rows are
        // the images, which follow from nothing.
        let highest = taps
            .first()
            .saturating_sub(usize::from(!taps.are_of_side()));
        (1..=highest).rev().find_map(|cut| {
            let taps = Taps::at(cut);
            let prefix = Prefix {
                taps: &taps,
                ..*request.prefix
            };
            let lower = Request::new(request.split, loader, &prefix, None);
            let table = self.held(&lower.key)?;
            Some(Rows {
                cut,
                shape: prefix.shape(),
                views: 1,
                encoding: prefix.encoding(),
                tables: Tables::Host(vec![table]),
            })
        })
    }

    fn tables(&self) -> MutexGuard<'_, Vec<(String, Arc<Table>)>> {
        // A panic of another trial leaves the list valid: it is changed in single calls only.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device_tables(&self) -> MutexGuard<'_, Vec<(String, Arc<DeviceTable>)>> {
        self.device_tables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the table of a key if this process holds it, and moves it to the end of the list.
    fn held(&self, key: &str) -> Option<Arc<Table>> {
        let mut tables = self.tables();
        let place = tables.iter().position(|(other, _)| other == key)?;
        let entry = tables.remove(place);
        let table = entry.1.clone();
        tables.push(entry);
        Some(table)
    }

    fn hold(&self, key: &str, table: Table) -> Arc<Table> {
        let table = Arc::new(table);
        self.tables().push((key.to_owned(), table.clone()));
        table
    }

    /// Drops the least recently used tables in memory that no loader reads, and no more than
    /// needed, until `bytes` fit into the budget. Returns `false` and drops none if they would not
    /// fit even then.
    fn make_room(&self, bytes: usize, budget: usize) -> bool {
        let mut tables = self.tables();
        let unused = |(_, table): &&(String, Arc<Table>)| Arc::strong_count(table) == 1;
        let size = |(_, table): &(String, Arc<Table>)| table.memory_bytes();
        let total: usize = tables.iter().map(size).sum();
        let spare: usize = tables.iter().filter(unused).map(size).sum();
        let mut excess = (total + bytes).saturating_sub(budget);
        if excess > spare {
            return false;
        }
        tables.retain(|entry| {
            let goes = excess > 0 && unused(&entry) && size(entry) > 0;
            excess = excess.saturating_sub(if goes { size(entry) } else { 0 });
            !goes
        });
        true
    }

    /// Removes the files that were used least recently until `bytes` fit into the budget. A process that has
    /// one of them open can still read it.
    fn make_room_on_disk(&self, bytes: usize, budget: usize) {
        // The folder may belong to another user or be gone; then the budget is simply not enforced.
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let is_table = |path: &Path| path.extension().is_some_and(|e| e == "rows");
        let mut files: Vec<(SystemTime, usize, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let meta = entry.metadata().ok()?;
                let used = meta.modified().ok()?;
                Some((used, meta.len() as usize, entry.path()))
            })
            .filter(|(_, _, path)| is_table(path))
            .collect();
        files.sort();
        let mut total: usize = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in files {
            if total + bytes <= budget {
                break;
            }
            // Another process may remove it first, or its owner may be someone else.
            if std::fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
}

fn because(place: &dyn std::fmt::Display, error: &io::Error) -> Unavailable {
    Unavailable::Because(format!("{place}: {error}"))
}

/// Returns the table in a file if the file is complete and holds what is asked for. Any other file
/// is reported and will be replaced.
fn open(path: &Path, request: &Request, reporter: &Reporter) -> Option<Table> {
    match Table::open(path, &request.key, request.shape) {
        Ok(table) => {
            if table.is_some()
                && let Ok(file) = File::options().append(true).open(path)
            {
                // The time of the last use decides which files are removed first. It is set by hand, because
                // many file systems do not record reads. A folder that cannot be written only loses this.
                let _ = file.set_modified(SystemTime::now());
            }
            table
        }
        Err(e) => {
            let path = path.display();
            reporter.line(&format!("prefix cache: {path}: {e}; it is computed again"));
            None
        }
    }
}
