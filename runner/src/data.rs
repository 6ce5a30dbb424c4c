//! From a data set to batches on the device, prepared beside the computation.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use anyhow::Context;
use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::backbone::InputSpec;
use peft_core::data::{Dataset, Split};
use peft_core::random::Generator;
use peft_datasets::Preprocess;
use rayon::prelude::*;

use crate::recipe::Augmentation;

/// Images and labels of one forward pass.
pub struct Batch {
    /// `[b, 3, h, w]`, normalised.
    pub images: Tensor<4>,
    /// `[b]`.
    pub labels: Tensor<1, Int>,
    /// The same labels on the host.
    pub targets: Vec<usize>,
}

/// A split that yields batches.
pub struct Loader<'a> {
    /// Where the images come from.
    pub dataset: &'a dyn Dataset,
    /// Which of them.
    pub split: Split,
    /// How they become tensors.
    pub preprocess: Preprocess,
    /// Images of a batch; the last one may have fewer.
    pub batch_size: usize,
}

/// Random changes of one epoch.
#[derive(Clone, Copy)]
pub struct EpochRandom {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: usize,
    /// What changes.
    pub augmentation: Augmentation,
}

/// The preprocessing that a backbone's input needs.
pub fn preprocess(input: &InputSpec) -> Preprocess {
    Preprocess::new(input)
}

impl Loader<'_> {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.dataset.len(self.split)
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        self.len().div_ceil(self.batch_size)
    }

    /// The order of an epoch: a function of seed and epoch only.
    fn order(&self, random: Option<EpochRandom>) -> Vec<usize> {
        match random {
            Some(random) => {
                let path = format!("order/{}", random.epoch);
                Generator::new(random.seed, &path).permutation(self.len())
            }
            None => (0..self.len()).collect(),
        }
    }

    /// Calls `consume` with each batch of `range` in turn; the next ones are prepared meanwhile.
    /// Stops early when it answers `false`.
    ///
    /// # Errors
    /// If a record cannot be read, with its name, or what `consume` fails with.
    pub fn each(
        &self,
        range: Range<usize>,
        random: Option<EpochRandom>,
        device: &Device,
        mut consume: impl FnMut(usize, Batch) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let order = self.order(random);
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(2);
            let order = &order;
            scope.spawn(move || {
                for index in range {
                    let start = index * self.batch_size;
                    let end = (start + self.batch_size).min(order.len());
                    let batch = self.host_batch(&order[start..end], random);
                    // A closed channel: the consumer has stopped.
                    if sender.send((index, batch)).is_err() {
                        break;
                    }
                }
            });
            for (index, batch) in receiver {
                let (pixels, targets) = batch?;
                let (rows, size) = (targets.len(), self.preprocess.size);
                let images = TensorData::new(pixels, [rows, 3, size, size]);
                let labels: Vec<i64> = targets.iter().map(|&label| label as i64).collect();
                let batch = Batch {
                    images: Tensor::from_data(images, device),
                    labels: Tensor::from_data(TensorData::new(labels, [rows]), device),
                    targets,
                };
                if !consume(index, batch)? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn host_batch(
        &self,
        indices: &[usize],
        random: Option<EpochRandom>,
    ) -> anyhow::Result<(Vec<f32>, Vec<usize>)> {
        let values = self.preprocess.values();
        let mut pixels = vec![0.0; values * indices.len()];
        let labels = pixels
            .par_chunks_mut(values)
            .zip(indices)
            .map(|(pixels, &index)| self.image(index, random, pixels))
            .collect::<anyhow::Result<_>>()?;
        Ok((pixels, labels))
    }

    fn image(
        &self,
        index: usize,
        random: Option<EpochRandom>,
        pixels: &mut [f32],
    ) -> anyhow::Result<usize> {
        let record = || format!("{} image {index}", self.split);
        let sample = self
            .dataset
            .sample(self.split, index)
            .with_context(record)?;
        let classes = self.dataset.classes().len();
        if sample.label >= classes {
            anyhow::bail!(
                "{}: the label {} is out of range: expected 0..{classes}",
                record(),
                sample.label
            );
        }
        let written = self.preprocess.apply(&sample.image, pixels);
        written
            .map_err(peft_core::Error::from)
            .with_context(record)?;
        if let Some(random) = random.filter(|r| r.augmentation == Augmentation::Flip) {
            let path = format!("augment/{}/{index}", random.epoch);
            if Generator::new(random.seed, &path).below(2) == 1 {
                pixels
                    .chunks_mut(self.preprocess.size)
                    .for_each(<[f32]>::reverse);
            }
        }
        Ok(sample.label)
    }
}
