//! A part of the training split: so many images, or so many of each class, drawn from a seed.
//!
//! The images of each class are ordered at random, from the seed and the name of the class, and taken
//! one per class in turn. So a part is as balanced as the classes allow, and lies in every larger part
//! of the same seed. Validation and test stay whole.

use peft_core::data::{Dataset, Image, Sample, Split, Storage, Subset};
use peft_core::random::Generator;
use peft_core::{DatasetConfig, Error, Result};

use crate::exit::{Failure, config_error};

/// Opens a data set, of whose training split only the part that the configuration states is seen.
///
/// # Errors
/// If its files are missing or wrong, or the training split is smaller than the part.
pub fn open(config: &dyn DatasetConfig, seed: u64) -> Result<Box<dyn Dataset>> {
    let whole = config.open()?;
    Ok(match config.subset()? {
        None => whole,
        Some(subset) => Box::new(Part::draw(whole, subset, seed)?),
    })
}

/// The places of the part in the training split, ascending.
fn drawn(whole: &dyn Dataset, subset: Subset, seed: u64) -> Result<Vec<usize>> {
    let classes = whole.classes();
    let mut by_class = vec![Vec::new(); classes.len()];
    for index in 0..whole.len(Split::Train) {
        let label = whole.label(Split::Train, index)?;
        let Some(class) = by_class.get_mut(label) else {
            let expected = format!("expected 0..{}, got {label}", classes.len());
            return Err(Error::Data(format!(
                "train image {index}: label: {expected}"
            )));
        };
        class.push(index);
    }
    for (class, images) in classes.iter().zip(&mut by_class) {
        let order = Generator::new(seed, &format!("part of class {class}"));
        *images = permuted(images, order);
    }
    let turns: Vec<usize> = (0..classes.len()).collect();
    let turns = permuted(&turns, Generator::new(seed, "turns of classes"));
    let rounds = by_class.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..rounds).flat_map(|round| {
        let of_round = |&class: &usize| Some((round, *by_class[class].get(round)?));
        turns.iter().filter_map(of_round).collect::<Vec<_>>()
    });
    let mut train: Vec<usize> = match subset {
        Subset::Shots(shots) => in_turn
            .take_while(|(round, _)| *round < shots)
            .map(|(_, index)| index)
            .collect(),
        Subset::Images(images) => {
            let all = whole.len(Split::Train);
            if images > all {
                let message = format!("expected 1 to {all}, the images of the split, got {images}");
                return Err(Error::config("train_images", message));
            }
            in_turn.take(images).map(|(_, index)| index).collect()
        }
    };
    train.sort_unstable();
    Ok(train)
}

fn permuted(items: &[usize], mut random: Generator) -> Vec<usize> {
    let order = random.permutation(items.len());
    order.into_iter().map(|place| items[place]).collect()
}

/// A data set of whose training split a part is seen.
pub struct Part {
    whole: Box<dyn Dataset>,
    /// Places in the whole training split.
    train: Vec<usize>,
    remarks: Vec<String>,
}

impl Part {
    /// Draws a part of the training split of a data set.
    ///
    /// # Errors
    /// If the split is smaller than the part, a record has no label, or images have several.
    pub fn draw(whole: Box<dyn Dataset>, subset: Subset, seed: u64) -> Result<Self> {
        if whole.is_multi_label() {
            let field = match subset {
                Subset::Images(_) => "train_images",
                Subset::Shots(_) => "shots",
            };
            let message = "expected all training images: a part is drawn class by class, and the images of \
                           this data set have several labels";
            return Err(Error::config(field, message));
        }
        let train = drawn(&*whole, subset, seed)?;
        let (all, some) = (whole.len(Split::Train), train.len());
        let field = match subset {
            Subset::Images(images) => format!("train_images: {images}"),
            Subset::Shots(shots) => format!("shots: {shots}"),
        };
        let remark = format!("{some} of {all} training images are used ({field}, seed {seed})");
        let mut used = vec![false; whole.classes().len()];
        for &index in &train {
            used[whole.label(Split::Train, index)?] = true;
        }
        let unused = used.iter().filter(|used| !**used).count();
        let unused = (unused > 0).then(|| {
            let classes = used.len();
            format!("{unused} of {classes} classes have no image in this part")
        });
        Ok(Self {
            whole,
            train,
            remarks: std::iter::once(remark).chain(unused).collect(),
        })
    }

    /// A hash of the whole data set's content and of the part.
    pub fn fingerprint_of(&self, content: &str) -> String {
        let all = format!("{content} {:?}", self.train);
        blake3::hash(all.as_bytes()).to_hex().to_string()
    }

    /// The place in the whole split.
    fn place(&self, split: Split, index: usize) -> Result<usize> {
        if split != Split::Train {
            return Ok(index);
        }
        let missing = || {
            let all = self.train.len();
            let message =
                format!("no sample {index} in the train split: expected an index below {all}");
            Error::Data(message)
        };
        self.train.get(index).copied().ok_or_else(missing)
    }
}

impl Dataset for Part {
    fn classes(&self) -> &[String] {
        self.whole.classes()
    }

    fn len(&self, split: Split) -> usize {
        match split {
            Split::Train => self.train.len(),
            split => self.whole.len(split),
        }
    }

    fn label(&self, split: Split, index: usize) -> Result<usize> {
        self.whole.label(split, self.place(split, index)?)
    }

    fn is_multi_label(&self) -> bool {
        self.whole.is_multi_label()
    }

    fn labels(&self, split: Split, index: usize) -> Result<Vec<usize>> {
        self.whole.labels(split, self.place(split, index)?)
    }

    fn image(&self, split: Split, index: usize) -> Result<Image> {
        self.whole.image(split, self.place(split, index)?)
    }

    fn sample(&self, split: Split, index: usize) -> Result<Sample> {
        self.whole.sample(split, self.place(split, index)?)
    }

    fn name(&self, split: Split, index: usize) -> String {
        match self.place(split, index) {
            Ok(place) => self.whole.name(split, place),
            Err(_) => format!("{split}/{index}"),
        }
    }

    fn storage(&self, split: Split, index: usize) -> Result<Vec<Storage>> {
        self.whole.storage(split, self.place(split, index)?)
    }

    fn groups(&self) -> &[String] {
        self.whole.groups()
    }

    fn group(&self, split: Split, index: usize) -> Result<Option<usize>> {
        self.whole.group(split, self.place(split, index)?)
    }

    fn remarks(&self) -> Vec<String> {
        [self.remarks.clone(), self.whole.remarks()].concat()
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(self.fingerprint_of(&self.whole.fingerprint()?))
    }
}

/// The error of a configuration's data set.
pub fn at_dataset(error: Error) -> Failure {
    config_error(format_args!("dataset: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels of a training split; images are their place in it.
    struct Labels(Vec<String>, Vec<usize>);

    impl Dataset for Labels {
        fn classes(&self) -> &[String] {
            &self.0
        }

        fn len(&self, split: Split) -> usize {
            if split == Split::Train {
                self.1.len()
            } else {
                7
            }
        }

        fn label(&self, split: Split, index: usize) -> Result<usize> {
            Ok(if split == Split::Train {
                self.1[index]
            } else {
                0
            })
        }

        fn image(&self, _: Split, index: usize) -> Result<Image> {
            let rgb = vec![index as u8; 3];
            Ok(Image {
                width: 1,
                height: 1,
                rgb,
            })
        }

        fn fingerprint(&self) -> Result<String> {
            Ok("whole".to_owned())
        }
    }

    /// 20 images of class a, 5 of b, 12 of c, in no order.
    fn whole() -> Box<dyn Dataset> {
        let counts = [20, 5, 12];
        let labels: Vec<usize> = (0..3)
            .flat_map(|class| vec![class; counts[class]])
            .collect();
        let labels = permuted(&labels, Generator::new(9, "labels"));
        Box::new(Labels(["a", "b", "c"].map(str::to_owned).to_vec(), labels))
    }

    /// The places in the whole split, and the images of each class.
    fn taken(subset: Subset, seed: u64) -> (Vec<u8>, [usize; 3]) {
        let data = Part::draw(whole(), subset, seed).unwrap();
        let mut counts = [0; 3];
        let mut places = Vec::new();
        for index in 0..data.len(Split::Train) {
            let sample = data.sample(Split::Train, index).unwrap();
            counts[sample.label] += 1;
            places.push(sample.image.rgb[0]);
        }
        assert!(places.is_sorted());
        assert_eq!([data.len(Split::Validation), data.len(Split::Test)], [7, 7]);
        (places, counts)
    }

    #[test]
    fn a_part_is_balanced_and_lies_in_every_larger_one() {
        for (shots, counts) in [(1, [1; 3]), (4, [4; 3]), (8, [8, 5, 8]), (30, [20, 5, 12])] {
            assert_eq!(taken(Subset::Shots(shots), 3).1, counts, "{shots}");
        }
        assert_eq!(taken(Subset::Images(9), 3).1, [3; 3]);
        assert_eq!(taken(Subset::Images(9), 3), taken(Subset::Shots(3), 3));
        assert_eq!(taken(Subset::Images(25), 3).1, [10, 5, 10]);
        let inside = |small: Subset, large: Subset| {
            let large = taken(large, 3).0;
            taken(small, 3).0.iter().all(|place| large.contains(place))
        };
        for count in 1..20 {
            assert!(
                inside(Subset::Shots(count), Subset::Shots(count + 1)),
                "{count}"
            );
        }
        for count in 1..37 {
            let (small, large) = (Subset::Images(count), Subset::Images(count + 1));
            assert!(inside(small, large), "{count}");
            let [a, b, c] = taken(small, 3).1;
            assert!(a.abs_diff(c) <= 1 || c == 12, "{count}: {a} {b} {c}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let of = |seed| taken(Subset::Shots(3), seed).0;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let print = |seed| {
            let part = Part::draw(whole(), Subset::Shots(3), seed).unwrap();
            part.fingerprint().unwrap()
        };
        assert_eq!(print(1), print(1));
        assert_ne!(print(1), print(2));
    }

    #[test]
    fn a_part_that_is_too_large_is_refused_and_a_small_one_has_remarks() {
        let error = Part::draw(whole(), Subset::Images(38), 0).err().unwrap();
        let message = error.to_string();
        assert!(
            message.contains("expected 1 to 37") && message.contains("got 38"),
            "{message}"
        );
        let data = Part::draw(whole(), Subset::Images(2), 0).unwrap();
        assert_eq!(
            data.remarks(),
            [
                "2 of 37 training images are used (train_images: 2, seed 0)",
                "1 of 3 classes have no image in this part",
            ]
        );
        let message = data.image(Split::Train, 2).unwrap_err().to_string();
        assert!(
            message.contains("no sample 2 in the train split"),
            "{message}"
        );
    }
}
