//! VPT's lists of the FGVC data sets: `<root>/{train,val,test}.json`, each an object of
//! `"path": class id`.
//!
//! "Visual Prompt Tuning", Jia et al., 2022. Class ids count from 0 or from 1 and may skip numbers;
//! the labels are the ids of all three lists in ascending order. (VPT orders the ids of each list
//! on its own, which shifts the labels in a list that lacks a class.)

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use peft_core::data::Split;
use peft_core::input::CropMode;
use schemars::JsonSchema;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files, Place, distinct};
use crate::indexed::{Indexed, Item};
use crate::split::BySplit;

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
}

file_format! {
    Fgvc,
    name: "fgvc",
    paths: [root],
    // VPT resizes the shorter side to 256 pixels and takes the centre of 224.
    crop: (0.875, CropMode::Center),
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
        let ids: BTreeSet<i64> = lists.iter().flatten().map(|(id, _)| *id).collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        // `ids` is sorted and holds every id, so the partition point is the id's own index.
        let item = |(id, at)| Item {
            label: ids.partition_point(|&other| other < id),
            group: None,
            at,
        };
        let splits = lists.map(|list| list.into_iter().map(item).collect::<Vec<_>>());
        distinct(&[&splits.train, &splits.validation, &splits.test])?;
        let classes = ids.iter().map(ToString::to_string).collect();
        Ok(Indexed::new(classes, splits, files))
    }

    /// The class ids and files of one list.
    fn read_list(&self, list: &Path) -> Result<Vec<(i64, File)>, Error> {
        let text = fs_err::read_to_string(list)?;
        let expected = "an object of `\"path\": class id`";
        let Entries(entries) = serde_json::from_str(&text)
            .map_err(|error| Error::layout(list, expected, error.to_string()))?;
        if entries.is_empty() {
            return Err(Error::layout(list, expected, "no entries"));
        }
        let first = Place::first(list, "entry");
        let entries = entries.into_iter().enumerate();
        entries
            .map(|(index, (path, id))| {
                Ok((id, File::listed(&self.images, &path, first.at(index + 1))?))
            })
            .collect()
    }
}

/// The entries of an object in their order. Unlike a map, it keeps a key that is listed twice, so
/// that this can be refused.
struct Entries(Vec<(String, i64)>);

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
        };
        config.read().map_err(|error| error.to_string())
    }

    #[test]
    fn ids_become_labels_in_ascending_order() {
        let data = read([
            r#"{"z/a.jpg": 11, "b.jpg": 1}"#,
            r#"{"c.jpg": 5}"#,
            r#"{"d.jpg": 11}"#,
        ])
        .unwrap();
        assert_eq!(data.classes(), ["1", "5", "11"]);
        let seen: Vec<_> = data.splits.iter().flatten().collect();
        let labels: Vec<usize> = seen.iter().map(|item| item.label).collect();
        assert_eq!(labels, [2, 0, 1, 2]);
        assert_eq!(&*seen[0].at.path, "images/z/a.jpg");
        assert_eq!(data.remarks(), ["class `5` has no training image"]);
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
            (r#"["d"]"#, ["test.json", "expected an object"]),
            ("{}", ["test.json", "no entries"]),
        ] {
            let message = read([fine[0], fine[1], text]).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
