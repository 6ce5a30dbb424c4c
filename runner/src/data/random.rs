//! Random changes of images and the order of an epoch.

use peft_core::data::Split;
use peft_core::random::Generator;
use peft_datasets::augment::{Augment, Drawn};

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
    pub fn drawn(&self, split: Split, index: usize, sides: (usize, usize), size: usize) -> Drawn {
        let view = self.view();
        let path = match split {
            Split::Train => format!("augment/{view}/{index}"),
            _ => format!("augment/{view}/{split}/{index}"),
        };
        let mut generator = Generator::new(self.seed, &path);
        self.augment.draw(&mut generator, sides, size)
    }

    /// The numbers for what mixes the images of a batch.
    pub fn of_batch(&self, batch: usize) -> Generator {
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
    pub fn random(&self) -> Option<EpochRandom> {
        match self {
            Self::Plain => None,
            Self::Training(random) | Self::View(random) => Some(*random),
        }
    }
}
