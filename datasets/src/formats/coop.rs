//! The lists of CoOp and its successors: one file `split_zhou_<Dataset>.json` with the keys `train`,
//! `val` and `test`, each a list of `[path, label, class name]`.
//!
//! "Learning to Prompt for Vision-Language Models", Zhou et al., 2022.

use std::path::PathBuf;

use peft_core::Result;
use peft_core::data::{Dataset, DatasetConfig, Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::files::{File, Files, Place, distinct};
use crate::indexed::{Indexed, Item};
use crate::labels::numbered;
use crate::split::BySplit;

/// A list as CoOp gives them: `split_zhou_<Dataset>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Coop {
    /// The folder of the data set.
    pub root: PathBuf,
    /// The list, relative to the root.
    pub list: PathBuf,
    /// The folder below the root to which the list's paths are relative: `2750` for EuroSAT,
    /// `images` for most others.
    #[serde(default)]
    pub images: String,
}

#[typetag::serde(name = "coop")]
impl DatasetConfig for Coop {
    fn open(&self) -> Result<Box<dyn Dataset>> {
        Ok(Box::new(self.read()?))
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.root]
    }
}

peft_core::register!(
    Dataset,
    Coop,
    name: "coop",
    summary: "a list of CoOp's, split_zhou_<Dataset>.json",
    reference: "Learning to Prompt for Vision-Language Models, Zhou et al., 2022",
    example: "name: coop\nroot: data/eurosat\nlist: split_zhou_EuroSAT.json\nimages: \"2750\"\n",
);

/// The file: path, label and class name of every image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    train: Vec<(String, usize, String)>,
    val: Vec<(String, usize, String)>,
    test: Vec<(String, usize, String)>,
}

impl Coop {
    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let list = files.root().join(&self.list);
        let text = fs_err::read_to_string(&list)?;
        let lists: Lists = serde_json::from_str(&text).map_err(|error| {
            let expected = "`train`, `val` and `test`, each a list of `[path, label, class name]`";
            Error::layout(&list, expected, error.to_string())
        })?;
        // A class's name, and the first record that gives it.
        let mut names: Vec<Option<(String, Place)>> = Vec::new();
        let splits = BySplit::try_from_fn(|split| {
            let (key, records) = match split {
                Split::Train => ("train", &lists.train),
                Split::Validation => ("val", &lists.val),
                Split::Test => ("test", &lists.test),
            };
            if records.is_empty() {
                return Err(Error::layout(&list, format!("an entry in `{key}`"), "none"));
            }
            let first = Place::first(&list, &format!("{key} entry"));
            let mut items = Vec::with_capacity(records.len());
            for (index, (path, label, name)) in records.iter().enumerate() {
                let place = first.at(index + 1);
                numbered([(*label, &place)].into_iter(), None)?;
                names.resize(names.len().max(label + 1), None);
                match &names[*label] {
                    None => names[*label] = Some((name.clone(), place.clone())),
                    Some((known, _)) if known == name => {}
                    Some((known, first)) => {
                        let expected = format!("class {label} to be `{known}`, as in {first}");
                        return Err(Error::record(place, expected, format!("`{name}`")));
                    }
                }
                items.push(Item {
                    label: *label,
                    group: None,
                    at: File::listed(&self.images, path, place)?,
                });
            }
            Ok(items)
        })?;
        distinct(&[&splits.train, &splits.validation, &splits.test])?;
        let names = names.into_iter().enumerate();
        let classes = names
            .map(|(label, name)| name.map_or_else(|| label.to_string(), |(name, _)| name))
            .collect();
        Ok(Indexed::new(classes, splits, files))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Indexed<Files>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("split_zhou_Pets.json"), text).unwrap();
        let config = Coop {
            root: folder.path().into(),
            list: "split_zhou_Pets.json".into(),
            images: "images".into(),
        };
        config.read().map_err(|error| error.to_string())
    }

    #[test]
    fn entries_name_their_classes() {
        let data = read(
            r#"{"train": [["cat/a b.jpg", 1, "cat"], ["b.jpg", 0, "ant"]],
                "val": [["c.jpg", 0, "ant"]], "test": [["d.jpg", 3, "eel"]]}"#,
        )
        .unwrap();
        assert_eq!(data.classes(), ["ant", "cat", "2", "eel"]);
        assert_eq!(Split::ALL.map(|split| data.len(split)), [2, 1, 1]);
        assert_eq!(&*data.splits.train[0].at.path, "images/cat/a b.jpg");
        assert_eq!(data.label(Split::Test, 0).unwrap(), 3);
        assert_eq!(
            data.remarks(),
            ["2 of 4 classes have no training image: 2, eel"]
        );
    }

    #[test]
    fn a_bad_entry_is_named() {
        let with = |test: &str| {
            read(&format!(
                r#"{{"train": [["a", 0, "ant"]], "val": [["b", 0, "ant"]], "test": [{test}]}}"#
            ))
        };
        assert!(with(r#"["c", 0, "ant"]"#).is_ok());
        for (test, parts) in [
            (
                r#"["c", 0, "cat"]"#,
                ["test entry 1", "class 0 to be `ant`, as in"],
            ),
            (
                r#"["a", 0, "ant"]"#,
                ["train entry 1 and at", "test entry 1"],
            ),
            (r#"["/a", 0, "ant"]"#, ["test entry 1", "inside the root"]),
            (r#"["c", 0]"#, ["split_zhou_Pets.json", "line 1"]),
            (
                r#"["c", -1, "ant"]"#,
                ["split_zhou_Pets.json", "expected usize"],
            ),
            (
                r#"["c", 9000000, "ant"]"#,
                ["test entry 1", "a label in 0..1048576"],
            ),
            ("", ["split_zhou_Pets.json", "an entry in `test`, got none"]),
        ] {
            let message = with(test).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        assert!(
            read(r#"{"train": []}"#)
                .unwrap_err()
                .contains("missing field `val`")
        );
    }
}
