//! From a data set to batches on the device, prepared beside the computation.

use std::ops::{ControlFlow, Range};
use std::sync::mpsc::sync_channel;

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::Activation;
use peft_core::backbone::Cut;
use peft_core::data::{Sample, Split};
use peft_core::random::Generator;
use peft_datasets::Preprocess;
use rayon::prelude::*;

use crate::data::batch::{Batch, HostBatch, HostValues};
use crate::data::images::{Images, bad};
use crate::data::lanes::{LANES, help, next};
use crate::data::random::Pass;
use crate::data::rows::{Row, Rows};
use crate::exit::Failure;

/// Splits that yield batches.
#[derive(Clone)]
pub struct Loader<'a> {
    images: &'a Images,
    splits: Vec<Split>,
    preprocess: Preprocess,
    batch_size: usize,
    rows: Option<Rows>,
}

impl<'a> Loader<'a> {
    /// Batches of some splits, one after the other.
    pub fn new(
        images: &'a Images,
        splits: &[Split],
        preprocess: Preprocess,
        batch_size: usize,
    ) -> Self {
        Self {
            images,
            splits: splits.to_vec(),
            preprocess,
            batch_size,
            rows: None,
        }
    }

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
            .map(|&split| self.images.dataset().len(split));
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
            match self.images.dataset().len(split) {
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
        view * self.images.dataset().len(self.splits[which]) + index
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
mod tests;
