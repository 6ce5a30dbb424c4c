//! VPT's lists of the FGVC data sets: `<root>/{train,val,test}.json`, each an object of
//! `"path": class id`.
//!
//! "Visual Prompt Tuning", Jia et al., 2022. Class ids count from 0 or from 1 and may skip numbers;
//! the labels are the ids of all three lists in ascending order. (VPT orders the ids of each list
//! on its own, which shifts the labels in a list that lacks a class.)

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use peft_core::data::{Split, Transform};
use peft_core::files::read_text;
use peft_core::input::CropMode;
use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files, Place, distinct};
use crate::indexed::{Indexed, Item};
use crate::labels::{Id, Labelled, OnStray, Strays, admit};
use crate::split::BySplit;
use crate::storage::Exif;

peft_core::dataset_config! {
    /// VPT's lists of an FGVC data set: `train.json`, `val.json`, `test.json`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Fgvc {
        /// The folder of the lists.
        pub root: PathBuf,
        /// The folder below the root to which their paths are relative: `images` for CUB-200-2011 and
        /// NABirds, `Images` for Stanford Dogs, the root itself for Stanford Cars and Oxford Flowers.
        #[serde(default)]
        pub images: String,
        /// What becomes of an image without a label, or with a negative one, which marks a label that
        /// is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as VPT
        /// reads the images by torchvision.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

file_format! {
    Fgvc,
    name: "fgvc",
    paths: [root],
    // VPT resizes the shorter side to 256 pixels and takes the centre of 224.
    protocol: Transform {
        crop_mode: Some(CropMode::Center),
        crop_pct: Some(0.875),
        interpolation: None,
    },
    summary: "VPT's json lists of a fine-grained data set: train, val, test",
    reference: "Visual Prompt Tuning, Jia et al., 2022",
    example: "name: fgvc\nroot: data/CUB_200_2011\nimages: images\n",
}

impl Fgvc {
    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let lists = BySplit::try_from_fn(|split| {
            let name = match split {
                Split::Train => "train.json",
                Split::Validation => "val.json",
                Split::Test => "test.json",
            };
            self.read_list(&files.root().join(name))
        })?;
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let mut remarks = Vec::new();
        let lists = admit(lists, None, strays, &mut remarks)?;
        let ids: BTreeSet<u64> = lists.iter().flatten().map(|record| record.at.0).collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        // `ids` is sorted and holds every id, so the partition point is the id's own index.
        let item = |record: Labelled<(u64, File)>| Item {
            label: ids.partition_point(|&other| other < record.at.0),
            group: None,
            at: record.at.1,
        };
        let splits = lists.map(|list| list.into_iter().map(item).collect::<Vec<_>>());
        distinct(&[&splits.train, &splits.validation, &splits.test])?;
        let classes = ids.iter().map(ToString::to_string).collect();
        let mut data = Indexed::new(classes, splits, files);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }

    /// The class ids and files of one list; the id of a record that is not admitted is 0.
    fn read_list(&self, list: &Path) -> Result<Vec<Labelled<(u64, File)>>, Error> {
        let text = read_text(list)?;
        let expected = "an object of `\"path\": class id`";
        let Entries(entries) = serde_json::from_str(&text)
            .map_err(|error| Error::layout(list, expected, error.to_string()))?;
        if entries.is_empty() {
            return Err(Error::layout(list, expected, "no entries"));
        }
        let first = Place::first(list, "entry");
        let entries = entries.into_iter().enumerate();
        entries
            .map(|(index, (path, Id(id)))| {
                let place = first.at(index + 1);
                let file = File::listed(&self.images, &path, place.clone())?;
                let at = (u64::try_from(id).unwrap_or(0), file);
                let label = id.to_string();
                Ok(Labelled { at, label, place })
            })
            .collect()
    }
}

/// The entries of an object in their order. Unlike a map, it keeps a key that is listed twice, so
/// that this can be refused.
struct Entries(Vec<(String, Id)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::Dataset;
    use tempfile::TempDir;

    use super::*;

    fn lists(texts: [&str; 3]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in ["train", "val", "test"].into_iter().zip(texts) {
            fs_err::write(folder.path().join(format!("{name}.json")), text).unwrap();
        }
        folder
    }

    fn read(texts: [&str; 3]) -> Result<Indexed<Files>, String> {
        let folder = lists(texts);
        let config = Fgvc {
            root: folder.path().into(),
            images: "images".into(),
            unlabelled: OnStray::Fail,
            unseen: OnStray::Fail,
            exif: Exif::Ignore,
            transform: Transform::default(),
            train_images: None,
            shots: None,
        };
        config.read().map_err(|error| error.to_string())
    }

    #[test]
    fn ids_become_labels_in_ascending_order() {
        let data = read([
            r#"{"z/a.jpg": 11, "b.jpg": 1, "e.jpg": 5}"#,
            r#"{"c.jpg": 5}"#,
            r#"{"d.jpg": 11}"#,
        ])
        .unwrap();
        assert_eq!(data.classes(), ["1", "5", "11"]);
        let seen: Vec<_> = data.splits.iter().flatten().collect();
        let labels: Vec<usize> = seen.iter().map(|item| item.label).collect();
        assert_eq!(labels, [2, 0, 1, 1, 2]);
        assert_eq!(&*seen[0].at.path, "images/z/a.jpg");
    }

    #[test]
    fn a_bad_entry_is_named() {
        let fine = [r#"{"a": 1, "b": 2}"#, r#"{"c": 1}"#, r#"{"d": 2}"#];
        assert!(read(fine).is_ok());
        for (text, parts) in [
            (
                r#"{"d": 2, "d": 2}"#,
                ["test.json` entry 1 and at", "test.json` entry 2"],
            ),
            (
                r#"{"b": 2}"#,
                ["train.json` entry 2 and at", "test.json` entry 1"],
            ),
            (
                r#"{"e": 1, "../d": 2}"#,
                ["test.json` entry 2", "inside the root"],
            ),
            (
                "{\"d\": 2,\n\"e\": \"f\"}",
                ["test.json", "expected i64 at line 2"],
            ),
            (
                r#"{"e": 2.0}"#,
                [
                    "test.json",
                    "a whole number, got `2.0` (write `2`) at line 1",
                ],
            ),
            (
                r#"{"e": 2, "f": -1}"#,
                ["test.json` entry 2", "got `-1` in the test split"],
            ),
            (
                r#"{"e": 2, "f": 7}"#,
                [
                    "test.json` entry 2",
                    "a class of `train` (1, 2), got `7` in the test split",
                ],
            ),
            (r#"["d"]"#, ["test.json", "expected an object"]),
            ("{}", ["test.json", "no entries"]),
        ] {
            let message = read([fine[0], fine[1], text]).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
