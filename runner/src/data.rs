//! From a data set to batches on the device, prepared beside the computation.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::Activation;
use peft_core::backbone::Cut;
use peft_core::data::{Dataset, Sample, Split};
use peft_core::random::Generator;
use peft_datasets::{Augment, Preprocess};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cache::Rows;
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

    /// Number of images of a split that were left out so far.
    pub fn skipped(&self, split: Split) -> usize {
        let unreadable = self.unreadable.lock();
        let unreadable = unreadable.unwrap_or_else(PoisonError::into_inner);
        unreadable.keys().filter(|(of, _)| *of == split).count()
    }

    /// Why an image was left out.
    pub fn why(&self, split: Split, index: usize) -> String {
        let unreadable = self.unreadable.lock();
        let unreadable = unreadable.unwrap_or_else(PoisonError::into_inner);
        unreadable.get(&(split, index)).cloned().unwrap_or_default()
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
        let unreadable = self.unreadable.lock();
        let mut unreadable = unreadable.unwrap_or_else(PoisonError::into_inner);
        if unreadable.insert((split, index), why.to_owned()).is_none() {
            eprintln!("warning: dataset: {split} image {index} is left out: {why}");
        }
        Ok(())
    }
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

/// A batch that is not on the device yet.
struct HostBatch {
    values: Vec<f32>,
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

    /// The numbers for an image: the same on any number of threads, resumed or not.
    fn of_image(&self, split: Split, index: usize) -> Generator {
        let view = self.view();
        let path = match split {
            Split::Train => format!("augment/{view}/{index}"),
            _ => format!("augment/{view}/{split}/{index}"),
        };
        Generator::new(self.seed, &path)
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

    /// Calls `consume` with each batch of `range` in turn; the next ones are prepared meanwhile.
    /// Stops early when it answers `false`.
    ///
    /// # Errors
    /// If a record cannot be read and that is not forgiven, with its name; if none of a batch can; or
    /// what `consume` fails with.
    pub fn each<E: From<Failure>>(
        &self,
        range: Range<usize>,
        pass: Pass,
        device: &Device,
        mut consume: impl FnMut(usize, Batch) -> Result<bool, E>,
    ) -> Result<(), E> {
        let order = self.order(pass);
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(2);
            let order = &order;
            scope.spawn(move || {
                for index in range {
                    let start = index * self.batch_size;
                    let end = (start + self.batch_size).min(order.len());
                    let batch = self.host_batch(index, &order[start..end], pass);
                    // A closed channel: the consumer has stopped.
                    if sender.send((index, batch)).is_err() {
                        break;
                    }
                }
            });
            for (index, batch) in receiver {
                if !consume(index, self.on_device(batch?, device))? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn on_device(&self, batch: HostBatch, device: &Device) -> Batch {
        let count = batch.targets.len();
        let labels: Vec<i64> = batch.targets.iter().map(|&label| label as i64).collect();
        let x = match &self.rows {
            Some(rows) => rows.shape.activation(batch.values, device),
            None => {
                let size = self.preprocess.input.size;
                let images = TensorData::new(batch.values, [count, 3, size, size]);
                Activation::Map(Tensor::from_data(images, device))
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

    fn host_batch(&self, batch: usize, order: &[usize], pass: Pass) -> Result<HostBatch, Failure> {
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
            let message = format!("dataset: none of the {} images of a batch", order.len());
            return Err(config_error(format!("{message} can be read")));
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
        Ok(HostBatch {
            values: all,
            targets,
            groups: self.groups(&places)?,
            places,
            lambda,
        })
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
        if let Some(rows) = &self.rows {
            let label = self.images.label(split, index)?;
            let view = pass.random().map_or(0, |random| random.epoch % rows.views);
            let row = view * self.images.dataset.len(split) + index;
            return match rows.read(which, row, &self.preprocess, out) {
                Ok(()) => Ok(Some(label)),
                Err(why) => self.images.unreadable(split, index, &why).map(|()| None),
            };
        }
        let Some(Sample { image, label }) = self.images.read(split, index)? else {
            return Ok(None);
        };
        let input = &self.preprocess.input;
        let written = match pass.random() {
            None => self.preprocess.apply(&image, out),
            Some(random) => {
                let sides = (image.width, image.height);
                let mut generator = random.of_image(split, index);
                let drawn = random.augment.draw(&mut generator, sides, input.size);
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

    /// Ten grey images whose label is their index.
    struct Counted {
        classes: Vec<String>,
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
            let batch = pool.build().unwrap().install(batch).unwrap();
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
