//! From a data set to batches on the device, prepared beside the computation.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::data::{Dataset, Split};
use peft_core::random::Generator;
use peft_datasets::Preprocess;
use rayon::prelude::*;

use crate::exit::{Failure, config_error};
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
        mut consume: impl FnMut(usize, Batch) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
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
                let (rows, size) = (targets.len(), self.preprocess.input.size);
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
    ) -> Result<(Vec<f32>, Vec<usize>), Failure> {
        let values = self.preprocess.values();
        let mut pixels = vec![0.0; values * indices.len()];
        let labels = pixels
            .par_chunks_mut(values)
            .zip(indices)
            .map(|(pixels, &index)| self.image(index, random, pixels))
            .collect::<Result<_, Failure>>()?;
        Ok((pixels, labels))
    }

    fn image(
        &self,
        index: usize,
        random: Option<EpochRandom>,
        pixels: &mut [f32],
    ) -> Result<usize, Failure> {
        let bad = |message: String| {
            let split = self.split;
            config_error(format!("dataset: {split} image {index}: {message}"))
        };
        let sample = self.dataset.sample(self.split, index);
        let sample = sample.map_err(|e| bad(e.to_string()))?;
        let (label, classes) = (sample.label, self.dataset.classes().len());
        if label >= classes {
            let message = format!("the label {label} is out of range: expected 0..{classes}");
            return Err(bad(message));
        }
        let written = self.preprocess.apply(&sample.image, pixels);
        written.map_err(|e| bad(e.to_string()))?;
        if let Some(random) = random.filter(|r| r.augmentation == Augmentation::Flip) {
            let path = format!("augment/{}/{index}", random.epoch);
            if Generator::new(random.seed, &path).below(2) == 1 {
                pixels
                    .chunks_mut(self.preprocess.input.size)
                    .for_each(<[f32]>::reverse);
            }
        }
        Ok(sample.label)
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

    fn labels(classes: usize, random: Option<EpochRandom>) -> Result<Vec<Vec<usize>>, Failure> {
        let dataset = Counted {
            classes: (0..classes).map(|c| c.to_string()).collect(),
        };
        let loader = Loader {
            dataset: &dataset,
            split: Split::Train,
            preprocess: Preprocess::new(&InputSpec {
                size: 2,
                mean: [0.0; 3],
                std: [1.0; 3],
                interpolation: Interpolation::Bicubic,
                crop_pct: 1.0,
                crop_mode: CropMode::Center,
            }),
            batch_size: 4,
        };
        let mut seen = Vec::new();
        loader.each(0..3, random, &Device::flex(), |_, batch| {
            seen.push(batch.targets);
            Ok(true)
        })?;
        Ok(seen)
    }

    #[test]
    fn an_epoch_holds_every_image_once_in_an_order_of_its_own() {
        let epoch = |epoch| {
            let random = EpochRandom {
                seed: 1,
                epoch,
                augmentation: Augmentation::Flip,
            };
            labels(10, Some(random)).unwrap().concat()
        };
        assert_eq!(
            labels(10, None).unwrap(),
            [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]
        );
        assert_eq!(epoch(0), epoch(0));
        assert_ne!(epoch(0), epoch(1));
        let mut all = epoch(2);
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_label_out_of_range_names_the_record_and_is_wrong_input() {
        let failure = labels(9, None).unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert_eq!(
            failure.error.to_string(),
            "dataset: train image 9: the label 9 is out of range: expected 0..9"
        );
    }
}
