//! The prefix cache: what the frozen part below the first cut makes of every image is computed once
//! and then read, epoch after epoch, trial after trial. Where nothing frozen lies below the first cut,
//! the prefix is the preprocessing, and what is kept are the pixels of the resized images.
//!
//! A split's activations are a [`Table`] with one row an image, found by a key: a hash of weights,
//! backbone, preprocessing, data, split, cut and types. It lies in memory, or in a file of the cache's
//! folder that other runs and other processes share; a lock makes one of them fill it.

mod budget;
mod fill;
mod key;
mod prefix;

pub use prefix::Prefix;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use crate::cache::budget::{DEVICE_BUDGET, DISK_BUDGET, available_memory, too_much};
use crate::cache::fill::{Unfit, fill};
use crate::cache::key::Wanted;
use crate::config::cache::{Store, ValueType};
use crate::data::images::names;
use crate::data::loader::Loader;
use crate::data::on_device::Resident;
use crate::data::random::EpochRandom;
use crate::data::rows::{Encoding, Rows, Tables};
use crate::data::table::{Table, Writer};
use crate::exit::Failure;
use crate::lock::wait_for;
use crate::run::progress::Reporter;

/// What caching took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Seconds of filling; 0 where all was there.
    pub seconds: f64,
    /// Bytes of the rows.
    pub bytes: usize,
}

/// The tables of this process, and the folder of those that outlive it.
pub struct Caches {
    folder: PathBuf,
    /// Whether other trials of this process will ask for the same.
    shared: bool,
    /// Keys and tables, the last used one last.
    held: Mutex<Vec<(String, Arc<Table>)>>,
    /// The same on the device.
    resident: Mutex<Vec<(String, Arc<Resident>)>>,
}

impl Caches {
    /// Files are below `folder`, which is made when the first one is written.
    pub fn new(folder: &Path, shared: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            shared,
            held: Mutex::default(),
            resident: Mutex::default(),
        }
    }

    /// The loader with rows in the place of its images, where the trial's `prefix_cache` allows it,
    /// filled if need be. It goes through the images `uses` times, changed at random or not.
    ///
    /// # Errors
    /// If an image cannot be read, or the run is interrupted. A full disk, a damaged file or too small
    /// a budget is no error: it is said, and the loader stays as it is.
    pub fn attach<'a>(
        &self,
        loader: Loader<'a>,
        prefix: &Prefix,
        random: Option<EpochRandom>,
        uses: usize,
        interrupt: &AtomicBool,
        reporter: &mut Reporter,
    ) -> Result<(Loader<'a>, Cost), Failure> {
        let store = prefix.store();
        if store == Store::Off {
            return Ok((loader, Cost::default()));
        }
        // Random changes differ every epoch. Pixels are kept as they are before them, unless the resize
        // is random; of activations, k views are k sets of rows.
        let unchanged = |random: &EpochRandom| match prefix.cut {
            0 => random.augment.random_resized_crop.is_none(),
            _ => random.augment == Default::default(),
        };
        let random = random.filter(|random| !unchanged(random));
        if let Some(random) = random
            && (random.views == 0 || random.augment.mixes() || prefix.cut == 0)
        {
            let why = match (random.augment.mixes(), prefix.cut) {
                (_, 0) => "they are cropped at random",
                (true, _) => "the images are mixed at random",
                (false, _) => {
                    "the images are changed at random; cache_views: 4, say, would keep so many changes \
                     of each"
                }
            };
            let splits = names(loader.splits());
            reporter.line(&format!("prefix cache: off for {splits}: {why}"));
            return Ok((loader, Cost::default()));
        }
        let mut cost = Cost::default();
        let (mut tables, mut residents) = (Vec::new(), Vec::new());
        for &split in loader.splits() {
            let wanted = Wanted::new(split, &loader, prefix, random);
            let mut make = || self.table(&wanted, &loader, uses, interrupt, reporter, &mut cost);
            let made = match prefix.encoding() {
                Encoding::Values(values) if store == Store::Device => self
                    .on_device(&wanted, values, make)
                    .map(|made| made.map(|resident| residents.push(resident))),
                _ => make().map(|made| made.map(|table| tables.push(table))),
            };
            match made {
                Ok(Some(())) => {}
                Ok(None) => return Ok((loader, cost)),
                Err(Unfit::Because(why)) => {
                    reporter.line(&format!("prefix cache: off for {split}: {why}"));
                    return Ok((loader, cost));
                }
                Err(Unfit::Failed(failure)) => return Err(failure),
            }
            cost.bytes += wanted.shape.bytes();
        }
        let rows = Rows {
            cut: prefix.cut,
            shape: prefix.shape(),
            views: random.map_or(1, |random| random.views),
            encoding: prefix.encoding(),
            tables: match residents.is_empty() {
                true => Tables::Host(tables),
                false => Tables::Device(residents),
            },
        };
        Ok((loader.with_rows(rows), cost))
    }

    /// The rows on the device: there already, or copied from the table that `make` gives.
    fn on_device(
        &self,
        wanted: &Wanted,
        values: ValueType,
        make: impl FnOnce() -> Result<Option<Arc<Table>>, Unfit>,
    ) -> Result<Option<Arc<Resident>>, Unfit> {
        let residents = || self.resident.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |(key, _): &&(String, Arc<Resident>)| *key == wanted.key;
        if let Some((_, resident)) = residents().iter().find(find) {
            return Ok(Some(resident.clone()));
        }
        let bytes = wanted.shape.bytes();
        let budget = wanted.prefix.budget().unwrap_or(DEVICE_BUDGET);
        // Whatever no trial uses any more makes room.
        let total = |held: &[(String, Arc<Resident>)]| -> usize {
            held.iter().map(|(_, resident)| resident.bytes()).sum()
        };
        let mut held = residents();
        if total(&held) + bytes > budget {
            held.retain(|(_, resident)| Arc::strong_count(resident) > 1);
        }
        if total(&held) + bytes > budget {
            return Err(Unfit::Because(too_much(bytes, budget)));
        }
        drop(held);
        let Some(table) = make()? else {
            return Ok(None);
        };
        let device = &wanted.prefix.device.device;
        let resident = Arc::new(Resident::new(&table, values, device));
        residents().push((wanted.key.clone(), resident.clone()));
        // The copy in memory has done its work.
        self.tables()
            .retain(|(key, table)| *key != wanted.key || table.resident() == 0);
        Ok(Some(resident))
    }

    /// The table: held, on disk, or filled now; none where filling would not pay.
    fn table(
        &self,
        wanted: &Wanted,
        loader: &Loader,
        uses: usize,
        interrupt: &AtomicBool,
        reporter: &mut Reporter,
        cost: &mut Cost,
    ) -> Result<Option<Arc<Table>>, Unfit> {
        if let Some(table) = self.held(&wanted.key) {
            return Ok(Some(table));
        }
        let path = self.folder.join(&wanted.key).with_extension("rows");
        if let Some(table) = open(&path, wanted, reporter) {
            return Ok(Some(self.hold(&wanted.key, table)));
        }
        // Filling goes through the images once for each view.
        let views = wanted.random.map_or(1, |random| random.views);
        if uses <= views && !self.shared {
            return Ok(None);
        }
        let budget = wanted.prefix.budget();
        let bytes = wanted.shape.bytes();
        let in_memory = budget.unwrap_or_else(|| available_memory() / 4);
        let on_disk = budget.unwrap_or(DISK_BUDGET);
        let fits = self.make_room(bytes, in_memory);
        let to_disk = match wanted.prefix.store() {
            Store::Disk => true,
            Store::Memory if !fits => return Err(Unfit::Because(too_much(bytes, in_memory))),
            _ => !fits,
        };
        if to_disk && bytes > on_disk {
            return Err(Unfit::Because(too_much(bytes, on_disk)));
        }
        let mut start = Instant::now();
        let table = match to_disk {
            false => {
                let writer = Writer::memory(wanted.shape).map_err(|e| said(&"memory", &e))?;
                fill(writer, wanted, loader, interrupt, reporter)?
            }
            true => {
                let folder = self.folder.display();
                fs_err::create_dir_all(&self.folder).map_err(|e| said(&folder, &e))?;
                let lock = path.with_extension("lock");
                let lock = File::create(&lock).map_err(|e| said(&lock.display(), &e))?;
                // Another process that fills it is waited for; if it ended too early, it is filled here.
                wait_for(&lock, &path, interrupt)?;
                // What is wrong with a file was said above.
                if let Ok(Some(table)) = Table::open(&path, &wanted.key, wanted.shape) {
                    return Ok(Some(self.hold(&wanted.key, table)));
                }
                start = Instant::now();
                self.make_room_on_disk(bytes, on_disk);
                let writer = Writer::file(&path, &wanted.key, wanted.shape);
                let writer = writer.map_err(|e| said(&path.display(), &e))?;
                fill(writer, wanted, loader, interrupt, reporter)?
            }
        };
        cost.seconds += start.elapsed().as_secs_f64();
        Ok(Some(self.hold(&wanted.key, table)))
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, Vec<(String, Arc<Table>)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, key: &str) -> Option<Arc<Table>> {
        let mut held = self.tables();
        let place = held.iter().position(|(other, _)| other == key)?;
        let entry = held.remove(place);
        let table = entry.1.clone();
        held.push(entry);
        Some(table)
    }

    fn hold(&self, key: &str, table: Table) -> Arc<Table> {
        let table = Arc::new(table);
        self.tables().push((key.to_owned(), table.clone()));
        table
    }

    /// Lets go of the tables that were not used for longest, and of no more than needed, until `bytes`
    /// fit into the budget; of none, and false, if they would not fit even so.
    fn make_room(&self, bytes: usize, budget: usize) -> bool {
        let mut held = self.tables();
        let idle = |(_, table): &&(String, Arc<Table>)| Arc::strong_count(table) == 1;
        let resident = |(_, table): &(String, Arc<Table>)| table.resident();
        let total: usize = held.iter().map(resident).sum();
        let spare: usize = held.iter().filter(idle).map(resident).sum();
        let mut excess = (total + bytes).saturating_sub(budget);
        if excess > spare {
            return false;
        }
        held.retain(|entry| {
            let goes = excess > 0 && idle(&entry) && resident(entry) > 0;
            excess = excess.saturating_sub(if goes { resident(entry) } else { 0 });
            !goes
        });
        true
    }

    /// Removes the files that were not used for longest until `bytes` fit into the budget. Processes
    /// that have one open keep it.
    fn make_room_on_disk(&self, bytes: usize, budget: usize) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let rows = |path: &Path| path.extension().is_some_and(|e| e == "rows");
        let mut files: Vec<(SystemTime, usize, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let meta = entry.metadata().ok()?;
                let used = meta.modified().ok()?;
                Some((used, meta.len() as usize, entry.path()))
            })
            .filter(|(_, _, path)| rows(path))
            .collect();
        files.sort();
        let mut total: usize = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in files {
            if total + bytes <= budget {
                break;
            }
            if std::fs::remove_file(path).is_ok() {
                total -= size;
            }
        }
    }
}

fn said(place: &dyn std::fmt::Display, error: &io::Error) -> Unfit {
    Unfit::Because(format!("{place}: {error}"))
}

/// The file's table, if it is whole and the one that is wanted. Anything else is said and made again.
fn open(path: &Path, wanted: &Wanted, reporter: &mut Reporter) -> Option<Table> {
    match Table::open(path, &wanted.key, wanted.shape) {
        Ok(table) => {
            if table.is_some()
                && let Ok(file) = File::options().append(true).open(path)
            {
                // When it was used last decides what goes first.
                let _ = file.set_modified(SystemTime::now());
            }
            table
        }
        Err(e) => {
            let path = path.display();
            reporter.line(&format!("prefix cache: {path}: {e}; it is made again"));
            None
        }
    }
}
