//! From a data set to batches on the device, prepared beside the computation.

use std::ops::Range;
use std::sync::mpsc::sync_channel;

use burn::tensor::{Device, Int, Tensor, TensorData};
use peft_core::data::{Dataset, Split};
use peft_core::random::Generator;
use peft_datasets::{Augment, Preprocess};
use rayon::prelude::*;

use crate::exit::{Failure, config_error};

/// Images and labels of one forward pass.
pub struct Batch {
    /// `[b, 3, h, w]`, normalised.
    pub images: Tensor<4>,
    /// `[b]`.
    pub labels: Tensor<1, Int>,
    /// The same labels on the host.
    pub targets: Vec<usize>,
    /// `[b]`, if image `i` is mixed with image `b - 1 - i`: its own part in its target.
    pub lambda: Option<Tensor<1>>,
}

/// A batch that is not on the device yet.
struct HostBatch {
    pixels: Vec<f32>,
    targets: Vec<usize>,
    lambda: Option<Vec<f32>>,
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
    pub augment: Augment,
}

impl EpochRandom {
    /// The numbers for an image or a batch: the same on any number of threads, resumed or not.
    fn generator(&self, purpose: &str, index: usize) -> Generator {
        Generator::new(self.seed, &format!("{purpose}/{}/{index}", self.epoch))
    }
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
                    let batch = self.host_batch(index, &order[start..end], random);
                    // A closed channel: the consumer has stopped.
                    if sender.send((index, batch)).is_err() {
                        break;
                    }
                }
            });
            for (index, batch) in receiver {
                let HostBatch {
                    pixels,
                    targets,
                    lambda,
                } = batch?;
                let (rows, size) = (targets.len(), self.preprocess.input.size);
                let images = TensorData::new(pixels, [rows, 3, size, size]);
                let labels: Vec<i64> = targets.iter().map(|&label| label as i64).collect();
                let batch = Batch {
                    images: Tensor::from_data(images, device),
                    labels: Tensor::from_data(TensorData::new(labels, [rows]), device),
                    targets,
                    lambda: lambda
                        .map(|lambda| Tensor::from_data(TensorData::new(lambda, [rows]), device)),
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
        batch: usize,
        indices: &[usize],
        random: Option<EpochRandom>,
    ) -> Result<HostBatch, Failure> {
        let values = self.preprocess.values();
        let mut pixels = vec![0.0; values * indices.len()];
        let targets = pixels
            .par_chunks_mut(values)
            .zip(indices)
            .map(|(pixels, &index)| self.image(index, random, pixels))
            .collect::<Result<_, Failure>>()?;
        let mixing = random.filter(|random| random.augment.mixes());
        let lambda = mixing.map(|random| {
            let (mut generator, size) =
                (random.generator("mix", batch), self.preprocess.input.size);
            let mix = random.augment.mix(&mut generator, indices.len(), size);
            mix.apply(&mut pixels, size);
            mix.0.iter().map(|mixed| mixed.lambda).collect()
        });
        Ok(HostBatch {
            pixels,
            targets,
            lambda,
        })
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
        let (image, input) = (&sample.image, &self.preprocess.input);
        let written = match random {
            None => self.preprocess.apply(image, pixels),
            Some(random) => {
                let mut generator = random.generator("augment", index);
                let sides = (image.width, image.height);
                let drawn = random.augment.draw(&mut generator, sides, input.size);
                drawn.apply(image, input, pixels)
            }
        };
        written.map_err(|e| bad(e.to_string()))?;
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

    fn counted(classes: usize) -> Counted {
        Counted {
            classes: (0..classes).map(|c| c.to_string()).collect(),
        }
    }

    fn loader(dataset: &Counted) -> Loader<'_> {
        Loader {
            dataset,
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
        }
    }

    fn labels(classes: usize, random: Option<EpochRandom>) -> Result<Vec<Vec<usize>>, Failure> {
        let dataset = counted(classes);
        let mut seen = Vec::new();
        loader(&dataset).each(0..3, random, &Device::flex(), |_, batch| {
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
                augment: Augment::default(),
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
    fn an_epochs_changes_do_not_depend_on_the_number_of_threads() {
        let augment = "{re_prob: 0.5, re_mode: pixel, mixup: 0.8, mixup_mode: elem}";
        let dataset = counted(10);
        let epoch = |threads, epoch| {
            let random = EpochRandom {
                seed: 1,
                epoch,
                augment: serde_yaml::from_str(augment).unwrap(),
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let batch = || loader(&dataset).host_batch(0, &[3, 1, 4, 5], Some(random));
            let batch = pool.build().unwrap().install(batch).unwrap();
            (batch.pixels, batch.lambda.unwrap())
        };
        assert_eq!(epoch(1, 0), epoch(3, 0));
        assert_ne!(epoch(1, 0), epoch(1, 1));
        assert!(epoch(1, 0).1.iter().any(|lambda| *lambda < 1.0));
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
