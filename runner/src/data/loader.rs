//! From images, or the rows of a cache, to batches on the device, prepared beside the computation.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use peft_core::Activation;
use peft_core::backbone::Cut;
use peft_core::data::Split;
use peft_datasets::Preprocess;
use rayon::prelude::*;

use crate::data::batch::{Batch, HostBatch, HostValues, Mixed};
use crate::data::images::{Images, ToStderr, Warn, bad};
use crate::data::lanes::Lanes;
use crate::data::random::Pass;
use crate::data::rows::{Row, Rows};
use crate::data::targets::{Target, Targets};
use crate::exit::{Failure, config_error};

/// Batches of one or several splits, one split after the other.
///
/// The place of an image is its number in this sequence.
#[derive(Clone)]
pub struct Loader<'a> {
    images: &'a Images,
    splits: Vec<Split>,
    preprocess: Preprocess,
    batch_size: usize,
    rows: Option<Rows>,
    /// What each label becomes, if labels are rows of a head with other classes.
    labels: Option<Arc<[usize]>>,
    /// The places of each class, if a training sees all classes equally often.
    balanced: Option<Arc<[Vec<usize>]>>,
    warn: &'a dyn Warn,
}

impl<'a> Loader<'a> {
    /// A loader that reads images, and whose warnings go to stderr.
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
            labels: None,
            balanced: None,
            warn: &ToStderr,
        }
    }

    /// The same batches, with warnings of images that are left out going to `warn`.
    pub fn with_warnings(self, warn: &'a dyn Warn) -> Self {
        Self { warn, ..self }
    }

    /// The same batches with label `i` turned into `rows[i]`: the row of class `i` in a head whose classes
    /// are others, or in another order, than the data set's.
    pub fn relabelled(self, rows: Vec<usize>) -> Self {
        let labels = Some(rows.into());
        Self { labels, ..self }
    }

    /// Batches in which every class comes equally often, in the passes of a training.
    ///
    /// # Errors
    /// If a label cannot be read.
    pub fn balanced(self) -> Result<Self, Failure> {
        let dataset = self.images.dataset();
        let mut classes = vec![Vec::new(); dataset.classes().len()];
        let mut place = 0;
        for &split in &self.splits {
            for index in 0..dataset.len(split) {
                let label = dataset.label(split, index).map_err(config_error)?;
                let count = classes.len();
                let class = classes.get_mut(label).ok_or_else(|| {
                    let message = format!("expected a label below {count}, got {label}");
                    config_error(format_args!("{split} image {index}: {message}"))
                })?;
                class.push(place);
                place += 1;
            }
        }
        let balanced = Some(classes.into());
        Ok(Self { balanced, ..self })
    }

    /// The same batches from the rows of a cache.
    pub fn with_rows(self, rows: Rows) -> Self {
        let rows = Some(rows);
        Self { rows, ..self }
    }

    /// Batches of one split, from its images.
    pub fn of_split(&self, split: Split) -> Self {
        Self {
            splits: vec![split],
            rows: None,
            balanced: None,
            ..self.clone()
        }
    }

    /// Where the images come from.
    pub fn images(&self) -> &'a Images {
        self.images
    }

    /// The splits, in order.
    pub fn splits(&self) -> &[Split] {
        &self.splits
    }

    /// How images become tensors.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The number of images in a batch; the last batch may have fewer.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Who is told of images that are left out.
    pub fn warn(&self) -> &'a dyn Warn {
        self.warn
    }

    /// Whether the batches come from a cache.
    pub fn is_cached(&self) -> bool {
        self.rows.is_some()
    }

    /// The cut at which the model takes over; 0 for images.
    pub fn from(&self) -> Cut {
        self.rows.as_ref().map_or(0, |rows| rows.cut)
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        let dataset = self.images.dataset();
        self.splits.iter().map(|&split| dataset.len(split)).sum()
    }

    /// The number of batches in an epoch.
    pub fn batches(&self) -> usize {
        self.len().div_ceil(self.batch_size)
    }

    /// The number of images that were left out so far.
    pub fn skipped(&self) -> usize {
        let skipped = |&split: &Split| self.images.skipped(split);
        self.splits.iter().map(skipped).sum()
    }

    /// Which of [`splits`](Self::splits) holds the image at `place`, and the image's index there.
    fn at(&self, mut place: usize) -> (usize, usize) {
        for (which, &split) in self.splits.iter().enumerate() {
            let length = self.images.dataset().len(split);
            if place < length {
                return (which, place);
            }
            place -= length;
        }
        // Every order is made of places below `len`.
        unreachable!("an image beyond the last split")
    }

    /// The places in the order of a pass.
    fn order(&self, pass: Pass) -> Vec<usize> {
        match pass {
            Pass::Training(random) => match &self.balanced {
                Some(classes) => random.balanced_order(classes, self.len()),
                None => random.order(self.len()),
            },
            Pass::Plain | Pass::View(_) => (0..self.len()).collect(),
        }
    }

    /// Calls `consume` with the index of each batch of `range`, in order, and the batch, while the next
    /// batches are prepared. Stops early if `consume` answers `false`. A batch without a readable image is
    /// skipped.
    ///
    /// # Errors
    /// If an image or label cannot be read and `on_error` is `fail`, or if `consume` fails.
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

    /// As [`each`](Self::each), but a batch without a readable image is handed over as `None`.
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
        // A batch is a slice of one order, so that it does not matter which thread prepares it, or from which
        // batch on a resumed run reads.
        let order = self.order(pass);
        let prepare = |index: usize| {
            let start = index * self.batch_size;
            let end = (start + self.batch_size).min(order.len());
            self.host_batch(index, &order[start..end], pass)
        };
        std::thread::scope(|scope| {
            let lanes = Lanes::start(scope, range.clone(), prepare);
            for (index, batch) in range.zip(lanes) {
                // Copied to the device here and not by the lanes: CubeCL gives each thread a queue of its own,
                // and the model's would have to wait for theirs.
                let batch = batch?.map(|batch| self.on_device(batch, device));
                if !consume(index, batch)? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn on_device(&self, batch: HostBatch, device: &Device) -> Batch {
        let count = batch.targets.len();
        let x = match (batch.values, &self.rows) {
            (HostValues::Values(values), Some(rows)) => rows.activation(values, device),
            (HostValues::Values(values), None) => {
                let images = TensorData::new(values, self.preprocess.input.batch(count));
                Activation::Map(Tensor::from_data(images, device)).into()
            }
            (HostValues::Rows(places), Some(rows)) => rows.gather(&places, device),
            (HostValues::Rows(_), None) => unreachable!("only a cache has rows"),
        };
        let mixed = batch.lambda.map(|lambda| Mixed {
            lambda,
            partners: batch.targets.reversed(),
        });
        Batch {
            x,
            from: self.from(),
            targets: batch.targets,
            groups: batch.groups,
            places: batch.places,
            mixed,
        }
    }

    /// The images at the places `order`; `None` if all of them are left out.
    fn host_batch(
        &self,
        batch: usize,
        order: &[usize],
        pass: Pass,
    ) -> Result<Option<HostBatch>, Failure> {
        if let Some(rows) = &self.rows
            && rows.are_gathered()
        {
            return self.gathered_batch(rows, order, pass);
        }
        let values = match &self.rows {
            Some(rows) => rows.shape.elements(),
            None => self.preprocess.values(),
        };
        // One buffer for the batch, into which each image is decoded where it belongs: the buffer becomes the
        // tensor without another copy.
        let mut all = vec![0.0; values * order.len()];
        let labels = all
            .par_chunks_mut(values)
            .zip(order)
            .map(|(values, &place)| self.image(place, pass, values))
            .collect::<Result<Vec<_>, Failure>>()?;
        // Images that are left out have left gaps of zeros: move the others together.
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
        let (places, targets) = readable(order, labels);
        // Mixing comes last, because it pairs the images that are in the batch in the end.
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

    /// A batch whose values are gathered later: only labels, and where the rows are.
    fn gathered_batch(
        &self,
        rows: &Rows,
        order: &[usize],
        pass: Pass,
    ) -> Result<Option<HostBatch>, Failure> {
        // There is nothing to decode, so that the pool would cost more than it saves.
        let labels = order.iter().map(|&place| self.image(place, pass, &mut []));
        let labels = labels.collect::<Result<Vec<_>, Failure>>()?;
        let (places, targets) = readable(order, labels);
        if places.is_empty() {
            return Ok(None);
        }
        let row = |&place: &usize| {
            let (which, index) = self.at(place);
            (which, self.row(rows, which, index, pass))
        };
        Ok(Some(HostBatch {
            values: HostValues::Rows(places.iter().map(row).collect()),
            targets,
            groups: self.groups(&places)?,
            places,
            lambda: None,
        }))
    }

    /// The place of an image's row in the table of its split.
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

    /// Writes the image at `place`, or its row, to `out` and returns its labels; `None` if it is left out.
    fn image(&self, place: usize, pass: Pass, out: &mut [f32]) -> Result<Option<Target>, Failure> {
        let (which, index) = self.at(place);
        let target = match &self.rows {
            Some(rows) => self.read_row(rows, which, index, pass, out),
            None => self.read_image(self.splits[which], index, pass, out),
        }?;
        Ok(match &self.labels {
            Some(rows) => target.map(|target| target.renumbered(rows)),
            None => target,
        })
    }

    fn read_row(
        &self,
        rows: &Rows,
        which: usize,
        index: usize,
        pass: Pass,
        out: &mut [f32],
    ) -> Result<Option<Target>, Failure> {
        let (split, input) = (self.splits[which], &self.preprocess.input);
        let target = self.images.target(split, index)?;
        let row = match rows.get(which, self.row(rows, which, index, pass)) {
            Ok(row) => row,
            Err(why) => {
                self.images.leave_out(split, index, why, self.warn)?;
                return Ok(None);
            }
        };
        match (row, pass.random()) {
            (Row::Pixels(rgb), Some(random)) => {
                // The draws depend on the sides of the original only for a random crop, and pixels that were
                // cropped at random are not stored.
                let sides = (input.size.width, input.size.height);
                let drawn = random.drawn(split, index, sides, input.size);
                let written = drawn.apply_to_pixels(rgb.into(), input, out);
                written.map_err(|e| bad(split, index, &e.to_string()))?;
            }
            (Row::Pixels(rgb), None) => self.preprocess.normalise(rgb, out),
            // The changes of a view are in its rows already.
            (Row::Values(values, bytes), _) => values.read(bytes, out),
            (Row::Gathered, _) => {}
        }
        Ok(Some(target))
    }

    fn read_image(
        &self,
        split: Split,
        index: usize,
        pass: Pass,
        out: &mut [f32],
    ) -> Result<Option<Target>, Failure> {
        let Some((image, target)) = self.images.read(split, index, self.warn)? else {
            return Ok(None);
        };
        let input = &self.preprocess.input;
        let written = match pass.random() {
            None => self.preprocess.apply(&image, out),
            Some(random) => {
                let sides = (image.width, image.height);
                let drawn = random.drawn(split, index, sides, input.size);
                drawn.apply(&image, input, out)
            }
        };
        written.map_err(|e| bad(split, index, &e.to_string()))?;
        Ok(Some(target))
    }
}

/// Places and labels of the images of a batch that are not left out.
fn readable(order: &[usize], targets: Vec<Option<Target>>) -> (Vec<usize>, Targets) {
    let pairs = order.iter().zip(targets);
    let (places, targets): (Vec<usize>, Vec<Target>) = pairs
        .filter_map(|(&place, target)| Some((place, target?)))
        .unzip();
    (places, targets.into_iter().collect())
}

#[cfg(test)]
mod tests;
