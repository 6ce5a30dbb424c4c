//! Image folders: `root/<split>/<class>/<image>`, the layout of torchvision's `ImageFolder`.
//!
//! - `root/train` and `root/test` are required. `root/val` (or `root/validation`, but not both) is
//!   optional; without it, a part of `train` is set aside. With `test_fraction`, another part of `train`
//!   tests, and where there is no `train`, the class folders are those in `root`.
//! - The classes are the folders in `train`, ordered as numbers if all are whole numbers (0, 1, 2,
//!   .., 10), else by name. torchvision orders numbers as texts: 0, 1, 10, 2. Another split may lack
//!   a class but may not add one.
//! - The images of a class are the files with the extension of an image (in upper or lower case) in
//!   its folder and in the folders within, ordered by folder, then by name, as in torchvision.
//! - Passed over, and counted in a remark, are names that start with a dot, other kinds of files,
//!   files beside the class folders, and symbolic links that lead out of `root` or back to a folder
//!   that they are in. Other links are followed; broken links are errors.

mod listing;

use std::path::PathBuf;

use peft_core::data::Split;
use peft_core::error::listed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::listing::{PassedOver, entries, images};
use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files};
use crate::indexed::{Indexed, Item};
use crate::labels::{OnStray, is_hidden, left_out, order};
use crate::split::{BySplit, default_validation_fraction, set_aside, take_part};
use crate::storage::Exif;

peft_core::dataset_config! {
    /// A folder of images: `root/train/<class>/*`, `root/val/<class>/*` (optional),
    /// `root/test/<class>/*`.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Folder {
        /// The folder that holds `train`, `val` and `test`.
        pub root: PathBuf,
        /// Part of each class of `train` that is set aside where there is no `val`: a number in (0, 1).
        /// The order is that of the blake3 hash of `<class>/<file>`.
        #[serde(default = "default_validation_fraction")]
        pub validation_fraction: f32,
        /// Part of each class of `train` that is set aside for testing where there is no `test`: a number in
        /// (0, 1), in the same order. Where there is no `train` either, the class folders are those in the
        /// root.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub test_fraction: Option<f32>,
        /// What becomes of the images in a class folder whose name is a negative number, which marks a
        /// label that is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of the images of a class that the training split lacks.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as in torchvision's loader.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

file_format! {
    Folder,
    name: "folder",
    paths: [root],
    summary: "image files in root/<split>/<class>",
    reference: "the layout of torchvision.datasets.ImageFolder, a folder for each split",
    example: "name: folder\nroot: data/flowers\n",
}

impl Folder {
    /// Lists the folders and checks the layout; images are not read.
    fn read(&self) -> Result<Indexed<Files>, Error> {
        let files = Files::below(&self.root)?;
        let root = files.root();
        let mut remarks = Vec::new();
        let mut read = |split, name: &str, classes: &mut Option<Vec<String>>| {
            self.read_split(&files, split, name, classes, &mut remarks)
        };
        // The key is `<class>/<file>`, without the split.
        let key = |_, item: &Item<File>| {
            let path = &*item.at.path;
            path.strip_prefix("train/").unwrap_or(path).to_owned()
        };
        let mut classes = None;
        let flat = self.test_fraction.is_some() && !root.join("train").exists();
        let name = if flat { "" } else { "train" };
        let mut train = read(Split::Train, name, &mut classes)?;
        // What tests is set aside first, so that it does not depend on the part that validates.
        let set_aside_test = match self.test_fraction {
            None => None,
            Some(_) if !flat && root.join("test").exists() => {
                let got = "a folder `test` as well";
                return Err(Error::invalid("test_fraction", "no test images", got));
            }
            Some(fraction) => {
                let field = "test_fraction";
                Some(take_part(
                    field,
                    &mut train,
                    fraction,
                    |item| item.label,
                    key,
                )?)
            }
        };
        let there = |name| (name, !flat && root.join(name).exists());
        let validation = match ["val", "validation"].map(there) {
            [(_, true), (_, true)] => {
                return Err(Error::layout(root, "`val` or `validation`", "both"));
            }
            [(name, true), _] | [_, (name, true)] => read(Split::Validation, name, &mut classes)?,
            _ => set_aside(&mut train, self.validation_fraction, |item| item.label, key)?,
        };
        let test = set_aside_test.map_or_else(|| read(Split::Test, "test", &mut classes), Ok)?;
        let splits = BySplit {
            train,
            validation,
            test,
        };
        let mut data = Indexed::new(classes.unwrap_or_default(), splits, files);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }

    /// The images of `root/name`, by class, then by folder and name. The first split that is read,
    /// which is `train`, decides the `classes`.
    fn read_split(
        &self,
        files: &Files,
        split: Split,
        name: &str,
        classes: &mut Option<Vec<String>>,
        remarks: &mut Vec<String>,
    ) -> Result<Vec<Item<File>>, Error> {
        let folder = files.root().join(name);
        let mut passed_over = PassedOver::default();
        let (mut folders, beside) = entries(files, &folder, &mut passed_over)?;
        beside
            .iter()
            .for_each(|_| passed_over.note("beside the class folders"));
        order(&mut folders);
        let mut hidden = Vec::new();
        folders.retain(|class| {
            let is_hidden = is_hidden(class);
            if is_hidden {
                hidden.push(class.clone());
            }
            !is_hidden
        });
        if let (Some(class), true) = (hidden.first(), self.unlabelled.is_fail()) {
            let got = format!(
                "`{class}` in the {split} split, which marks a hidden label; \
                 `unlabelled: skip` leaves such images out"
            );
            return Err(Error::layout(
                folder.join(class),
                "the name of a class",
                got,
            ));
        }
        if folders.is_empty() && split == Split::Train {
            return Err(Error::layout(folder, "one folder per class", "none"));
        }
        let classes = classes.get_or_insert_with(|| folders.clone());
        let (mut items, mut unseen) = (Vec::new(), Vec::new());
        for class in folders {
            let Some(label) = classes.iter().position(|known| *known == class) else {
                unseen.push(class);
                continue;
            };
            let images = images(files, &folder.join(&class), &mut passed_over)?;
            items.extend(images.into_iter().map(|image| Item {
                label,
                group: None,
                at: File {
                    path: match name {
                        "" => format!("{class}/{image}").into(),
                        name => format!("{name}/{class}/{image}").into(),
                    },
                    place: None,
                },
            }));
        }
        if let (Some(class), true) = (unseen.first(), self.unseen.is_fail()) {
            let expected = format!("a class of `train` ({})", listed(classes, 10));
            let got = format!("`{class}`; `unseen: skip` leaves such images out");
            return Err(Error::layout(folder.join(class), expected, got));
        }
        let strays = [
            (hidden, "their label is"),
            (unseen, "`train` lacks their class,"),
        ];
        let any = strays.iter().any(|(strays, _)| !strays.is_empty());
        for (strays, why) in strays {
            let mut count = 0;
            for class in &strays {
                count += images(files, &folder.join(class), &mut passed_over)?.len();
            }
            if count > 0 {
                let names: Vec<_> = strays.iter().map(|class| format!("`{class}`")).collect();
                remarks.push(left_out(split, count, why, &names));
            }
        }
        if items.is_empty() && !any {
            return Err(Error::layout(folder, "at least one class folder", "none"));
        }
        remarks.extend(passed_over.remark(name));
        Ok(items)
    }
}

#[cfg(test)]
mod tests;
