use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use burn::tensor::Device;
use peft_core::data::{Dataset, Image};
use peft_core::input::{CropMode, InputSpec, Interpolation};
use peft_datasets::augment::Augment;

use super::*;
use crate::config::on_error::OnError;
use crate::data::random::EpochRandom;
use crate::data::targets::Targets;
use crate::exit::{Exit, config_error};

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
        size: 2.into(),
        mean: [0.0; 3],
        std: [1.0; 3],
        interpolation: Interpolation::Bicubic,
        crop_pct: 1.0,
        crop_mode: CropMode::Center,
    });
    Loader::new(images, &[Split::Train], preprocess, 4)
}

/// The label of each image.
fn one(targets: &Targets) -> Vec<usize> {
    targets.single().unwrap().to_vec()
}

fn labels(classes: usize, pass: Pass) -> Result<Vec<Vec<usize>>, Failure> {
    let images = Images::new(Box::new(counted(classes)), OnError::Fail);
    let mut seen = Vec::new();
    loader(&images).each(0..3, pass, &Device::flex(), |_, batch| {
        seen.push(one(&batch.targets));
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
                seen.push((index, batch.x.to_vec(), one(&batch.targets)));
                Ok::<_, Failure>(true)
            })
        };
        // Without a pool of its own the loader runs on this thread, which is not a worker.
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
fn unreadable_images_are_left_out_and_a_batch_without_images_is_skipped() {
    let damaged = Counted {
        damaged: vec![1, 4, 5, 6, 7],
        ..counted(10)
    };
    let images = Images::new(Box::new(damaged), OnError::Skip);
    let device = Device::flex();
    let mut seen = Vec::new();
    let read = loader(&images).each(0..3, Pass::Plain, &device, |index, batch| {
        assert_eq!(batch.x.to_vec().len(), 12 * batch.targets.len());
        seen.push((index, one(&batch.targets)));
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
    // The only worker of a pool is also needed for the batches that nobody takes.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let pool = pool.build().unwrap();
    for last in 0..10 {
        for fails in [true, false] {
            stops(last, fails);
            pool.scope(|_| stops(last, fails));
        }
    }
}

/// Keeps the lines.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Warn for Lines {
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[test]
fn an_image_is_warned_of_once() {
    let damaged = Counted {
        damaged: vec![3],
        ..counted(10)
    };
    let (images, lines) = (
        Images::new(Box::new(damaged), OnError::Skip),
        Lines::default(),
    );
    let loader = loader(&images).with_warnings(&lines);
    for _ in 0..2 {
        let read = loader.each(0..3, Pass::Plain, &Device::flex(), |_, _| {
            Ok::<_, Failure>(true)
        });
        read.unwrap();
    }
    let expected = "warning: dataset: train image 3 is left out: damaged";
    assert_eq!(*lines.0.lock().unwrap(), [expected]);
}

#[test]
fn a_panic_of_the_consumer_passes_through_even_on_the_only_worker() {
    let images = Images::new(Box::new(counted(10)), OnError::Fail);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let panicked = pool.build().unwrap().install(|| {
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            let loader = Loader {
                batch_size: 1,
                ..loader(&images)
            };
            loader.each(
                0..10,
                Pass::Plain,
                &Device::flex(),
                |_, _| -> Result<bool, Failure> { panic!("as a step may") },
            )
        }))
    });
    assert_eq!(
        panicked.err().unwrap().downcast_ref(),
        Some(&"as a step may")
    );
}

#[test]
fn random_changes_do_not_depend_on_the_number_of_threads() {
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
fn a_label_out_of_range_is_an_error_that_names_the_image() {
    let failure = labels(9, Pass::Plain).unwrap_err();
    assert_eq!(failure.exit, Exit::Config);
    assert_eq!(
        failure.error.to_string(),
        "dataset: train image 9: the label 9 is out of range: expected 0..9"
    );
}
