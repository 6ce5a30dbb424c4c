//! What every file format opens as: a data set whose records are known and whose images are read
//! when they are asked for.

use std::borrow::Cow;

use peft_core::Result;
use peft_core::data::{Dataset, Image, Split, Storage};
use peft_core::error::listed;
use rayon::prelude::*;

use crate::decode::decode_bytes;
use crate::error::Error;
use crate::split::BySplit;
use crate::storage::{Exif, Header};

/// Where the bytes of images come from.
pub(crate) trait Source: Send + Sync {
    /// Where one image is.
    type At: Send + Sync;

    /// The image's name in messages: its file, with the line or row.
    fn name(&self, at: &Self::At) -> String;

    /// The encoded image.
    fn bytes(&self, at: &Self::At) -> Result<Cow<'_, [u8]>, Error>;

    /// The image in `bytes`, turned as `exif` says, or else what they hold.
    fn decode(&self, bytes: &[u8], exif: Exif) -> Result<Image, String> {
        decode_bytes(bytes, exif)
    }

    /// The headers of the image in `bytes`.
    fn header(&self, bytes: &[u8]) -> Header {
        Header::of(bytes)
    }
}

/// One record, as known before its image is read.
#[derive(Debug, Clone)]
pub(crate) struct Item<A> {
    /// An index into the classes; in a multi-label set, an index into its [sets](Indexed::sets).
    pub label: usize,
    /// An index into the groups.
    pub group: Option<usize>,
    /// Where the image is.
    pub at: A,
}

/// The records of each split.
pub(crate) type Items<A> = BySplit<Vec<Item<A>>>;

/// The classes of records and their items.
pub(crate) struct Resolved<A> {
    /// The names of the classes.
    pub classes: Vec<String>,
    /// The different sets of labels, each ascending; empty if every record has one label.
    pub sets: Vec<Vec<usize>>,
    /// Their labels are indices into `sets` where there are any, else into `classes`.
    pub splits: Items<A>,
}

impl<A> Resolved<A> {
    /// What a part of the training images keeps its share of: the class. Images with several labels are
    /// divided all together.
    pub fn stratum(&self) -> impl Fn(&Item<A>) -> usize + use<A> {
        let is_multi_label = !self.sets.is_empty();
        move |item| match is_multi_label {
            true => 0,
            false => item.label,
        }
    }
}

/// The records of three splits and the source of their images.
#[derive(Debug)]
pub(crate) struct Indexed<S: Source> {
    pub classes: Vec<String>,
    /// The different sets of labels that images have, each ascending; empty if every image has one label.
    pub sets: Vec<Vec<usize>>,
    pub groups: Vec<String>,
    pub splits: Items<S::At>,
    pub source: S,
    /// Whether images are turned upright.
    pub exif: Exif,
    /// What a reader of a plan should know of this set.
    pub remarks: Vec<String>,
}

impl<S: Source> Indexed<S> {
    /// A set without groups, whose images are not turned. A class without training images is a remark and
    /// not an error: the 800 images of some VTAB-1k sets leave classes out.
    ///
    /// Labels must be below the number of classes. The parsers check that, because they can name
    /// the line.
    pub fn new(classes: Vec<String>, splits: Items<S::At>, source: S) -> Self {
        let sets = Vec::new();
        let resolved = Resolved {
            classes,
            sets,
            splits,
        };
        Self::of(resolved, source)
    }

    /// As [`new`](Self::new), of records with one label each or with several.
    pub fn of(resolved: Resolved<S::At>, source: S) -> Self {
        let Resolved {
            classes,
            sets,
            splits,
        } = resolved;
        // Only training images are counted: a class without any cannot be learned.
        let mut images = vec![0; classes.len()];
        for item in &splits.train {
            match sets.get(item.label) {
                Some(set) => set.iter().for_each(|label| images[*label] += 1),
                None => images[item.label] += 1,
            }
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
            sets,
            groups: Vec::new(),
            splits,
            source,
            exif: Exif::Ignore,
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
        let label = self.splits.at(split, index)?.label;
        match self.is_multi_label() {
            true => {
                let image = self.name(split, index);
                let got = "any number of labels, as this data set has several per image";
                Err(Error::record(image, "one label", got).into())
            }
            false => Ok(label),
        }
    }

    fn is_multi_label(&self) -> bool {
        !self.sets.is_empty()
    }

    fn labels(&self, split: Split, index: usize) -> Result<Vec<usize>> {
        let label = self.splits.at(split, index)?.label;
        Ok(self.sets.get(label).cloned().unwrap_or_else(|| vec![label]))
    }

    fn image(&self, split: Split, index: usize) -> Result<Image> {
        let at = &self.splits.at(split, index)?.at;
        let bytes = self.source.bytes(at)?;
        let image = self
            .source
            .decode(&bytes, self.exif)
            .map_err(|got| Error::Decode {
                image: self.source.name(at),
                got,
            })?;
        Ok(image)
    }

    fn name(&self, split: Split, index: usize) -> String {
        match self.splits.at(split, index) {
            Ok(item) => self.source.name(&item.at),
            Err(_) => format!("{split}/{index}"),
        }
    }

    fn storage(&self, split: Split, index: usize) -> Result<Vec<Storage>> {
        let bytes = self.source.bytes(&self.splits.at(split, index)?.at)?;
        Ok(self.source.header(&bytes).storage(self.exif))
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

    /// The blake3 hash of the classes, the groups and, split by split, the label, the group and the
    /// encoded image of every record. Reads every image once. The location of the files and the way
    /// they are packed make no difference. An image that cannot be read counts as absent here; asking
    /// for it is an error. An image that is turned upright counts as another one than the same image as
    /// it is stored.
    fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?} {:?}\n", self.classes, self.groups).as_bytes());
        if self.is_multi_label() {
            hasher.update(format!("sets {:?}\n", self.sets).as_bytes());
        }
        for split in Split::ALL {
            let items = self.splits.get(split);
            // Hashed image by image, so that threads can share the work; the order is that of the
            // records.
            let hashes: Vec<Option<(blake3::Hash, String)>> = items
                .par_iter()
                .map(|item| {
                    let bytes = self.source.bytes(&item.at).ok()?;
                    let header = self.source.header(&bytes);
                    let turn = header.turn(self.exif);
                    let turn = turn.map(|turn| format!(" turned {}", turn.to_exif()));
                    let anew = if header.is_read_anew() { " read 2" } else { "" };
                    Some((blake3::hash(&bytes), turn.unwrap_or_default() + anew))
                })
                .collect();
            for (Item { label, group, .. }, read) in items.iter().zip(hashes) {
                let (hash, turn) = read.unzip();
                let turn = turn.unwrap_or_default();
                hasher.update(format!("{split} {label} {group:?} {hash:?}{turn}\n").as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
