//! Folders that TensorFlow Datasets wrote: TFRecord shards of `tf.train.Example`, with
//! `dataset_info.json`, `features.json` and the names of the classes beside them.
//!
//! Splits may be slices as the library writes them, `train[:800]+train[90%:]`, which is how VTAB-1k
//! states its images. Records are counted in the order of the shards. Every checksum is verified when
//! the set is opened; images are then read from the mapped shards.

mod example;
mod info;
mod records;
mod slices;

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::example::{Example, Value};
use self::info::{Info, Labels};
use super::file_format::file_format;
use crate::error::Error;
use crate::files::Place;
use crate::indexed::{Indexed, Source};
use crate::label_sets::resolve_sets;
use crate::labels::{Labelled, OnStray, Strays};
use crate::shards::Mapped;
use crate::split::{BySplit, default_validation_fraction, set_aside};
use crate::storage::Exif;

peft_core::dataset_config! {
    /// A folder that TensorFlow Datasets wrote.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Tfds {
        /// The folder with `dataset_info.json`: `<name>/<version>` or `<name>/<config>/<version>`.
        pub root: PathBuf,
        /// The images that train: a split of the set, or a slice such as `train[:800]`, `train[10%:]` or
        /// `train[:800]+validation[:200]`.
        #[serde(default = "default_train")]
        pub train: String,
        /// The images that validate, in the same way. Without it, `validation` if the set has such a
        /// split, else a part of `train` is set aside.
        #[serde(default)]
        pub validation: Option<String>,
        /// The images that test, in the same way.
        #[serde(default = "default_test")]
        pub test: String,
        /// The feature that is the image.
        #[serde(default = "default_image")]
        pub image: String,
        /// The feature that is the label: a class, a whole number or a text, or a sequence of classes, where
        /// images have several labels.
        #[serde(default = "default_label")]
        pub label: String,
        /// Part of each class of `train` that is set aside where nothing else validates: a number in
        /// (0, 1). The order is that of the blake3 hash of `<shard's file name>/<record's index>`.
        #[serde(default = "default_validation_fraction")]
        pub validation_fraction: f32,
        /// What becomes of an image with a negative label, which marks one that is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks, where nothing lists the
        /// classes.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as TensorFlow decodes images
        /// without it.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

file_format! {
    Tfds,
    name: "tfds",
    paths: [root],
    summary: "folders that TensorFlow Datasets wrote",
    reference: "TensorFlow Datasets, tensorflow.org/datasets",
    example: "name: tfds\nroot: data/cifar100/3.0.2\ntrain: train[:45000]\nvalidation: train[45000:]\n",
}

fn default_train() -> String {
    "train".to_owned()
}

fn default_test() -> String {
    "test".to_owned()
}

fn default_image() -> String {
    "image".to_owned()
}

fn default_label() -> String {
    "label".to_owned()
}

impl Tfds {
    fn read(&self) -> Result<Indexed<Shards>, Error> {
        let info = Info::read(&self.root)?;
        info.check_image(&self.image)?;
        let labels = info.labels(&self.label)?;
        let validation = self.validation.as_deref();
        let validation = validation.or_else(|| info.has("validation").then_some("validation"));
        let slices = BySplit {
            train: info.slice("train", &self.train)?,
            validation: validation.map_or(Ok(Vec::new()), |text| info.slice("validation", text))?,
            test: info.slice("test", &self.test)?,
        };
        let mut remarks = Vec::new();
        for (field, other) in [("train", &slices.train), ("validation", &slices.validation)] {
            if slices::overlap(other, &slices.test) {
                let expected = format!("images that are not in `{field}` too");
                return Err(Error::invalid("test", expected, format!("`{}`", self.test)));
            }
        }
        if slices::overlap(&slices.train, &slices.validation) {
            remarks.push("some images that validate also train".to_owned());
        }
        let mut shards = Shards::default();
        let mut records: BySplit<Vec<Labelled<Record>>> = BySplit::default();
        // A split is read once, whatever slices of it there are.
        for (name, place) in info.splits() {
            let wanted = slices.iter().flatten().any(|slice| slice.split == name);
            if !wanted {
                continue;
            }
            let all = shards.add(&info, place, self, &labels)?;
            for split in peft_core::Split::ALL {
                for slice in slices.get(split).iter().filter(|slice| slice.split == name) {
                    let chosen = all[slice.records.clone()].iter().map(|record| Labelled {
                        at: record.at.clone(),
                        label: record.label.clone(),
                        place: record.place.clone(),
                    });
                    records.get_mut(split).extend(chosen);
                }
            }
        }
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let (separator, names) = (labels.separator(), labels.names());
        let mut resolved = resolve_sets(records, separator, names, strays, &mut remarks)?;
        let stratum = resolved.stratum();
        if validation.is_none() {
            resolved.splits.validation = set_aside(
                &mut resolved.splits.train,
                self.validation_fraction,
                stratum,
                |_, item| shards.key(&item.at),
            )?;
        }
        let mut data = Indexed::of(resolved, shards);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }
}

/// Where an image is: its shard, its record in that, and the bytes.
#[derive(Debug, Clone)]
struct Record {
    shard: usize,
    index: usize,
    bytes: Range<usize>,
}

/// The mapped shards.
#[derive(Debug, Default)]
struct Shards {
    files: Vec<Mapped>,
}

impl Shards {
    /// Maps the shards of a split and reads its labels.
    ///
    /// # Errors
    /// A shard that is missing or damaged, or has another number of records than the set states; a
    /// record without an image or a label.
    fn add(
        &mut self,
        info: &Info,
        split: &info::Shards,
        config: &Tfds,
        labels: &Labels,
    ) -> Result<Vec<Labelled<Record>>, Error> {
        let mut found = Vec::new();
        for (path, stated) in info.files(split)? {
            let shard = self.files.len();
            let file = Mapped::open(path)?;
            let first = Place::first(&file.path, "record");
            let before = found.len();
            for record in records::of(file.bytes(), &file.path) {
                let record = record?;
                let index = found.len() - before;
                let place = first.at(index + 1);
                let example = Example::read(file.bytes(), record)
                    .map_err(|got| Error::record(&place, "a `tf.train.Example`", got))?;
                let bytes = match example.first(&config.image) {
                    Some(Value::Bytes(bytes)) => bytes,
                    other => {
                        let expected = format!("an encoded image in `{}`", config.image);
                        return Err(Error::record(
                            &place,
                            expected,
                            Value::named(other.as_ref()),
                        ));
                    }
                };
                let label = example.first(&config.label);
                let text = match labels.separator() {
                    Some(_) => labels.joined(example.numbers(&config.label)),
                    None => labels.text(label.as_ref(), file.bytes()),
                };
                let label = text.map_err(|expected| {
                    let expected = format!("{expected} in `{}`", config.label);
                    Error::record(&place, expected, Value::named(label.as_ref()))
                })?;
                let at = Record {
                    shard,
                    index,
                    bytes,
                };
                found.push(Labelled { at, label, place });
            }
            let count = found.len() - before;
            if count != stated {
                let expected = format!("{stated} records, as `dataset_info.json` states");
                return Err(Error::layout(&file.path, expected, count.to_string()));
            }
            self.files.push(file);
        }
        Ok(found)
    }

    /// `<shard's file name>/<record's index>`, which does not depend on where the shards are.
    fn key(&self, at: &Record) -> String {
        let shard = self.files[at.shard].path.file_name().unwrap_or_default();
        format!("{}/{}", shard.to_string_lossy(), at.index)
    }
}

impl Source for Shards {
    type At = Record;

    fn name(&self, at: &Record) -> String {
        let path = self.files[at.shard].path.display();
        format!("`{path}` record {}", at.index + 1)
    }

    fn bytes(&self, at: &Record) -> Result<Cow<'_, [u8]>, Error> {
        let file = self.files[at.shard].bytes();
        Ok(Cow::Borrowed(&file[at.bytes.clone()]))
    }
}

#[cfg(test)]
mod tests;
