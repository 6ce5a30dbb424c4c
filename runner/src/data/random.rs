//! The order in which images are seen and the random changes that they undergo: functions of the seed, the
//! epoch and the image only, and so the same on any number of threads and in a run that was resumed.

use peft_core::data::Split;
use peft_core::input::ImageSize;
use peft_core::random::Generator;
use peft_datasets::augment::{Augment, Drawn};

/// The random changes of one epoch.
#[derive(Clone, Copy)]
pub struct EpochRandom {
    /// The run's seed.
    pub seed: u64,
    /// The epoch, from 0.
    pub epoch: usize,
    /// The kinds of changes and their ranges.
    pub augment: Augment,
    /// How many different changes an image sees, epoch after epoch, before they repeat; 0 if they never
    /// repeat.
    pub views: usize,
}

impl EpochRandom {
    /// The changes of another epoch.
    pub fn of_epoch(self, epoch: usize) -> Self {
        Self { epoch, ..self }
    }

    /// Which of an image's changes this epoch shows.
    fn view(&self) -> usize {
        match self.views {
            0 => self.epoch,
            views => self.epoch % views,
        }
    }

    /// The changes of an image whose sides are `(width, height)`, for an input of that `size`.
    pub fn drawn(
        &self,
        split: Split,
        index: usize,
        sides: (usize, usize),
        size: ImageSize,
    ) -> Drawn {
        let view = self.view();
        // Training images have no split in their path, so that a run on `train_validation` changes them as a
        // run on `train` does.
        let path = match split {
            Split::Train => format!("augment/{view}/{index}"),
            _ => format!("augment/{view}/{split}/{index}"),
        };
        let mut generator = Generator::new(self.seed, &path);
        self.augment.draw(&mut generator, sides, size)
    }

    /// The random numbers by which the images of a batch are mixed.
    pub fn of_batch(&self, batch: usize) -> Generator {
        Generator::new(self.seed, &format!("mix/{}/{batch}", self.epoch))
    }

    /// The order of an epoch of `images`.
    pub fn order(&self, images: usize) -> Vec<usize> {
        let path = format!("order/{}", self.epoch);
        Generator::new(self.seed, &path).permutation(images)
    }
}

/// How a loader goes through its images.
#[derive(Clone, Copy)]
pub enum Pass {
    /// In the data set's order, unchanged.
    Plain,
    /// In the order of the epoch, changed.
    Training(EpochRandom),
    /// In the data set's order, changed: the rows that a cache stores for one view.
    View(EpochRandom),
}

impl Pass {
    /// The random changes, if there are any.
    pub fn random(&self) -> Option<EpochRandom> {
        match self {
            Self::Plain => None,
            Self::Training(random) | Self::View(random) => Some(*random),
        }
    }
}
