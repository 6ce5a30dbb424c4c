//! A value for each split, and the rule that divides samples into splits without a seed.

use peft_core::data::Split;

use crate::error::Error;

/// The same value for each split.
#[derive(Debug, Clone, Default)]
pub(crate) struct BySplit<T> {
    pub train: T,
    pub validation: T,
    pub test: T,
}

impl<T> BySplit<T> {
    pub fn get(&self, split: Split) -> &T {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
            Split::Test => &self.test,
        }
    }

    pub fn get_mut(&mut self, split: Split) -> &mut T {
        match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
            Split::Test => &mut self.test,
        }
    }

    /// The values in the order of [`Split::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        Split::ALL.into_iter().map(|split| self.get(split))
    }

    /// Changes each value, in the order of [`Split::ALL`].
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> BySplit<U> {
        BySplit {
            train: change(self.train),
            validation: change(self.validation),
            test: change(self.test),
        }
    }

    /// Makes a value for each split, in the order of [`Split::ALL`], up to the first error.
    pub fn try_from_fn<E>(mut make: impl FnMut(Split) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            train: make(Split::Train)?,
            validation: make(Split::Validation)?,
            test: make(Split::Test)?,
        })
    }
}

impl<T> BySplit<Vec<T>> {
    /// Item `index` of `split`.
    ///
    /// # Errors
    /// [`Error::Index`] if there are fewer.
    pub fn at(&self, split: Split, index: usize) -> Result<&T, Error> {
        let items = self.get(split);
        items.get(index).ok_or(Error::Index {
            split,
            index,
            len: items.len(),
        })
    }
}

/// Orders `items` by the blake3 hash of their key. This is a fixed shuffle: it depends on the items
/// alone and not on a seed, and an item that is added leaves the order of the others as it is.
pub(crate) fn hash_order<T, K: AsRef<[u8]>>(items: &mut [T], key: impl Fn(&T) -> K) {
    items.sort_by_cached_key(|item| *blake3::hash(key(item).as_ref()).as_bytes());
}

/// The default part of `train` that validates where the data have no validation split.
pub(crate) fn default_validation_fraction() -> f32 {
    0.1
}

/// Moves a part of each class of `train` into a validation split; both keep their order.
///
/// Within a class the items are ordered by the blake3 hash of the key that `key` makes of their
/// index in `train` and themselves; the first ones validate: `fraction` of them rounded to the
/// nearest, at least one, and never the last item of a class.
///
/// # Errors
/// A fraction outside of (0, 1), or no class with at least two items.
pub(crate) fn set_aside<T, K: AsRef<[u8]>>(
    train: &mut Vec<T>,
    fraction: f32,
    label: impl Fn(&T) -> usize,
    key: impl Fn(usize, &T) -> K,
) -> Result<Vec<T>, Error> {
    take_part("validation_fraction", train, fraction, label, key)
}

/// Does what [`set_aside`] does, for any split: `field` is the name of the fraction in the configuration.
pub(crate) fn take_part<T, K: AsRef<[u8]>>(
    field: &'static str,
    train: &mut Vec<T>,
    fraction: f32,
    label: impl Fn(&T) -> usize,
    key: impl Fn(usize, &T) -> K,
) -> Result<Vec<T>, Error> {
    if !(fraction > 0.0 && fraction < 1.0) {
        let expected = "a number in (0, 1)";
        return Err(Error::invalid(field, expected, fraction));
    }
    let classes = train.iter().map(|item| label(item) + 1).max().unwrap_or(0);
    let mut by_class = vec![Vec::new(); classes];
    for (index, item) in train.iter().enumerate() {
        by_class[label(item)].push(index);
    }
    let mut validates = vec![false; train.len()];
    for mut indices in by_class {
        hash_order(&mut indices, |&index| key(index, &train[index]));
        // A class of one image trains: a class that is only validated could not be learned.
        let wanted = (indices.len() as f32 * fraction).round() as usize;
        let count = wanted.max(1).min(indices.len().saturating_sub(1));
        for &index in &indices[..count] {
            validates[index] = true;
        }
    }
    // `extract_if` goes through the items once, in order, and so do the flags.
    let mut flags = validates.into_iter();
    let validation: Vec<T> = train
        .extract_if(.., |_| flags.next() == Some(true))
        .collect();
    if validation.is_empty() {
        let expected = "a class with two images or more, to set one aside";
        return Err(Error::invalid(field, expected, "none"));
    }
    Ok(validation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_order_ignores_the_order_it_was_given() {
        let mut forward: Vec<u32> = (0..50).collect();
        let mut backward: Vec<u32> = (0..50).rev().collect();
        hash_order(&mut forward, |i| i.to_le_bytes());
        hash_order(&mut backward, |i| i.to_le_bytes());
        assert_eq!(forward, backward);
        assert!(!forward.is_sorted());
    }

    #[test]
    fn what_is_set_aside_is_a_fixed_part_of_each_class() {
        // 30 of class 0, 15 of class 1, one of class 3.
        let label = |&i: &u32| [0, 0, 1][i as usize % 3] + 3 * usize::from(i == 45);
        let all: Vec<u32> = (0..46).collect();
        let mut train = all.clone();
        let validation = set_aside(&mut train, 0.1, label, |_, i| i.to_le_bytes()).unwrap();
        let of_class = |class| validation.iter().filter(|i| label(i) == class).count();
        assert_eq!([0, 1, 2, 3].map(of_class), [3, 2, 0, 0]);
        assert!(train.is_sorted() && validation.is_sorted());
        let mut both = [train, validation].concat();
        both.sort_unstable();
        assert_eq!(both, all);
    }

    #[test]
    fn nothing_to_set_aside_and_a_wrong_fraction_are_errors() {
        let aside = |mut train: Vec<u32>, fraction| {
            set_aside(
                &mut train,
                fraction,
                |&i| i as usize,
                |_, i| i.to_le_bytes(),
            )
            .unwrap_err()
            .to_string()
        };
        assert!(aside(vec![0, 1], 0.5).contains("two images or more"));
        for fraction in [0.0, 1.0, f32::NAN] {
            assert!(aside(vec![0, 0], fraction).contains("a number in (0, 1)"));
        }
    }

    #[test]
    fn an_index_past_the_end_says_how_many_there_are() {
        let items = BySplit {
            train: vec![1, 2],
            ..Default::default()
        };
        let message = items.at(Split::Train, 2).unwrap_err().to_string();
        assert_eq!(
            message,
            "no sample 2 in the train split: expected an index below 2"
        );
    }
}
