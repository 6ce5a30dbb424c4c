//! VTAB-1k as lists of files: `<root>/{train800,val200,train800val200,test}.txt`, with one line per
//! image, `images/train/000000.jpg 17`. A path may contain spaces; the label is the last field.
//!
//! "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark", Zhai
//! et al., 2019: choose on 800 + 200 images, then train on all 1,000 and test once.

use std::path::{Path, PathBuf};

use peft_core::data::Split;
use peft_core::input::CropMode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files, Place, distinct};
use crate::indexed::{Indexed, Item};
use crate::labels::{numbered, read_names};
use crate::split::BySplit;

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
    crop: (1.0, CropMode::Squash),
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
        let splits = BySplit::try_from_fn(|split| read_list(&files.root().join(list(split))))?;
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
        let classes = numbered(labels, self.names()?)?;
        let mut data = Indexed::new(classes, splits, files);
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

/// The records of one list.
fn read_list(list: &Path) -> Result<Vec<Item<File>>, Error> {
    let text = fs_err::read_to_string(list)?;
    let first = Place::first(list, "line");
    let lines = text.trim_end().lines().enumerate();
    let items = lines.map(|(index, line)| {
        let place = first.at(index + 1);
        // From the right, because a path may contain spaces.
        let parts = line.rsplit_once([' ', '\t']);
        let parsed = parts.and_then(|(path, label)| Some((path.trim(), label.parse().ok()?)));
        let Some((path, label)) = parsed else {
            return Err(Error::record(
                place,
                "`<path> <label>`",
                format!("`{line}`"),
            ));
        };
        Ok(Item {
            label,
            group: None,
            at: File::listed("", path, place)?,
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
        }
    }

    fn paths(data: &Indexed<Files>, split: Split) -> Vec<&str> {
        let items = data.splits.get(split).iter();
        items.map(|item| &*item.at.path).collect()
    }

    #[test]
    fn tuning_takes_800_and_200_and_the_final_run_takes_all() {
        let folder = lists("", "");
        let tune = config(&folder).read().unwrap();
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
            ..config(&folder)
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
                ["val200.txt` line 1", "`<path> <label>`"],
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
            let message = config(&lists(list, text)).read().unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        let folder = lists("", "");
        fs_err::remove_file(folder.path().join("test.txt")).unwrap();
        let message = config(&folder).read().unwrap_err().to_string();
        assert!(message.contains("test.txt"), "{message}");
    }
}
