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

    /// The order of an epoch of `images` with as many of each class. `classes` has the images of each
    /// class; those without any are passed over. Within a class every image comes once before one is
    /// repeated. Where the images do not divide evenly, other classes get one more in every epoch.
    pub fn balanced_order(&self, classes: &[Vec<usize>], images: usize) -> Vec<usize> {
        let classes: Vec<&Vec<usize>> = classes.iter().filter(|class| !class.is_empty()).collect();
        let generator = |what: &str| {
            let path = format!("balance/{}/{what}", self.epoch);
            Generator::new(self.seed, &path)
        };
        let mut chosen = Vec::with_capacity(images);
        let ranks = generator("classes").permutation(classes.len());
        for (rank, class) in ranks.into_iter().enumerate() {
            let wanted = images / classes.len() + usize::from(rank < images % classes.len());
            let end = chosen.len() + wanted;
            let mut round = 0;
            while chosen.len() < end {
                let order =
                    generator(&format!("{class}/{round}")).permutation(classes[class].len());
                let left = end - chosen.len();
                chosen.extend(
                    order
                        .into_iter()
                        .take(left)
                        .map(|place| classes[class][place]),
                );
                round += 1;
            }
        }
        let order = self.order(chosen.len());
        order.into_iter().map(|place| chosen[place]).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balanced_epoch_has_as_many_images_of_each_class() {
        let classes = [(0..50).collect(), Vec::new(), vec![50, 51, 52], vec![53]];
        let random = |epoch| EpochRandom {
            seed: 7,
            epoch,
            augment: Augment::default(),
            views: 0,
        };
        let order = |epoch| random(epoch).balanced_order(&classes, 54);
        let mut counts = vec![0; 54];
        for place in order(0) {
            counts[place] += 1;
        }
        let of = |class: usize| -> usize {
            classes[class]
                .iter()
                .map(|&place: &usize| counts[place])
                .sum()
        };
        assert_eq!([0, 1, 2, 3].map(of), [18, 0, 18, 18]);
        assert!(
            counts[..50].iter().all(|count| *count <= 1),
            "repeated before all came"
        );
        assert_eq!(counts[50..], [6, 6, 6, 18]);
        assert_eq!(order(0), order(0));
        assert_ne!(order(0), order(1));
        assert!(!order(0).is_sorted());
        // The image that is left over goes to another class from epoch to epoch.
        let larger = |epoch: usize| {
            let order = random(epoch).balanced_order(&classes, 55);
            [0, 2, 3].map(|class: usize| {
                order
                    .iter()
                    .filter(|place| classes[class].contains(place))
                    .count()
            })
        };
        assert!((0..9).all(|epoch| larger(epoch).iter().sum::<usize>() == 55));
        assert!((1..9).any(|epoch| larger(epoch) != larger(0)));
    }
}
