//! VTAB-1k as lists of files: `<root>/{train800,val200,train800val200,test}.txt`, with one line per
//! image, `images/train/000000.jpg 17`. A path may contain spaces; the label is the last field.
//!
//! "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark", Zhai
//! et al., 2019: choose on 800 + 200 images, then train on all 1,000 and test once.

use std::path::{Path, PathBuf};

use peft_core::data::{Split, Transform};
use peft_core::files::read_text;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files, Place, distinct};
use crate::indexed::{Indexed, Item};
use crate::labels::{Labelled, OnStray, Strays, admit, fraction, is_hidden, numbered, read_names};
use crate::split::BySplit;
use crate::storage::Exif;
use crate::text::lines;

peft_core::dataset_config! {
    /// The VTAB-1k lists of one data set: `train800.txt`, `val200.txt`, `train800val200.txt`,
    /// `test.txt`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Vtab {
        /// The folder of the lists, to which their paths are relative.
        pub root: PathBuf,
        /// Which lists are for training.
        #[serde(default)]
        pub protocol: Protocol,
        /// Number of classes: at least 1. Without it, and without `names`, it is one more than the
        /// largest label.
        #[serde(default)]
        pub classes: Option<usize>,
        /// A text file with the names of the classes, one per line. Without it, their names are
        /// their numbers.
        #[serde(default)]
        pub names: Option<PathBuf>,
        /// What becomes of an image without a label, or with a negative one, which marks a label that
        /// is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks, where neither `classes` nor
        /// `names` list it.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as
        /// torchvision reads the images.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

/// The two steps of VTAB-1k.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Trains on 800 images and validates on 200 others: for choosing hyperparameters.
    #[default]
    Tune,
    /// Trains on all 1,000. The validation split is 200 of these, so nothing may be chosen by it.
    Final,
}

file_format! {
    Vtab,
    name: "vtab",
    paths: [root, names],
    // The whole image, whatever its aspect.
    protocol: Transform::SQUASH,
    summary: "the lists of a VTAB-1k data set: train800, val200, train800val200, test",
    reference: "A Large-scale Study of Representation Learning with the Visual Task Adaptation \
                Benchmark, Zhai et al., 2019",
    example: "name: vtab\nroot: data/vtab-1k/cifar\nprotocol: tune\n",
}

impl Vtab {
    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let list = |split| match (split, self.protocol) {
            (Split::Train, Protocol::Tune) => "train800.txt",
            (Split::Train, Protocol::Final) => "train800val200.txt",
            (Split::Validation, _) => "val200.txt",
            (Split::Test, _) => "test.txt",
        };
        let records = BySplit::try_from_fn(|split| read_list(&files.root().join(list(split))))?;
        let names = self.names()?;
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let mut remarks = Vec::new();
        let records = admit(records, names.as_deref(), strays, &mut remarks)?;
        let mut splits = BySplit::<Vec<Item<File>>>::default();
        for split in Split::ALL {
            let items = records.get(split).iter().map(item);
            *splits.get_mut(split) = items.collect::<Result<_, _>>()?;
        }
        let (train, validation, test) = (&splits.train, &splits.validation, &splits.test);
        // Under `final` the validation images are training images too, so only test must be apart.
        match self.protocol {
            Protocol::Tune => distinct(&[train, validation, test])?,
            Protocol::Final => {
                distinct(&[train, test])?;
                distinct(&[validation, test])?;
            }
        }
        let labels = splits.iter().flatten();
        let labels = labels.filter_map(|item| Some((item.label, item.at.place.as_ref()?)));
        let classes = numbered(labels, names)?;
        let mut data = Indexed::new(classes, splits, files);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        if self.protocol == Protocol::Final {
            let remark = "the validation split is part of the training split";
            data.remarks.push(remark.into());
        }
        Ok(data)
    }

    /// The names of the classes, if the configuration gives them or their number.
    fn names(&self) -> Result<Option<Vec<String>>, Error> {
        let names = self.names.as_deref().map(read_names).transpose()?;
        match (self.classes, names) {
            (Some(0), _) => Err(Error::invalid("classes", "at least 1", 0)),
            (Some(classes), Some(names)) if classes != names.len() => {
                let expected = format!("as many as there are names ({})", names.len());
                Err(Error::invalid("classes", expected, classes))
            }
            (Some(classes), None) => Ok(Some((0..classes).map(|n| n.to_string()).collect())),
            (_, names) => Ok(names),
        }
    }
}

/// The record of a line, whose label is the index of a class.
fn item(record: &Labelled<File>) -> Result<Item<File>, Error> {
    let label = record.label.parse();
    Ok(Item {
        label: label.map_err(|_| Error::record(&record.place, "an index", &record.label))?,
        group: None,
        at: record.at.clone(),
    })
}

/// The records of one list.
fn read_list(list: &Path) -> Result<Vec<Labelled<File>>, Error> {
    let text = read_text(list)?;
    let first = Place::first(list, "line");
    let lines = lines(text.trim_end()).enumerate();
    let items = lines.map(|(index, line)| {
        let place = first.at(index + 1);
        // From the right, because a path may contain spaces.
        let parts = line.rsplit_once([' ', '\t']);
        let whole = |label: &str| label.parse::<u64>().is_ok() || is_hidden(label);
        let (path, label) = match parts {
            Some((path, label)) if whole(label) => (path.trim(), label.to_owned()),
            Some((_, label)) if label.parse::<f64>().is_ok() => {
                return Err(fraction(place, label));
            }
            _ => {
                let expected = "`<path> <label>`";
                return Err(Error::record(place, expected, format!("`{line}`")));
            }
        };
        Ok(Labelled {
            at: File::listed("", path, place.clone())?,
            label,
            place,
        })
    });
    let items = items.collect::<Result<Vec<_>, _>>()?;
    if items.is_empty() {
        return Err(Error::layout(list, "one line per image", "no lines"));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use peft_core::data::Dataset;
    use tempfile::TempDir;

    use super::*;

    const LISTS: [(&str, &str); 4] = [
        ("train800.txt", "images/a b.png 0\nimages/c.png 2\n"),
        ("val200.txt", "images/d.png 1\n"),
        (
            "train800val200.txt",
            "images/a b.png 0\r\nimages/c.png 2\r\nimages/d.png 1\r\n",
        ),
        ("test.txt", "images/e.png\t1\n"),
    ];

    /// The lists, with another text in one of them.
    fn lists(name: &str, text: &str) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (list, usual) in LISTS {
            let text = if list == name { text } else { usual };
            fs_err::write(folder.path().join(list), text).unwrap();
        }
        folder
    }

    fn config(folder: &TempDir) -> Vtab {
        Vtab {
            root: folder.path().into(),
            protocol: Protocol::Tune,
            classes: None,
            names: None,
            unlabelled: OnStray::Fail,
            unseen: OnStray::Fail,
            exif: Exif::Ignore,
            transform: Transform::default(),
            train_images: None,
            shots: None,
        }
    }

    fn paths(data: &Indexed<Files>, split: Split) -> Vec<&str> {
        let items = data.splits.get(split).iter();
        items.map(|item| &*item.at.path).collect()
    }

    #[test]
    fn tuning_takes_800_and_200_and_the_final_run_takes_all() {
        let folder = lists("", "");
        let three = || Vtab {
            classes: Some(3),
            ..config(&folder)
        };
        let tune = three().read().unwrap();
        assert_eq!(
            paths(&tune, Split::Train),
            ["images/a b.png", "images/c.png"]
        );
        assert_eq!(paths(&tune, Split::Validation), ["images/d.png"]);
        assert_eq!(paths(&tune, Split::Test), ["images/e.png"]);
        assert_eq!(tune.classes(), ["0", "1", "2"]);
        assert_eq!(tune.remarks(), ["class `1` has no training image"]);
        let all = Vtab {
            protocol: Protocol::Final,
            ..three()
        };
        let all = all.read().unwrap();
        let expected = ["images/a b.png", "images/c.png", "images/d.png"];
        assert_eq!(paths(&all, Split::Train), expected);
        assert_eq!(paths(&all, Split::Validation), expected[2..]);
        assert_eq!(all.label(Split::Train, 1).unwrap(), 2);
        assert_eq!(
            all.remarks(),
            ["the validation split is part of the training split"]
        );
    }

    #[test]
    fn the_number_of_classes_is_checked() {
        let folder = lists("", "");
        let names = folder.path().join("names.txt");
        fs_err::write(&names, "cat\ndog\nowl\nyak\n").unwrap();
        let with = |classes, names| Vtab {
            classes,
            names,
            ..config(&folder)
        };
        let data = with(None, Some(names.clone())).read().unwrap();
        assert_eq!(data.classes(), ["cat", "dog", "owl", "yak"]);
        assert_eq!(
            data.remarks(),
            ["2 of 4 classes have no training image: dog, yak"]
        );
        for (config, part) in [
            (
                with(Some(2), None),
                "train800.txt` line 2: expected a label in 0..2, got 2",
            ),
            (
                with(Some(3), Some(names)),
                "expected as many as there are names (4), got 3",
            ),
            (with(Some(0), None), "at least 1"),
        ] {
            let message = config.read().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (list, text, parts) in [
            (
                "train800.txt",
                "a.png 0\nb.png\n",
                ["train800.txt` line 2", "got `b.png`"],
            ),
            (
                "train800.txt",
                "a.png 0\n\nb.png 1\n",
                ["train800.txt` line 2", "got ``"],
            ),
            (
                "val200.txt",
                "a.png one\n",
                ["val200.txt` line 1", "`<path> <label>`"],
            ),
            (
                "val200.txt",
                "a.png -1\n",
                ["val200.txt` line 1", "got `-1` in the validation split"],
            ),
            (
                "test.txt",
                "../a.png 1\n",
                ["test.txt` line 1", "inside the root"],
            ),
            ("test.txt", "\n", ["test.txt", "no lines"]),
            (
                "test.txt",
                "e.png 1\n./e.png 1\n",
                ["line 1 and at", "test.txt` line 2"],
            ),
            (
                "test.txt",
                "images/d.png 1\n",
                ["val200.txt` line 1 and at", "test.txt` line 1"],
            ),
        ] {
            let folder = lists(list, text);
            let config = Vtab {
                classes: Some(3),
                ..config(&folder)
            };
            let message = config.read().unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let folder = lists("", "");
        fs_err::remove_file(folder.path().join("test.txt")).unwrap();
        let message = config(&folder).read().unwrap_err().to_string();
        assert!(message.contains("test.txt"), "{message}");
    }
}
