//! Image folders: `root/<split>/<class>/<image>`, the layout of torchvision's `ImageFolder`.
//!
//! - `root/train` and `root/test` must be there. `root/val` (or `root/validation`, not both) may
//!   be; without it a part of `train` is set aside.
//! - The classes are the folders in `train`, sorted by name. Another split may lack a class but may
//!   not add one.
//! - A class folder is flat: what counts are its png, jpg, jpeg, webp and bmp files (in either
//!   case), sorted by name.
//! - Skipped: names that start with a dot, files of other kinds, folders within a class folder,
//!   files beside the class folders, and symbolic links that lead out of `root`. Links within
//!   `root` are followed; broken ones are errors.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use peft_core::Result;
use peft_core::data::{Dataset, DatasetConfig, Image, Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::split::{BySplit, hash_order};
use crate::{Error, decode};

const EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// A folder of images: `root/train/<class>/*`, `root/val/<class>/*` (optional),
/// `root/test/<class>/*`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// The folder that holds `train`, `val` and `test`.
    pub root: PathBuf,
    /// Part of each class of `train` that becomes the validation split where there is no `val`: a
    /// number in (0, 1).
    ///
    /// Within a class the images are ordered by the blake3 hash of `<class>/<file>`; the first ones
    /// validate: the fraction of them rounded to the nearest, at least one, and never the last
    /// image of a class.
    #[serde(default = "default_validation_fraction")]
    pub validation_fraction: f32,
}

fn default_validation_fraction() -> f32 {
    0.1
}

#[typetag::serde(name = "folder")]
impl DatasetConfig for Folder {
    fn open(&self) -> Result<Box<dyn Dataset>> {
        Ok(Box::new(FolderData::scan(self)?))
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.root]
    }
}

peft_core::register!(
    Dataset,
    Folder,
    name: "folder",
    summary: "image files in root/<split>/<class>: png, jpeg, webp or bmp",
    reference: "the layout of torchvision.datasets.ImageFolder, a folder for each split",
    example: "name: folder\nroot: data/flowers\n",
);

/// An image folder whose files are known and not yet read.
#[derive(Debug)]
struct FolderData {
    root: PathBuf,
    classes: Vec<String>,
    splits: BySplit<Vec<Item>>,
}

impl FolderData {
    /// Lists the folders and checks the layout; no image is read.
    fn scan(config: &Folder) -> Result<Self, Error> {
        if !(config.validation_fraction > 0.0 && config.validation_fraction < 1.0) {
            let got = config.validation_fraction.to_string();
            return Err(Error::Invalid {
                field: "validation_fraction",
                expected: "a number in (0, 1)".into(),
                got,
            });
        }
        let root = fs_err::canonicalize(&config.root)?;
        let train_path = root.join("train");
        let classes = list(&root, &train_path, Kind::Folder)?;
        if classes.is_empty() {
            return Err(layout(&train_path, "one folder a class", "none"));
        }
        let mut train = read_split(&root, "train", &classes)?;
        let validation = match ["val", "validation"].map(|name| (name, root.join(name).exists())) {
            [(_, true), (_, true)] => return Err(layout(&root, "`val` or `validation`", "both")),
            [(name, true), _] | [_, (name, true)] => read_split(&root, name, &classes)?,
            _ => set_aside(&mut train, classes.len(), config.validation_fraction),
        };
        if validation.is_empty() {
            return Err(layout(
                &train_path,
                "a class of two images or more to set one aside for validation",
                "none",
            ));
        }
        let splits = BySplit {
            train,
            validation,
            test: read_split(&root, "test", &classes)?,
        };
        Ok(Self {
            root,
            classes,
            splits,
        })
    }
}

impl Dataset for FolderData {
    /// The names of the folders in `train`, sorted.
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn len(&self, split: Split) -> usize {
        self.splits.get(split).len()
    }

    /// Images are ordered by class, then by file name.
    fn label(&self, split: Split, index: usize) -> Result<usize> {
        Ok(self.splits.at(split, index)?.label)
    }

    fn image(&self, split: Split, index: usize) -> Result<Image> {
        let item = self.splits.at(split, index)?;
        Ok(decode(self.root.join(&item.path))?)
    }

    /// The blake3 hash of every split's relative paths, file sizes and file contents. Reads every
    /// file.
    fn fingerprint(&self) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for split in Split::ALL {
            for item in self.splits.get(split) {
                let bytes = fs_err::read(self.root.join(&item.path)).map_err(Error::from)?;
                let line = format!(
                    "{split} {} {} {}\n",
                    item.path,
                    bytes.len(),
                    blake3::hash(&bytes)
                );
                hasher.update(line.as_bytes());
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    label: usize,
    /// `<split>/<class>/<file>`, with forward slashes on every platform.
    path: String,
}

/// The images of `root/name`, by class, then by name.
fn read_split(root: &Path, name: &str, classes: &[String]) -> Result<Vec<Item>, Error> {
    let split = root.join(name);
    let mut items = Vec::new();
    for class in list(root, &split, Kind::Folder)? {
        let folder = split.join(&class);
        let Ok(label) = classes.binary_search(&class) else {
            return Err(layout(
                &folder,
                &format!("a class of `train` ({})", some_of(classes)),
                &format!("`{class}`"),
            ));
        };
        let files = list(root, &folder, Kind::Image)?;
        if files.is_empty() {
            return Err(layout(
                &folder,
                "at least one png, jpg, jpeg, webp or bmp file",
                "none",
            ));
        }
        items.extend(files.into_iter().map(|file| Item {
            label,
            path: format!("{name}/{class}/{file}"),
        }));
    }
    if items.is_empty() {
        return Err(layout(&split, "at least one class folder", "none"));
    }
    Ok(items)
}

/// Moves a part of each class out of `train`, as [`Folder::validation_fraction`] says.
fn set_aside(train: &mut Vec<Item>, classes: usize, fraction: f32) -> Vec<Item> {
    let mut by_class = vec![Vec::new(); classes];
    for item in train.drain(..) {
        by_class[item.label].push(item);
    }
    let mut validation = Vec::new();
    for mut items in by_class {
        hash_order(&mut items, |item| {
            item.path.trim_start_matches("train/").to_owned()
        });
        let wanted = (items.len() as f32 * fraction).round() as usize;
        let count = wanted.max(1).min(items.len().saturating_sub(1));
        validation.extend(items.drain(..count));
        train.extend(items);
    }
    train.sort_unstable();
    validation.sort_unstable();
    validation
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    Image,
}

/// The sorted names of the entries of `folder` that are of this kind and not skipped.
fn list(root: &Path, folder: &Path, kind: Kind) -> Result<Vec<String>, Error> {
    if leaves(root, folder)? {
        return Err(layout(
            folder,
            "a folder inside the root",
            "a link that leads out of it",
        ));
    }
    let mut names = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name.as_encoded_bytes().starts_with(b".")
            || (kind == Kind::Image && !has_image_extension(&path))
        {
            continue;
        }
        let is_link = entry.file_type()?.is_symlink();
        if is_link && leaves(root, &path)? {
            continue;
        }
        let is_folder = fs_err::metadata(&path)?.is_dir();
        if is_folder == (kind == Kind::Folder) {
            let name = name
                .into_string()
                .map_err(|_| layout(&path, "a name in UTF-8", "another encoding"))?;
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether `path` lies, once links are followed, outside of `root` (which is canonical).
fn leaves(root: &Path, path: &Path) -> Result<bool, Error> {
    Ok(!fs_err::canonicalize(path)?.starts_with(root))
}

fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

fn some_of(classes: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = classes
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match classes.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn layout(path: &Path, expected: &str, got: &str) -> Error {
    Error::Layout {
        path: path.to_owned(),
        expected: expected.into(),
        got: got.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tempfile::TempDir;

    use super::*;

    /// Writes 2 x 1 images, the n-th with the grey level `10 * n`.
    fn tree(files: &[&str]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (n, file) in files.iter().enumerate() {
            let path = folder.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            image::save_buffer(
                &path,
                &[10 * n as u8; 6],
                2,
                1,
                image::ExtendedColorType::Rgb8,
            )
            .unwrap();
        }
        folder
    }

    fn open(folder: &TempDir) -> Result<FolderData, Error> {
        FolderData::scan(&Folder {
            root: folder.path().to_owned(),
            validation_fraction: 0.1,
        })
    }

    fn message(files: &[&str]) -> String {
        open(&tree(files)).unwrap_err().to_string()
    }

    #[test]
    fn classes_and_files_are_sorted_and_decoded() {
        let folder = tree(&[
            "train/cat/b.png",
            "train/cat/a.PNG",
            "train/ant/z.bmp",
            "val/ant/x.png",
            "test/cat/x.png",
        ]);
        let data = open(&folder).unwrap();
        assert_eq!(data.classes(), ["ant", "cat"]);
        assert_eq!(Split::ALL.map(|split| data.len(split)), [3, 1, 1]);
        let grey = |split, index| {
            let sample = data.sample(split, index).unwrap();
            (sample.image.rgb[0], sample.label)
        };
        assert_eq!(
            [0, 1, 2].map(|index| grey(Split::Train, index)),
            [(20, 0), (10, 1), (0, 1)]
        );
        assert_eq!(
            (grey(Split::Validation, 0), grey(Split::Test, 0)),
            ((30, 0), (40, 1))
        );
        assert!(data.sample(Split::Test, 1).is_err());
    }

    #[test]
    fn what_is_not_an_image_of_the_set_is_skipped() {
        let folder = tree(&[
            "train/a/1.png",
            "validation/a/1.png",
            "test/a/1.png",
            "train/a/nested/2.png",
            "train/a/.x.png",
        ]);
        let outside = tree(&["image.png"]);
        let train = folder.path().join("train");
        fs_err::write(train.join("notes.txt"), "x").unwrap();
        fs_err::write(train.join("a/Thumbs.db"), "x").unwrap();
        fs_err::create_dir(train.join(".cache")).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            symlink(outside.path().join("image.png"), train.join("a/out.png")).unwrap();
            symlink(outside.path(), train.join("b")).unwrap();
            symlink("1.png", train.join("a/in.png")).unwrap();
            assert_eq!(
                open(&folder).unwrap().len(Split::Train),
                2,
                "the link inside is followed"
            );
            fs_err::remove_file(train.join("a/in.png")).unwrap();
        }
        let data = open(&folder).unwrap();
        assert_eq!((data.classes().len(), data.len(Split::Train)), (1, 1));
    }

    #[test]
    fn validation_is_set_aside_by_class() {
        let names: Vec<String> = (0..45)
            .map(|i| format!("train/{}/{i}.png", if i < 30 { "a" } else { "b" }))
            .collect();
        let mut files: Vec<&str> = names.iter().map(String::as_str).collect();
        files.extend(["train/single/1.png", "test/a/1.png"]);
        let folder = tree(&files);
        let data = open(&folder).unwrap();
        assert_eq!(Split::ALL.map(|split| data.len(split)), [41, 5, 1]);
        let of_class = |label| {
            data.splits
                .validation
                .iter()
                .filter(|item| item.label == label)
                .count()
        };
        assert_eq!([0, 1, 2].map(of_class), [3, 2, 0]);
        let paths: HashSet<_> = data
            .splits
            .train
            .iter()
            .chain(&data.splits.validation)
            .map(|item| &item.path)
            .collect();
        assert_eq!(paths.len(), 46);
        assert_eq!(
            data.splits.validation,
            open(&folder).unwrap().splits.validation
        );
    }

    #[test]
    fn every_fault_of_the_layout_is_named() {
        let missing = FolderData::scan(&Folder {
            root: "/nowhere/at/all".into(),
            validation_fraction: 0.1,
        })
        .unwrap_err()
        .to_string();
        assert!(missing.contains("/nowhere/at/all"), "{missing}");
        for (files, parts) in [
            (&["val/a/1.png"][..], ["train", "No such file"]),
            (
                &["train/a/1.png", "train/a/2.png"],
                ["test", "No such file"],
            ),
            (
                &["train/a/1.png", "test/a/1.png"],
                ["train", "two images or more"],
            ),
            (
                &[
                    "train/a/1.png",
                    "val/a/1.png",
                    "validation/a/1.png",
                    "test/a/1.png",
                ],
                ["`val` or `validation`", "got both"],
            ),
            (
                &["train/a/1.png", "val/a/1.png", "test/b/1.png"],
                ["test/b", "a class of `train` (a), got `b`"],
            ),
            (
                &["train/a/1.png", "val/a/1.png", "test/a/deep/1.png"],
                ["test/a", "at least one png"],
            ),
            (&["train/1.png"], ["train", "one folder a class"]),
            (
                &["train/a/1.png", "val/a/1.png", "test/1.png"],
                ["test", "at least one class folder"],
            ),
        ] {
            let message = message(files);
            assert!(
                parts.iter().all(|part| message.contains(part)),
                "{files:?}: {message}"
            );
        }
        let fraction = FolderData::scan(&Folder {
            root: "/".into(),
            validation_fraction: 1.0,
        })
        .unwrap_err()
        .to_string();
        assert!(fraction.contains("validation_fraction"), "{fraction}");
    }

    #[test]
    fn the_fingerprint_follows_content_names_and_splits_but_not_the_place() {
        let files = ["train/a/1.png", "val/a/2.png", "test/a/3.png"];
        let (folder, copy) = (tree(&files), tree(&files));
        let fingerprint = |folder: &TempDir| open(folder).unwrap().fingerprint().unwrap();
        let first = fingerprint(&folder);
        assert_eq!(first, fingerprint(&copy));
        fs_err::rename(
            copy.path().join("test/a/3.png"),
            copy.path().join("test/a/4.png"),
        )
        .unwrap();
        assert_ne!(first, fingerprint(&copy));
        fs_err::copy(
            folder.path().join("val/a/2.png"),
            folder.path().join("test/a/3.png"),
        )
        .unwrap();
        assert_ne!(first, fingerprint(&folder));
    }
}
