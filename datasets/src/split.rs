//! What the data sets share: a value for each split, and the rule that assigns a sample to a split
//! without a seed.

use peft_core::data::Split;

use crate::Error;

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
}

impl<T> BySplit<Vec<T>> {
    /// Item `index` of `split`, or an error that says how many there are.
    pub fn at(&self, split: Split, index: usize) -> Result<&T, Error> {
        let items = self.get(split);
        items.get(index).ok_or(Error::Index {
            split,
            index,
            len: items.len(),
        })
    }
}

/// Orders `items` by the blake3 hash of their key: a fixed shuffle that depends on the items alone,
/// not on a seed, and in which adding an item moves no other relative to the rest.
pub(crate) fn hash_order<T, K: AsRef<[u8]>>(items: &mut [T], key: impl Fn(&T) -> K) {
    items.sort_by_cached_key(|item| *blake3::hash(key(item).as_ref()).as_bytes());
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
