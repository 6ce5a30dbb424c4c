//! From a data set to batches on the device, prepared beside the computation.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::Activation;
use peft_core::backbone::Cut;
use peft_core::data::{Dataset, Sample, Split};
use peft_core::random::Generator;
use peft_datasets::Preprocess;
use peft_datasets::augment::{Augment, Drawn};
use rayon::Yield;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cache::{Row, Rows};
use crate::exit::{Failure, config_error};

/// What is done about an image that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The run ends with an error that names it.
    #[default]
    Fail,
    /// It is left out of its batch, said once and counted.
    Skip,
}

/// An open data set and what became of its images.
pub struct Images {
    dataset: Box<dyn Dataset>,
    on_error: OnError,
    unreadable: Mutex<BTreeMap<(Split, usize), String>>,
}

impl Images {
    /// The images of a data set.
    pub fn new(dataset: Box<dyn Dataset>, on_error: OnError) -> Self {
        Self {
            dataset,
            on_error,
            unreadable: Mutex::default(),
        }
    }

    /// The data set.
    pub fn dataset(&self) -> &dyn Dataset {
        &*self.dataset
    }

    /// Batches of some splits, one after the other.
    pub fn loader(
        &self,
        splits: &[Split],
        preprocess: Preprocess,
        batch_size: usize,
    ) -> Loader<'_> {
        Loader {
            images: self,
            splits: splits.to_vec(),
            preprocess,
            batch_size,
            rows: None,
        }
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<(Split, usize), String>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of images of a split that were left out so far.
    pub fn skipped(&self, split: Split) -> usize {
        self.noted().keys().filter(|(of, _)| *of == split).count()
    }

    /// Why an image was left out.
    pub fn why(&self, split: Split, index: usize) -> String {
        self.noted()
            .get(&(split, index))
            .cloned()
            .unwrap_or_default()
    }

    /// All images that were left out so far, and why.
    pub fn left_out(&self) -> Vec<(Split, usize, String)> {
        let noted = self.noted();
        let entries = noted.iter();
        entries
            .map(|((split, index), why)| (*split, *index, why.clone()))
            .collect()
    }

    /// Takes over what an interrupted run left out.
    pub fn recall(&self, left_out: &[(Split, usize, String)]) {
        let entries = left_out.iter().cloned();
        self.noted()
            .extend(entries.map(|(split, index, why)| ((split, index), why)));
    }

    /// The image and its label; none if it is left out.
    ///
    /// # Errors
    /// If it cannot be read and that is not forgiven, or its label is no class.
    pub fn read(&self, split: Split, index: usize) -> Result<Option<Sample>, Failure> {
        let label = self.label(split, index)?;
        match self.dataset.image(split, index) {
            Ok(image) => Ok(Some(Sample { image, label })),
            Err(e) => self.unreadable(split, index, &e.to_string()).map(|()| None),
        }
    }

    /// The label at `index`.
    ///
    /// # Errors
    /// If it is no class.
    fn label(&self, split: Split, index: usize) -> Result<usize, Failure> {
        let classes = self.dataset.classes().len();
        match self.dataset.label(split, index) {
            Ok(label) if label < classes => Ok(label),
            Ok(label) => {
                let message = "is out of range: expected";
                let message = format!("the label {label} {message} 0..{classes}");
                Err(bad(split, index, &message))
            }
            Err(e) => Err(bad(split, index, &e.to_string())),
        }
    }

    /// Takes note of an image that cannot be read.
    ///
    /// # Errors
    /// If that is not forgiven.
    pub fn unreadable(&self, split: Split, index: usize, why: &str) -> Result<(), Failure> {
        if self.on_error == OnError::Fail {
            return Err(bad(split, index, why));
        }
        let first = self.noted().insert((split, index), why.to_owned());
        if first.is_none() {
            eprintln!("warning: dataset: {split} image {index} is left out: {why}");
        }
        Ok(())
    }
}

/// Batches that are prepared side by side: threads that are done with one go on with the other. With
/// those that are ready and the one that is used, at most `2 * LANES + 1` batches are in memory.
const LANES: usize = 2;

/// How long a worker that finds nothing to do waits.
const NAP: Duration = Duration::from_micros(200);

/// Does a piece of what other threads wait for, if this is a worker of rayon's pool.
fn help() -> bool {
    match rayon::yield_now() {
        Some(Yield::Executed) => true,
        Some(Yield::Idle) => {
            std::thread::sleep(NAP);
            true
        }
        None => false,
    }
}

/// The next batch of a lane; none if it ended. A worker of rayon's pool prepares images while it waits.
fn next<T>(lane: &Receiver<T>) -> Option<T> {
    loop {
        match lane.try_recv() {
            Ok(batch) => return Some(batch),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        match rayon::yield_now() {
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => match lane.recv_timeout(NAP) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            },
            // Not a worker.
            None => return lane.recv().ok(),
        }
    }
}

/// Splits in words.
pub fn names(splits: &[Split]) -> String {
    let names: Vec<_> = splits.iter().map(Split::to_string).collect();
    names.join(" and ")
}

fn bad(split: Split, index: usize, message: &str) -> Failure {
    config_error(format!("dataset: {split} image {index}: {message}"))
}

/// Images, or what a frozen prefix made of them, and labels of one forward pass.
#[derive(Clone)]
pub struct Batch {
    /// The activation at cut `from`; at 0 images `[b, 3, h, w]`, normalised.
    pub x: Activation,
    /// Where the model goes on.
    pub from: Cut,
    /// `[b]`.
    pub labels: Tensor<1, Int>,
    /// The same labels on the host.
    pub targets: Vec<usize>,
    /// The images' groups, if the data set has any.
    pub groups: Vec<usize>,
    /// The images' places in the loader.
    pub places: Vec<usize>,
    /// `[b]`, if image `i` is mixed with image `b - 1 - i`: its own part in its target.
    pub lambda: Option<Tensor<1>>,
}

/// What a batch is made of on the device.
#[derive(Debug, PartialEq)]
enum HostValues {
    /// Images or activations, one after the other.
    Values(Vec<f32>),
    /// Rows that are there already, by split and place.
    Rows(Vec<(usize, usize)>),
}

/// A batch that is not on the device yet.
struct HostBatch {
    values: HostValues,
    targets: Vec<usize>,
    groups: Vec<usize>,
    places: Vec<usize>,
    lambda: Option<Vec<f32>>,
}

/// Splits that yield batches.
#[derive(Clone)]
pub struct Loader<'a> {
    images: &'a Images,
    splits: Vec<Split>,
    preprocess: Preprocess,
    batch_size: usize,
    rows: Option<Rows>,
}

/// Random changes of one epoch.
#[derive(Clone, Copy)]
pub struct EpochRandom {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: usize,
    /// What changes.
    pub augment: Augment,
    /// How many different changes an image sees, epoch after epoch, before they repeat; 0 for ever
    /// new ones.
    pub views: usize,
}

impl EpochRandom {
    /// The same in another epoch.
    pub fn of_epoch(self, epoch: usize) -> Self {
        Self { epoch, ..self }
    }

    /// Which of an image's changes it is.
    pub fn view(&self) -> usize {
        match self.views {
            0 => self.epoch,
            views => self.epoch % views,
        }
    }

    /// What happens to an image of these sides for an input of `size`: the same on any number of
    /// threads, resumed or not.
    fn drawn(&self, split: Split, index: usize, sides: (usize, usize), size: usize) -> Drawn {
        let view = self.view();
        let path = match split {
            Split::Train => format!("augment/{view}/{index}"),
            _ => format!("augment/{view}/{split}/{index}"),
        };
        let mut generator = Generator::new(self.seed, &path);
        self.augment.draw(&mut generator, sides, size)
    }

    /// The numbers for what mixes the images of a batch.
    fn of_batch(&self, batch: usize) -> Generator {
        Generator::new(self.seed, &format!("mix/{}/{batch}", self.epoch))
    }
}

/// How a loader is gone through.
#[derive(Clone, Copy)]
pub enum Pass {
    /// In the data set's order, images as they are.
    Plain,
    /// In an order of the epoch's own, images changed.
    Training(EpochRandom),
    /// In the data set's order, images changed: what a cache keeps of a view.
    View(EpochRandom),
}

impl Pass {
    fn random(&self) -> Option<EpochRandom> {
        match self {
            Self::Plain => None,
            Self::Training(random) | Self::View(random) => Some(*random),
        }
    }
}

impl<'a> Loader<'a> {
    /// Where its images come from.
    pub fn images(&self) -> &'a Images {
        self.images
    }

    /// The splits that it goes through.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// How its images become tensors.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Images of a batch; the last one may have fewer.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The same batches from the rows of a cache.
    pub fn with_rows(self, rows: Rows) -> Self {
        let rows = Some(rows);
        Self { rows, ..self }
    }

    /// Whether its batches come from a cache.
    pub fn is_cached(&self) -> bool {
        self.rows.is_some()
    }

    /// The cut at which its batches are; 0 for images.
    pub fn from(&self) -> Cut {
        self.rows.as_ref().map_or(0, |rows| rows.cut)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        let lengths = self
            .splits
            .iter()
            .map(|&split| self.images.dataset.len(split));
        lengths.sum()
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        self.len().div_ceil(self.batch_size)
    }

    /// The images that were left out so far.
    pub fn skipped(&self) -> usize {
        self.splits
            .iter()
            .map(|&split| self.images.skipped(split))
            .sum()
    }

    /// The split of the image at `place` as an index into [`splits`](Self::splits), and its index
    /// there.
    fn at(&self, mut place: usize) -> (usize, usize) {
        for (which, &split) in self.splits.iter().enumerate() {
            match self.images.dataset.len(split) {
                length if place < length => return (which, place),
                length => place -= length,
            }
        }
        // Orders hold places below `len` only.
        unreachable!("an image beyond the last split")
    }

    /// The order of an epoch: a function of seed and epoch only.
    fn order(&self, pass: Pass) -> Vec<usize> {
        match pass {
            Pass::Training(random) => {
                let path = format!("order/{}", random.epoch);
                Generator::new(random.seed, &path).permutation(self.len())
            }
            Pass::Plain | Pass::View(_) => (0..self.len()).collect(),
        }
    }

    /// Calls `consume` with each batch of `range` in turn; the next ones are prepared meanwhile. A batch
    /// of which no image can be read is passed over. Stops early when it answers `false`.
    ///
    /// # Errors
    /// If a record cannot be read and that is not forgiven, with its name; or what `consume` fails
    /// with.
    pub fn each<E: From<Failure>>(
        &self,
        range: Range<usize>,
        pass: Pass,
        device: &Device,
        mut consume: impl FnMut(usize, Batch) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.each_or_none(range, pass, device, |index, batch| match batch {
            Some(batch) => consume(index, batch),
            None => Ok(true),
        })
    }

    /// As [`each`](Self::each), with no batch in the place of one of which no image can be read.
    ///
    /// # Errors
    /// As [`each`](Self::each).
    pub fn each_or_none<E: From<Failure>>(
        &self,
        range: Range<usize>,
        pass: Pass,
        device: &Device,
        mut consume: impl FnMut(usize, Option<Batch>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let order = self.order(pass);
        std::thread::scope(|scope| {
            let (mut lanes, mut threads) = (Vec::new(), Vec::new());
            for lane in 0..LANES {
                let (sender, receiver) = sync_channel(1);
                let (order, indices) = (&order, range.clone().skip(lane).step_by(LANES));
                threads.push(scope.spawn(move || {
                    let batch = |index: usize| {
                        let start = index * self.batch_size;
                        let end = (start + self.batch_size).min(order.len());
                        self.host_batch(index, &order[start..end], pass)
                    };
                    for index in indices {
                        // A closed channel: the consumer has stopped.
                        if sender.send(batch(index)).is_err() {
                            break;
                        }
                    }
                }));
                lanes.push(receiver);
            }
            let mut ordered = range.zip(lanes.iter().cycle());
            let consumed = ordered.try_for_each(|(index, lane)| {
                // A lane that ended too early has panicked, and so does the scope.
                let Some(batch) = next(lane) else {
                    return ControlFlow::Break(Ok(()));
                };
                let batch = batch.map(|batch| batch.map(|batch| self.on_device(batch, device)));
                match batch
                    .map_err(E::from)
                    .and_then(|batch| consume(index, batch))
                {
                    Ok(true) => ControlFlow::Continue(()),
                    Ok(false) => ControlFlow::Break(Ok(())),
                    Err(e) => ControlFlow::Break(Err(e)),
                }
            });
            // Lanes whose batches nobody takes stop at the next one, which may need this worker.
            drop(lanes);
            while !threads.iter().all(|thread| thread.is_finished()) && help() {}
            consumed.break_value().unwrap_or(Ok(()))
        })
    }

    fn on_device(&self, batch: HostBatch, device: &Device) -> Batch {
        let count = batch.targets.len();
        let labels: Vec<i64> = batch.targets.iter().map(|&label| label as i64).collect();
        let x = match (batch.values, &self.rows) {
            (HostValues::Values(values), Some(rows)) => rows.shape.activation(values, device),
            (HostValues::Values(values), None) => {
                let size = self.preprocess.input.size;
                let images = TensorData::new(values, [count, 3, size, size]);
                Activation::Map(Tensor::from_data(images, device))
            }
            (HostValues::Rows(places), rows) => {
                let gathered = rows.as_ref().and_then(|rows| rows.gather(&places, device));
                match gathered {
                    Some(x) => x,
                    None => unreachable!("places are made of rows on the device only"),
                }
            }
        };
        let lambda = batch.lambda.map(|lambda| TensorData::new(lambda, [count]));
        Batch {
            x,
            from: self.from(),
            labels: Tensor::from_data(TensorData::new(labels, [count]), device),
            targets: batch.targets,
            groups: batch.groups,
            places: batch.places,
            lambda: lambda.map(|lambda| Tensor::from_data(lambda, device)),
        }
    }

    /// None if no image of it can be read.
    fn host_batch(
        &self,
        batch: usize,
        order: &[usize],
        pass: Pass,
    ) -> Result<Option<HostBatch>, Failure> {
        if let Some(rows) = &self.rows
            && rows.is_resident()
        {
            return self.resident_batch(rows, order, pass);
        }
        let values = match &self.rows {
            Some(rows) => rows.shape.elements(),
            None => self.preprocess.values(),
        };
        let mut all = vec![0.0; values * order.len()];
        let labels = all
            .par_chunks_mut(values)
            .zip(order)
            .map(|(values, &place)| self.image(place, pass, values))
            .collect::<Result<Vec<_>, Failure>>()?;
        // Close the gaps of what is left out.
        let mut kept = 0;
        for (place, label) in labels.iter().enumerate() {
            if label.is_some() {
                if kept < place {
                    all.copy_within(place * values..(place + 1) * values, kept * values);
                }
                kept += 1;
            }
        }
        if kept == 0 {
            return Ok(None);
        }
        all.truncate(kept * values);
        let pairs = order.iter().zip(labels);
        let pairs = pairs.filter_map(|(&place, label)| Some((place, label?)));
        let (places, targets): (Vec<_>, Vec<_>) = pairs.unzip();
        let mixing = pass.random().filter(|random| random.augment.mixes());
        let lambda = mixing.map(|random| {
            let size = self.preprocess.input.size;
            let mix = random.augment.mix(&mut random.of_batch(batch), kept, size);
            mix.apply(&mut all, size);
            mix.0.iter().map(|mixed| mixed.lambda).collect()
        });
        Ok(Some(HostBatch {
            values: HostValues::Values(all),
            targets,
            groups: self.groups(&places)?,
            places,
            lambda,
        }))
    }

    /// A batch whose values are on the device: only where they are, and their labels.
    fn resident_batch(
        &self,
        rows: &Rows,
        order: &[usize],
        pass: Pass,
    ) -> Result<Option<HostBatch>, Failure> {
        let labels = order.iter().map(|&place| self.image(place, pass, &mut []));
        let labels = labels.collect::<Result<Vec<_>, Failure>>()?;
        let pairs = order.iter().zip(labels);
        let pairs = pairs.filter_map(|(&place, label)| Some((place, label?)));
        let (places, targets): (Vec<_>, Vec<_>) = pairs.unzip();
        let row = |&place: &usize| {
            let (which, index) = self.at(place);
            (which, self.row(rows, which, index, pass))
        };
        Ok((!places.is_empty()).then_some(HostBatch {
            values: HostValues::Rows(places.iter().map(row).collect()),
            targets,
            groups: self.groups(&places)?,
            places,
            lambda: None,
        }))
    }

    /// The place of an image in the table of its split.
    fn row(&self, rows: &Rows, which: usize, index: usize, pass: Pass) -> usize {
        let view = pass.random().map_or(0, |random| random.epoch % rows.views);
        view * self.images.dataset.len(self.splits[which]) + index
    }

    fn groups(&self, places: &[usize]) -> Result<Vec<usize>, Failure> {
        let dataset = self.images.dataset();
        if dataset.groups().is_empty() {
            return Ok(Vec::new());
        }
        let group = |&place: &usize| {
            let (which, index) = self.at(place);
            let split = self.splits[which];
            let group = dataset.group(split, index);
            let group = group.map_err(|e| bad(split, index, &e.to_string()))?;
            group.ok_or_else(|| bad(split, index, "expected a group"))
        };
        places.iter().map(group).collect()
    }

    /// Writes the image at `place`, or its row, and returns its label; none if it is left out.
    fn image(&self, place: usize, pass: Pass, out: &mut [f32]) -> Result<Option<usize>, Failure> {
        let (which, index) = self.at(place);
        let split = self.splits[which];
        let input = &self.preprocess.input;
        if let Some(rows) = &self.rows {
            let label = self.images.label(split, index)?;
            let row = match rows.get(which, self.row(rows, which, index, pass)) {
                Ok(row) => row,
                Err(why) => return self.images.unreadable(split, index, why).map(|()| None),
            };
            match (row, pass.random()) {
                (Row::Pixels(rgb), Some(random)) => {
                    let drawn = random.drawn(split, index, (input.size, input.size), input.size);
                    let written = drawn.apply_to_pixels(rgb.into(), input, out);
                    written.map_err(|e| bad(split, index, &e.to_string()))?;
                }
                (Row::Pixels(rgb), None) => self.preprocess.normalise(rgb, out),
                (Row::Values(values, bytes), _) => values.read(bytes, out),
                (Row::Resident, _) => {}
            }
            return Ok(Some(label));
        }
        let Some(Sample { image, label }) = self.images.read(split, index)? else {
            return Ok(None);
        };
        let written = match pass.random() {
            None => self.preprocess.apply(&image, out),
            Some(random) => {
                let sides = (image.width, image.height);
                let drawn = random.drawn(split, index, sides, input.size);
                drawn.apply(&image, input, out)
            }
        };
        written.map_err(|e| bad(split, index, &e.to_string()))?;
        Ok(Some(label))
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::Image;
    use peft_core::input::{CropMode, InputSpec, Interpolation};

    use super::*;
    use crate::exit::Exit;

    /// Ten grey images whose label is their index; some cannot be read.
    struct Counted {
        classes: Vec<String>,
        damaged: Vec<usize>,
    }

    impl Dataset for Counted {
        fn classes(&self) -> &[String] {
            &self.classes
        }
        fn len(&self, _: Split) -> usize {
            10
        }
        fn label(&self, _: Split, index: usize) -> peft_core::Result<usize> {
            Ok(index)
        }
        fn image(&self, _: Split, index: usize) -> peft_core::Result<Image> {
            if self.damaged.contains(&index) {
                return Err(peft_core::Error::Data("damaged".into()));
            }
            Ok(Image {
                width: 2,
                height: 2,
                rgb: vec![index as u8; 12],
            })
        }
        fn fingerprint(&self) -> peft_core::Result<String> {
            Ok(String::new())
        }
    }

    fn counted(classes: usize) -> Counted {
        Counted {
            classes: (0..classes).map(|c| c.to_string()).collect(),
            damaged: Vec::new(),
        }
    }

    fn loader(images: &Images) -> Loader<'_> {
        let preprocess = Preprocess::new(&InputSpec {
            size: 2,
            mean: [0.0; 3],
            std: [1.0; 3],
            interpolation: Interpolation::Bicubic,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
        });
        images.loader(&[Split::Train], preprocess, 4)
    }

    fn labels(classes: usize, pass: Pass) -> Result<Vec<Vec<usize>>, Failure> {
        let images = Images::new(Box::new(counted(classes)), OnError::Fail);
        let mut seen = Vec::new();
        loader(&images).each(0..3, pass, &Device::flex(), |_, batch| {
            seen.push(batch.targets);
            Ok::<_, Failure>(true)
        })?;
        Ok(seen)
    }

    #[test]
    fn an_epoch_holds_every_image_once_in_an_order_of_its_own() {
        let epoch = |epoch| {
            let random = EpochRandom {
                seed: 1,
                epoch,
                augment: Augment::default(),
                views: 0,
            };
            labels(10, Pass::Training(random)).unwrap().concat()
        };
        assert_eq!(
            labels(10, Pass::Plain).unwrap(),
            [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]
        );
        assert_eq!(epoch(0), epoch(0));
        assert_ne!(epoch(0), epoch(1));
        let mut all = epoch(2);
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn batches_are_the_same_from_any_batch_on_and_on_any_number_of_threads() {
        let images = Images::new(Box::new(counted(10)), OnError::Fail);
        let augment = "{hflip: 0.5, re_prob: 0.5, re_mode: pixel, mixup: 0.8, mixup_mode: elem}";
        let pass = Pass::Training(EpochRandom {
            seed: 3,
            epoch: 1,
            augment: serde_yaml::from_str(augment).unwrap(),
            views: 0,
        });
        let read = |range: Range<usize>, threads| {
            let mut seen = Vec::new();
            let mut each = || {
                let loader = Loader {
                    batch_size: 1,
                    ..loader(&images)
                };
                loader.each(range.clone(), pass, &Device::flex(), |index, batch| {
                    seen.push((index, batch.x.to_vec(), batch.targets));
                    Ok::<_, Failure>(true)
                })
            };
            // On a worker, which helps, and on a thread that is none.
            match threads {
                0 => each().unwrap(),
                n => {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(n);
                    pool.build().unwrap().scope(|_| each().unwrap());
                }
            }
            seen
        };
        let all = read(0..10, 1);
        assert_eq!(all.len(), 10);
        for threads in [0, 2, 5] {
            assert!(read(0..10, threads) == all, "{threads}");
            for start in 1..10 {
                assert!(
                    read(start..10, threads) == all[start..],
                    "{threads} {start}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_a_batch_of_nothing_is_passed_over() {
        let damaged = Counted {
            damaged: vec![1, 4, 5, 6, 7],
            ..counted(10)
        };
        let images = Images::new(Box::new(damaged), OnError::Skip);
        let device = Device::flex();
        let mut seen = Vec::new();
        let read = loader(&images).each(0..3, Pass::Plain, &device, |index, batch| {
            assert_eq!(batch.x.to_vec().len(), 12 * batch.targets.len());
            seen.push((index, batch.targets));
            Ok::<_, Failure>(true)
        });
        read.unwrap();
        assert_eq!(seen, [(0, vec![0, 2, 3]), (2, vec![8, 9])]);
        assert_eq!(images.skipped(Split::Train), 5);
        assert_eq!(images.why(Split::Train, 4), "damaged");
        let mut none = Vec::new();
        let read = loader(&images).each_or_none(0..3, Pass::Plain, &device, |index, batch| {
            none.extend(batch.is_none().then_some(index));
            Ok::<_, Failure>(true)
        });
        read.unwrap();
        assert_eq!(none, [1]);

        let resumed = Images::new(Box::new(counted(10)), OnError::Skip);
        resumed.recall(&images.left_out());
        assert_eq!(resumed.left_out(), images.left_out());
    }

    #[test]
    fn a_consumer_may_stop_or_fail_at_any_batch() {
        let images = Images::new(Box::new(counted(10)), OnError::Fail);
        let stops = |last, fails| {
            let loader = Loader {
                batch_size: 1,
                ..loader(&images)
            };
            let mut seen = 0;
            let read = loader.each(0..10, Pass::Plain, &Device::flex(), |index, _| {
                seen += 1;
                match (index == last, fails) {
                    (true, true) => Err(config_error("enough")),
                    (end, _) => Ok(!end),
                }
            });
            assert_eq!((seen, read.is_err()), (last + 1, fails));
        };
        // The one worker of a pool, whom the batches that nobody takes need too.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        let pool = pool.build().unwrap();
        for last in 0..10 {
            for fails in [true, false] {
                stops(last, fails);
                pool.scope(|_| stops(last, fails));
            }
        }
    }

    #[test]
    fn an_epochs_changes_do_not_depend_on_the_number_of_threads() {
        let augment = "{re_prob: 0.5, re_mode: pixel, mixup: 0.8, mixup_mode: elem}";
        let images = Images::new(Box::new(counted(10)), OnError::Fail);
        let epoch = |threads, epoch| {
            let random = EpochRandom {
                seed: 1,
                epoch,
                augment: serde_yaml::from_str(augment).unwrap(),
                views: 0,
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let batch = || loader(&images).host_batch(0, &[3, 1, 4, 5], Pass::Training(random));
            let batch = pool.build().unwrap().install(batch).unwrap().unwrap();
            (batch.values, batch.lambda.unwrap())
        };
        assert_eq!(epoch(1, 0), epoch(3, 0));
        assert_ne!(epoch(1, 0), epoch(1, 1));
        assert!(epoch(1, 0).1.iter().any(|lambda| *lambda < 1.0));
    }

    #[test]
    fn a_label_out_of_range_names_the_record_and_is_wrong_input() {
        let failure = labels(9, Pass::Plain).unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert_eq!(
            failure.error.to_string(),
            "dataset: train image 9: the label 9 is out of range: expected 0..9"
        );
    }
}
