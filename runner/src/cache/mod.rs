//! The prefix cache: what the frozen part below the first cut makes of every image is computed once
//! and then read, epoch after epoch, trial after trial. Where nothing frozen lies below the first cut,
//! the prefix is the preprocessing, and what is kept are the pixels of the resized images.
//!
//! A split's activations are a [`Table`] with one row an image, found by a key: a hash of weights,
//! backbone, preprocessing, data, split, cut and types. It lies in memory, or in a file of the cache's
//! folder that other runs and other processes share; a lock makes one of them fill it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use burn::tensor::{DType, Device};
use half::{bf16, f16};
use peft_core::activation::BoundaryShape;
use peft_core::backbone::{BoxedBackbone, Cut};
use peft_core::data::Split;
use peft_core::{Activation, Hooks};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::loader::{EpochRandom, Loader, Pass, names};
use crate::data::on_device::{Resident, gather};
use crate::data::table::{Shape, Table, Writer};
use crate::device::Chosen;
use crate::exit::{Exit, Failure, failure};
use crate::model::trial::Trial;
use crate::run::folder::wait_for;
use crate::run::progress::Reporter;

/// Raised with every change of a kernel, a decoder or a transform that alters a number, so that no old
/// file is taken.
const KERNELS: u32 = 4;

/// Of a folder of files, where no budget is given.
const DISK_BUDGET: usize = 16 << 30;

/// Of the device's memory, where no budget is given.
const DEVICE_BUDGET: usize = 8 << 30;

/// Where what the frozen prefix gives is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In memory if it fits in the budget, else on disk if it fits there, else nowhere.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// In memory, within the budget.
    Memory,
    /// On the device that trains, within the budget; resized pixels in memory.
    Device,
    /// In memory-mapped files, which later runs use again.
    Disk,
}

/// What a value is kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ValueType {
    /// As it is.
    F32,
    /// Rounded to 11 significant bits: an error of at most 2^-11 of each value, and 2^-25 near 0;
    /// values above 65,504 become infinite.
    F16,
    /// Rounded to 8 significant bits: an error of at most 2^-8 of each value.
    Bf16,
}

impl ValueType {
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    pub fn write(self, values: &[f32], row: &mut Vec<u8>) {
        row.clear();
        match self {
            Self::F32 => row.extend(values.iter().flat_map(|v| v.to_le_bytes())),
            Self::F16 => row.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
            Self::Bf16 => row.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        }
    }

    /// The values of a row.
    pub fn read(self, row: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => decode(row, out, f32::from_le_bytes),
            Self::F16 => decode(row, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => decode(row, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

fn decode<const N: usize>(row: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
        *out = value(*bytes);
    }
}

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Pixels of the resized image, `[h, w, 3]`, before random changes.
    Pixels,
    /// An activation.
    Values(ValueType),
}

impl Encoding {
    pub fn bytes(self) -> usize {
        match self {
            Self::Pixels => 1,
            Self::Values(values) => values.bytes(),
        }
    }
}

/// The rows that stand in for the images of a loader.
#[derive(Clone)]
pub struct Rows {
    /// Where the model goes on.
    pub cut: Cut,
    /// Of a row, decoded.
    pub shape: BoundaryShape,
    /// How many times each image is there, changed differently.
    pub views: usize,
    encoding: Encoding,
    tables: Tables,
}

/// One a split.
#[derive(Clone)]
enum Tables {
    Host(Vec<Arc<Table>>),
    Device(Vec<Arc<Resident>>),
}

/// A row of [`Rows`].
pub enum Row<'a> {
    /// `[h, w, 3]`, before random changes.
    Pixels(&'a [u8]),
    /// An activation, and what its values are kept as.
    Values(ValueType, &'a [u8]),
    /// An activation that is on the device already.
    Resident,
}

impl Rows {
    /// A row of the table of a split.
    ///
    /// # Errors
    /// Why it has no value.
    pub fn get(&self, which: usize, row: usize) -> Result<Row<'_>, &str> {
        let table = match &self.tables {
            Tables::Host(tables) => &tables[which],
            Tables::Device(residents) => {
                return residents[which].missing(row).map_or(Ok(Row::Resident), Err);
            }
        };
        let missing = || table.missing().get(&row).map_or("", String::as_str);
        let bytes = table.row(row).ok_or_else(missing)?;
        Ok(match self.encoding {
            Encoding::Pixels => Row::Pixels(bytes),
            Encoding::Values(values) => Row::Values(values, bytes),
        })
    }

    /// Whether its rows are on the device.
    pub fn is_resident(&self) -> bool {
        matches!(self.tables, Tables::Device(_))
    }

    /// Rows by split and place there, if they are on the device.
    pub fn gather(&self, places: &[(usize, usize)], device: &Device) -> Option<Activation> {
        let Tables::Device(residents) = &self.tables else {
            return None;
        };
        Some(self.shape.of_rows(gather(residents, places, device)))
    }
}

/// What runs below the first cut of a trial.
#[derive(Clone, Copy)]
pub struct Prefix<'a> {
    /// The trial.
    pub trial: &'a Trial,
    /// The frozen part on the plain device; none where the cut is 0.
    pub backbone: Option<&'a BoxedBackbone>,
    /// The first cut.
    pub cut: Cut,
    /// The device.
    pub device: &'a Chosen,
}

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

/// Why a table is not to be had.
enum Unfit {
    /// Said to people, once a trial.
    Because(String),
    Failed(Failure),
}

impl From<Failure> for Unfit {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
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
        let experiment = &prefix.trial.experiment;
        let store = experiment.prefix_cache;
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
            let made = match encoding(prefix) {
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
            shape: prefix.trial.shape_at(prefix.cut),
            views: random.map_or(1, |random| random.views),
            encoding: encoding(prefix),
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
        let budget = budget(wanted.prefix.trial).unwrap_or(DEVICE_BUDGET);
        // Whatever no trial uses any more makes room.
        let total = |held: &[(String, Arc<Resident>)]| -> usize {
            held.iter().map(|(_, resident)| resident.bytes()).sum()
        };
        let mut held = residents();
        if total(&held) + bytes > budget {
            held.retain(|(_, resident)| Arc::strong_count(resident) > 1);
        }
        if total(&held) + bytes > budget {
            return Err(too_much(bytes, budget));
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
        let experiment = &wanted.prefix.trial.experiment;
        let budget = budget(wanted.prefix.trial);
        let bytes = wanted.shape.bytes();
        let in_memory = budget.unwrap_or_else(|| available_memory() / 4);
        let on_disk = budget.unwrap_or(DISK_BUDGET);
        let fits = self.make_room(bytes, in_memory);
        let to_disk = match experiment.prefix_cache {
            Store::Disk => true,
            Store::Memory if !fits => return Err(too_much(bytes, in_memory)),
            _ => !fits,
        };
        if to_disk && bytes > on_disk {
            return Err(too_much(bytes, on_disk));
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

/// What the trial's `cache_budget_gib` says, in bytes.
fn budget(trial: &Trial) -> Option<usize> {
    let budget = trial.experiment.cache_budget_gib;
    budget.map(|gib| (gib * f64::from(1 << 30)) as usize)
}

fn too_much(bytes: usize, budget: usize) -> Unfit {
    let (bytes, budget) = (mebibytes(bytes), mebibytes(budget));
    Unfit::Because(format!("{bytes} are more than the budget of {budget}"))
}

fn said(place: &dyn std::fmt::Display, error: &io::Error) -> Unfit {
    Unfit::Because(format!("{place}: {error}"))
}

fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
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

/// A table that is asked for.
struct Wanted<'a> {
    key: String,
    shape: Shape,
    split: Split,
    random: Option<EpochRandom>,
    prefix: &'a Prefix<'a>,
}

impl<'a> Wanted<'a> {
    fn new(split: Split, loader: &Loader, prefix: &'a Prefix, random: Option<EpochRandom>) -> Self {
        let views = random.map_or(1, |random| random.views);
        let row = prefix.trial.shape_at(prefix.cut).elements();
        Self {
            key: key(split, loader, prefix, random),
            shape: Shape {
                rows: views * loader.images().dataset().len(split),
                row_bytes: row * encoding(prefix).bytes(),
            },
            split,
            random,
            prefix,
        }
    }
}

fn encoding(prefix: &Prefix) -> Encoding {
    match prefix.cut {
        0 => Encoding::Pixels,
        _ => Encoding::Values(value_type(prefix.trial)),
    }
}

/// What activations are kept as: by default what the prefix computes in, so that nothing is lost.
fn value_type(trial: &Trial) -> ValueType {
    let computed = match trial.compute_type() {
        DType::BF16 => ValueType::Bf16,
        _ => ValueType::F32,
    };
    trial.experiment.cache_type.unwrap_or(computed)
}

/// A hash of all that the rows depend on.
fn key(split: Split, loader: &Loader, prefix: &Prefix, random: Option<EpochRandom>) -> String {
    let trial = prefix.trial;
    let seed = trial.experiment.seed;
    let backbone = (prefix.cut > 0).then(|| {
        let mut config = json!(trial.experiment.backbone);
        let random = || format!("seed {seed}");
        config["weights"] = trial
            .weights_hash()
            .map_or_else(random, str::to_owned)
            .into();
        json!({
            "config": config,
            "cut": prefix.cut,
            "compute": format!("{:?}", trial.compute_type()),
        })
    });
    let views = random
        .map(|random| json!({ "seed": seed, "views": random.views, "augment": random.augment }));
    let all = json!({
        "backbone": backbone,
        "data": trial.data.fingerprint(),
        "split": split,
        "input": loader.preprocess().input,
        "encoding": format!("{:?}", encoding(prefix)),
        "kernels": [KERNELS.to_string(), machine(prefix.device)],
        "views": views,
    });
    blake3::hash(all.to_string().as_bytes()).to_hex()[..32].to_owned()
}

/// What kernels run there: two machines may differ in the last bit.
fn machine(device: &Chosen) -> String {
    #[cfg(target_arch = "x86_64")]
    let level = match (
        is_x86_feature_detected!("avx512f"),
        is_x86_feature_detected!("avx2"),
    ) {
        (true, _) => "avx512",
        (false, true) => "avx2",
        _ => "base",
    };
    #[cfg(not(target_arch = "x86_64"))]
    let level = "";
    match device.is_cpu() {
        true => format!("{} {level}", std::env::consts::ARCH),
        false => "cuda".to_owned(),
    }
}

/// A table in the making, row by row in the data set's order.
struct Filling<'a> {
    writer: Writer,
    wanted: &'a Wanted<'a>,
    /// The images of the split.
    source: Loader<'a>,
    interrupt: &'a AtomicBool,
    reporter: &'a mut Reporter,
}

/// Computes all rows.
fn fill(
    writer: Writer,
    wanted: &Wanted,
    loader: &Loader,
    interrupt: &AtomicBool,
    reporter: &mut Reporter,
) -> Result<Table, Unfit> {
    let what = match wanted.prefix.cut {
        0 => format!("images of {}", wanted.split),
        _ => format!("prefix of {}", wanted.split),
    };
    reporter.start_filling(&what, wanted.shape.rows);
    let images = loader.images();
    let mut filling = Filling {
        writer,
        wanted,
        source: images.loader(&[wanted.split], *loader.preprocess(), loader.batch_size()),
        interrupt,
        reporter,
    };
    match (wanted.random, wanted.prefix.cut) {
        (None, 0) => filling.pixels()?,
        (None, _) => filling.activations(Pass::Plain)?,
        (Some(random), _) => {
            for view in 0..random.views {
                filling.activations(Pass::View(random.of_epoch(view)))?;
            }
        }
    }
    filling.writer.finish().map_err(|e| unwritten(&e))
}

fn unwritten(error: &io::Error) -> Unfit {
    Unfit::Because(format!("it cannot be written: {error}"))
}

impl Filling<'_> {
    fn check_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.load(Ordering::Relaxed) {
            true => Err(failure(
                Exit::Interrupted,
                "interrupted; run the same command to go on",
            )),
            false => Ok(()),
        }
    }

    /// Rows without a value up to `place`, of which `base` were there before.
    fn skip_to(&mut self, base: usize, place: usize) -> Result<(), Unfit> {
        while self.writer.written() < base + place {
            let index = self.writer.written() - base;
            let why = self.source.images().why(self.wanted.split, index);
            self.writer.skip(&why).map_err(|e| unwritten(&e))?;
        }
        Ok(())
    }

    /// The resized images.
    fn pixels(&mut self) -> Result<(), Unfit> {
        let (images, split) = (self.source.images(), self.wanted.split);
        let preprocess = *self.source.preprocess();
        let read = |index: usize| match images.read(split, index)? {
            None => Ok(None),
            Some(sample) => match preprocess.pixels(&sample.image) {
                Ok(pixels) => Ok(Some(pixels.into_owned())),
                Err(e) => {
                    let message = format_args!("dataset: {split} image {index}: {e}");
                    Err(failure(Exit::Config, message))
                }
            },
        };
        let total = self.source.len();
        for start in (0..total).step_by(self.source.batch_size()) {
            self.check_interrupt()?;
            let batch = start..(start + self.source.batch_size()).min(total);
            let rows: Result<Vec<Option<Vec<u8>>>, Failure> =
                batch.clone().into_par_iter().map(read).collect();
            for (index, row) in batch.clone().zip(rows?) {
                match row {
                    Some(row) => self.writer.push(&row).map_err(|e| unwritten(&e))?,
                    None => self.skip_to(0, index + 1)?,
                }
            }
            self.reporter.filled(batch.len());
        }
        Ok(())
    }

    /// The activations at the cut.
    fn activations(&mut self, pass: Pass) -> Result<(), Unfit> {
        let Prefix {
            trial,
            backbone,
            cut,
            device,
        } = *self.wanted.prefix;
        let (base, values_as) = (self.writer.written(), value_type(trial));
        let images = self.source.images();
        let source = images.loader(
            &[self.wanted.split],
            *self.source.preprocess(),
            self.source.batch_size(),
        );
        let mut bytes = Vec::new();
        source.each(0..source.batches(), pass, &device.device, |_, batch| {
            self.check_interrupt()?;
            let mut x = batch.x.cast(trial.compute_type());
            if let Some(backbone) = backbone {
                x = backbone.forward(x, 0..cut, &Hooks::none());
            }
            let values = x.to_vec();
            let width = values.len() / batch.places.len();
            for (row, &place) in values.chunks_exact(width).zip(&batch.places) {
                self.skip_to(base, place)?;
                values_as.write(row, &mut bytes);
                self.writer.push(&bytes).map_err(|e| unwritten(&e))?;
            }
            self.reporter.filled(batch.places.len());
            Ok::<_, Unfit>(true)
        })?;
        self.skip_to(base, source.len())
    }
}

/// Bytes that the system can still give, of the machine or of the group that it is limited to.
fn available_memory() -> usize {
    const FALLBACK: usize = 8 << 30;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let meminfo = read("/proc/meminfo").and_then(|text| {
        let line = text
            .lines()
            .find(|line| line.starts_with("MemAvailable:"))?;
        let kibibytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes << 10)
    });
    let number = |path: &str| read(path)?.trim().parse::<usize>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current");
    let group = limit
        .zip(used)
        .map(|(limit, used)| limit.saturating_sub(used));
    match (meminfo, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (one, other) => one.or(other).unwrap_or(FALLBACK),
    }
}
