//! A data set whose records are known and not yet read: what all file formats open as.

use std::borrow::Cow;

use peft_core::Result;
use peft_core::data::{Dataset, Image, Split};
use peft_core::error::listed;
use rayon::prelude::*;

use crate::Error;
use crate::decode::decode_bytes;
use crate::split::BySplit;

/// Where the bytes of images come from.
pub(crate) trait Source: Send + Sync {
    /// The place of one image.
    type At: Send + Sync;

    /// The image's name in messages: its file, and its line or row.
    fn name(&self, at: &Self::At) -> String;

    /// The encoded image.
    fn bytes(&self, at: &Self::At) -> Result<Cow<'_, [u8]>, Error>;

    /// The image in `bytes`, or what was found instead.
    fn decode(&self, bytes: &[u8]) -> Result<Image, String> {
        decode_bytes(bytes)
    }
}

/// One record: what is known of it before its image is read.
#[derive(Debug, Clone)]
pub(crate) struct Item<A> {
    pub label: usize,
    pub group: Option<usize>,
    pub at: A,
}

/// Records in three splits and where their images lie.
#[derive(Debug)]
pub(crate) struct Indexed<S: Source> {
    pub classes: Vec<String>,
    pub groups: Vec<String>,
    pub splits: BySplit<Vec<Item<S::At>>>,
    pub source: S,
    pub remarks: Vec<String>,
}

impl<S: Source> Indexed<S> {
    /// A set without groups. That a class has no training image is remarked on, not refused: the
    /// 800 images of some VTAB-1k sets leave classes out.
    ///
    /// Labels are below the number of classes: the parsers see to it, where they know the line.
    pub fn new(classes: Vec<String>, splits: BySplit<Vec<Item<S::At>>>, source: S) -> Self {
        let mut images = vec![0; classes.len()];
        for item in &splits.train {
            images[item.label] += 1;
        }
        let empty: Vec<&String> = classes
            .iter()
            .zip(images)
            .filter_map(|(class, count)| (count == 0).then_some(class))
            .collect();
        let remarks = match empty.len() {
            0 => Vec::new(),
            1 => vec![format!("class `{}` has no training image", empty[0])],
            n => vec![format!(
                "{n} of {} classes have no training image: {}",
                classes.len(),
                listed(&empty, 10)
            )],
        };
        Self {
            classes,
            groups: Vec::new(),
            splits,
            source,
            remarks,
        }
    }
}

impl<S: Source> Dataset for Indexed<S> {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self, split: Split) -> usize {
        self.splits.get(split).len()
    }

    fn label(&self, split: Split, index: usize) -> Result<usize> {
        Ok(self.splits.at(split, index)?.label)
    }

    fn image(&self, split: Split, index: usize) -> Result<Image> {
        let at = &self.splits.at(split, index)?.at;
        let bytes = self.source.bytes(at)?;
        let image = self.source.decode(&bytes).map_err(|got| Error::Decode {
            image: self.source.name(at),
            got,
        })?;
        Ok(image)
    }

    fn groups(&self) -> &[String] {
        &self.groups
    }

    fn group(&self, split: Split, index: usize) -> Result<Option<usize>> {
        Ok(self.splits.at(split, index)?.group)
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }

    /// The blake3 hash of the classes, the groups and, split by split, every record's label, group
    /// and encoded image. Reads every image once. Where the files lie, and how they are packed,
    /// makes no difference; an image that cannot be read counts as absent, and fails when it is
    /// asked for.
    fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {:?}\n", self.classes, self.groups).as_bytes());
        for split in Split::ALL {
            let items = self.splits.get(split);
            let hashes: Vec<Option<blake3::Hash>> = items
                .par_iter()
                .map(|item| Some(blake3::hash(&self.source.bytes(&item.at).ok()?)))
                .collect();
            for (Item { label, group, .. }, hash) in items.iter().zip(hashes) {
                hasher.update(format!("{split} {label} {group:?} {hash:?}\n").as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
