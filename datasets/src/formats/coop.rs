//! The lists of CoOp and its successors: one file `split_zhou_<Dataset>.json` with the keys
//! `train`, `val` and `test`, each a list of `[path, label, class name]`. With `shots`, only that
//! many images of each class are taken: those that CoOp's own code draws.
//!
//! "Learning to Prompt for Vision-Language Models", Zhou et al., 2022.

use std::collections::HashMap;
use std::path::PathBuf;

use peft_core::data::Split;
use peft_core::files::read_text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files, Place, distinct};
use crate::indexed::{Indexed, Item};
use crate::labels::{Id, Labelled, OnStray, Strays, admit, numbered};
use crate::python_random::PythonRandom;
use crate::split::BySplit;
use crate::storage::Exif;

peft_core::dataset_config! {
    /// A list in CoOp's format: `split_zhou_<Dataset>.json`.
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
        /// Which images `shots` takes.
        #[serde(default, skip_serializing_if = "Draw::is_coop")]
        pub draw: Draw,
        /// Seed of CoOp's draw of `shots`. CoOp reports the mean over the seeds 1, 2 and 3.
        #[serde(default = "default_seed")]
        pub seed: u64,
        /// What becomes of an image without a label, or with a negative one, which marks a label that
        /// is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as CoOp
        /// reads the images by Pillow.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

fn default_seed() -> u64 {
    1
}

/// Which images of each class `shots` takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Draw {
    /// Those that CoOp's own code draws with `seed`. Validation gets `min(shots, 4)` per class, as in
    /// CoOp, and test stays whole.
    #[default]
    Coop,
    /// As in every other format: from the experiment's seed, with fewer shots inside of more, and
    /// validation whole.
    Nested,
}

impl Draw {
    fn is_coop(&self) -> bool {
        *self == Self::Coop
    }
}

file_format! {
    Coop,
    name: "coop",
    paths: [root],
    own_shots: |config: &Self| config.draw.is_coop(),
    summary: "a list in CoOp's format, split_zhou_<Dataset>.json",
    reference: "Learning to Prompt for Vision-Language Models, Zhou et al., 2022",
    example: "name: coop\nroot: data/eurosat\nlist: split_zhou_EuroSAT.json\nimages: \"2750\"\n",
}

/// The content of the file: the path, the label and the class name of every image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    train: Vec<(String, Id, String)>,
    val: Vec<(String, Id, String)>,
    test: Vec<(String, Id, String)>,
}

impl Coop {
    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let list = files.root().join(&self.list);
        let text = read_text(&list)?;
        let lists: Lists = serde_json::from_str(&text).map_err(|error| {
            let expected = "`train`, `val` and `test`, each a list of `[path, label, class name]`";
            Error::layout(&list, expected, error.to_string())
        })?;
        let records = BySplit::try_from_fn(|split| {
            let (key, records) = match split {
                Split::Train => ("train", &lists.train),
                Split::Validation => ("val", &lists.val),
                Split::Test => ("test", &lists.test),
            };
            if records.is_empty() {
                return Err(Error::layout(&list, format!("an entry in `{key}`"), "none"));
            }
            let first = Place::first(&list, &format!("{key} entry"));
            let records = records.iter().enumerate();
            records
                .map(|(index, (path, Id(label), name))| {
                    let place = first.at(index + 1);
                    let file = File::listed(&self.images, path, place.clone())?;
                    let at = (usize::try_from(*label).unwrap_or(0), name, file);
                    let label = label.to_string();
                    Ok(Labelled { at, label, place })
                })
                .collect()
        })?;
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let mut remarks = Vec::new();
        let records = admit(records, None, strays, &mut remarks)?;
        // The name of each class, and the first record that gives it.
        let mut names: Vec<Option<(&String, Place)>> = Vec::new();
        let mut splits = BySplit::<Vec<Item<File>>>::default();
        for split in Split::ALL {
            for record in records.get(split) {
                let (label, name, file) = &record.at;
                let place = &record.place;
                // Labels are checked before `names` grows to hold them: a stray one would take all
                // memory.
                numbered([(*label, place)].into_iter(), None)?;
                names.resize(names.len().max(label + 1), None);
                match &names[*label] {
                    None => names[*label] = Some((*name, place.clone())),
                    Some((known, _)) if known == name => {}
                    Some((known, first)) => {
                        let expected = format!("class {label} to be `{known}`, as in {first}");
                        return Err(Error::record(place, expected, format!("`{name}`")));
                    }
                }
                splits.get_mut(split).push(Item {
                    label: *label,
                    group: None,
                    at: file.clone(),
                });
            }
        }
        distinct(&[&splits.train, &splits.validation, &splits.test])?;
        let names = names.into_iter().enumerate();
        // The lists may skip a label; a number then stands for its name, so that later ones keep
        // theirs.
        let classes = names
            .map(|(label, name)| name.map_or_else(|| label.to_string(), |(name, _)| name.clone()))
            .collect();
        if let (Some(shots), Draw::Coop) = (self.shots, self.draw) {
            if shots == 0 {
                return Err(Error::invalid("shots", "at least 1", shots));
            }
            // One stream for both, train first, as CoOp draws them.
            let mut random = PythonRandom::new(self.seed);
            splits.train = few(splits.train, shots, &mut random);
            splits.validation = few(splits.validation, shots.min(VALIDATION_SHOTS), &mut random);
        }
        let mut data = Indexed::new(classes, splits, files);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }
}

/// The most validation images in a class with `shots`.
const VALIDATION_SHOTS: usize = 4;

/// `shots` images of each class, or all of a class that has fewer. Like `generate_fewshot_dataset`
/// of Dassl, CoOp's toolbox, this goes through the classes in the order of their first images.
fn few<A>(items: Vec<Item<A>>, shots: usize, random: &mut PythonRandom) -> Vec<Item<A>> {
    let mut order = Vec::new();
    let mut classes: HashMap<usize, Vec<Item<A>>> = HashMap::new();
    for item in items {
        let class = classes.entry(item.label).or_default();
        if class.is_empty() {
            order.push(item.label);
        }
        class.push(item);
    }
    let mut drawn = Vec::new();
    for label in order {
        let class = classes.remove(&label).unwrap_or_default();
        // Dassl takes a small class whole without drawing, which leaves the stream where it is.
        if class.len() < shots {
            drawn.extend(class);
            continue;
        }
        let sample = random.sample(class.len(), shots);
        let mut class: Vec<_> = class.into_iter().map(Some).collect();
        drawn.extend(sample.into_iter().filter_map(|place| class[place].take()));
    }
    drawn
}

#[cfg(test)]
mod tests {
    use peft_core::data::{Dataset, Transform};

    use super::*;

    fn read(text: &str) -> Result<Indexed<Files>, String> {
        read_few(text, None, default_seed())
    }

    fn read_few(text: &str, shots: Option<usize>, seed: u64) -> Result<Indexed<Files>, String> {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("split_zhou_Pets.json"), text).unwrap();
        let config = Coop {
            root: folder.path().into(),
            list: "split_zhou_Pets.json".into(),
            images: "images".into(),
            draw: Draw::Coop,
            seed,
            unlabelled: OnStray::Fail,
            unseen: OnStray::Fail,
            exif: Exif::Ignore,
            transform: Transform::default(),
            train_images: None,
            shots,
        };
        config.read().map_err(|error| error.to_string())
    }

    #[test]
    fn entries_name_their_classes() {
        let data = read(
            r#"{"train": [["cat/a b.jpg", 1, "cat"], ["b.jpg", 0, "ant"], ["e.jpg", 3, "eel"]],
                "val": [["c.jpg", 0, "ant"]], "test": [["d.jpg", 1, "cat"]]}"#,
        )
        .unwrap();
        assert_eq!(data.classes(), ["ant", "cat", "2", "eel"]);
        assert_eq!(Split::ALL.map(|split| data.len(split)), [3, 1, 1]);
        assert_eq!(&*data.splits.train[0].at.path, "images/cat/a b.jpg");
        assert_eq!(data.label(Split::Train, 2).unwrap(), 3);
        assert_eq!(data.remarks(), ["class `2` has no training image"]);
    }

    /// Entries of classes 1, 0 and 2 in turn, as long as a class has some left.
    fn entries(split: &str, [of_0, of_1, of_2]: [usize; 3]) -> String {
        let turn = |i: usize| {
            let classes = [(1, of_1), (0, of_0), (2, of_2)];
            classes.into_iter().filter(move |(_, images)| i < *images)
        };
        let labels = (0..30).flat_map(turn).map(|(label, _)| label);
        let entry = |(i, label): (usize, usize)| format!(r#"["{split}{i}", {label}, "{label}"]"#);
        labels.enumerate().map(entry).collect::<Vec<_>>().join(",")
    }

    /// The expected images are those that Python's `random.sample` draws as
    /// `generate_fewshot_dataset` of Dassl calls it, after `random.seed`.
    #[test]
    fn shots_are_those_that_coop_draws() {
        let text = format!(
            r#"{{"train": [{}], "val": [{}], "test": [{}]}}"#,
            entries("train", [2, 7, 30]),
            entries("val", [1, 5, 6]),
            entries("test", [1, 1, 9]),
        );
        for (seed, train, validation) in [
            (
                1,
                [
                    "train3", "train10", "train0", "train6", "train12", "train1", "train4",
                    "train24", "train33", "train23", "train29", "train21",
                ],
                [
                    "val3", "val0", "val9", "val7", "val1", "val8", "val11", "val2", "val6",
                ],
            ),
            (
                2,
                [
                    "train14", "train0", "train12", "train10", "train3", "train1", "train4",
                    "train35", "train13", "train32", "train34", "train30",
                ],
                [
                    "val5", "val9", "val7", "val0", "val1", "val10", "val2", "val4", "val8",
                ],
            ),
        ] {
            let data = read_few(&text, Some(5), seed).unwrap();
            let names = |split| -> Vec<&str> {
                let items = data.splits.get(split).iter();
                items.map(|item| &item.at.path["images/".len()..]).collect()
            };
            assert_eq!(names(Split::Train), train);
            assert_eq!(names(Split::Validation), validation);
            assert_eq!(data.len(Split::Test), 11);
        }
        let all = read_few(&text, Some(40), 1).unwrap();
        assert_eq!(Split::ALL.map(|split| all.len(split)), [39, 9, 11]);
        let message = read_few(&text, Some(0), 1).unwrap_err();
        assert_eq!(message, "invalid `shots`: expected at least 1, got 0");
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
                ["test entry 1", "got `-1` in the test split"],
            ),
            (
                r#"["c", 0.5, "ant"]"#,
                [
                    "split_zhou_Pets.json",
                    "a whole number, got `0.5` at line 1",
                ],
            ),
            (
                r#"["c", 9000000, "ant"]"#,
                ["test entry 1", "a class of `train` (0), got `9000000`"],
            ),
            ("", ["split_zhou_Pets.json", "an entry in `test`, got none"]),
        ] {
            let message = with(test).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let many = r#"{"train": [["a", 9000000, "ant"]], "val": [["b", 9000000, "ant"]],
                       "test": [["c", 9000000, "ant"]]}"#;
        let message = read(many).unwrap_err();
        assert!(message.contains("a label in 0..1048576"), "{message}");
        assert!(
            read(r#"{"train": []}"#)
                .unwrap_err()
                .contains("missing field `val`")
        );
    }
}
