//! Image folders: `root/<split>/<class>/<image>`, the layout of torchvision's `ImageFolder`.
//!
//! - `root/train` and `root/test` are required. `root/val` (or `root/validation`, but not both) is
//!   optional; without it, a part of `train` is set aside.
//! - The classes are the folders in `train`, sorted by name. Another split may lack a class but may
//!   not add one.
//! - The images of a class are the png, jpg, jpeg, webp, bmp, gif and ppm files (in upper or lower
//!   case) directly in its folder, sorted by name.
//! - Skipped are names that start with a dot, other kinds of files, folders within a class folder,
//!   files beside the class folders, and symbolic links that lead out of `root`. Links within
//!   `root` are followed; broken links are errors.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use peft_core::error::listed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::{File, Files};
use crate::indexed::{Indexed, Item};
use crate::kinds::{EXTENSIONS, KINDS};
use crate::split::{BySplit, default_validation_fraction, set_aside};

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
        let train_path = root.join("train");
        let classes = list(&files, &train_path, Kind::Folder)?;
        if classes.is_empty() {
            return Err(Error::layout(train_path, "one folder per class", "none"));
        }
        let mut train = read_split(&files, "train", &classes)?;
        let validation = match ["val", "validation"].map(|name| (name, root.join(name).exists())) {
            [(_, true), (_, true)] => {
                return Err(Error::layout(root, "`val` or `validation`", "both"));
            }
            [(name, true), _] | [_, (name, true)] => read_split(&files, name, &classes)?,
            _ => set_aside(
                &mut train,
                self.validation_fraction,
                |item| item.label,
                // The key is `<class>/<file>`, without the split.
                |_, item| {
                    let path = &*item.at.path;
                    path.strip_prefix("train/").unwrap_or(path).to_owned()
                },
            )?,
        };
        let splits = BySplit {
            train,
            validation,
            test: read_split(&files, "test", &classes)?,
        };
        Ok(Indexed::new(classes, splits, files))
    }
}

/// The images of `root/name`, by class, then by name.
fn read_split(files: &Files, name: &str, classes: &[String]) -> Result<Vec<Item<File>>, Error> {
    let split = files.root().join(name);
    let mut items = Vec::new();
    for class in list(files, &split, Kind::Folder)? {
        let folder = split.join(&class);
        let Ok(label) = classes.binary_search(&class) else {
            let expected = format!("a class of `train` ({})", listed(classes, 10));
            return Err(Error::layout(folder, expected, format!("`{class}`")));
        };
        let images = list(files, &folder, Kind::Image)?;
        if images.is_empty() {
            let expected = format!("at least one {KINDS}");
            return Err(Error::layout(folder, expected, "none"));
        }
        items.extend(images.into_iter().map(|image| Item {
            label,
            group: None,
            at: File {
                path: format!("{name}/{class}/{image}").into(),
                place: None,
            },
        }));
    }
    if items.is_empty() {
        return Err(Error::layout(split, "at least one class folder", "none"));
    }
    Ok(items)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Folder,
    Image,
}

/// The sorted names of the entries of `folder` that are of this kind and are not skipped.
fn list(files: &Files, folder: &Path, kind: Kind) -> Result<Vec<String>, Error> {
    let leaves = |path: &Path| {
        let leaves = files.leaves(path);
        leaves.map_err(|error| Error::layout(path, "a file or folder", error.to_string()))
    };
    if leaves(folder)? {
        let expected = "a folder inside the root";
        return Err(Error::layout(
            folder,
            expected,
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
        // Only links can lead out, and resolving every path would be slow on a network file system.
        let is_link = entry.file_type()?.is_symlink();
        if is_link && leaves(&path)? {
            continue;
        }
        // `fs_err::metadata` follows links, unlike the type of the entry.
        let is_folder = fs_err::metadata(&path)?.is_dir();
        if is_folder == (kind == Kind::Folder) {
            // Lists, adapters and results name classes in UTF-8.
            let name = name
                .into_string()
                .map_err(|_| Error::layout(path, "a name in UTF-8", "another encoding"))?;
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    EXTENSIONS
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

#[cfg(test)]
mod tests {
    use peft_core::data::{Dataset, Split};
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

    fn open(folder: &TempDir) -> Result<Indexed<Files>, Error> {
        let root = folder.path().to_owned();
        let validation_fraction = default_validation_fraction();
        Folder {
            root,
            validation_fraction,
        }
        .read()
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
        let message = data.sample(Split::Test, 1).unwrap_err().to_string();
        assert!(
            message.contains("no sample 1 in the test split"),
            "{message}"
        );
    }

    #[test]
    fn other_files_hidden_files_and_outside_links_are_skipped() {
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
    fn validation_is_set_aside_where_there_is_none() {
        let names: Vec<String> = (0..20).map(|i| format!("train/a/{i}.png")).collect();
        let mut paths: Vec<&str> = names.iter().map(String::as_str).collect();
        paths.extend(["train/single/1.png", "test/a/1.png"]);
        let data = open(&tree(&paths)).unwrap();
        assert_eq!(Split::ALL.map(|split| data.len(split)), [19, 2, 1]);
        assert!(data.splits.validation.iter().all(|item| item.label == 0));
    }

    #[test]
    fn every_fault_of_the_layout_is_named() {
        let missing = Folder {
            root: "/nowhere/at/all".into(),
            validation_fraction: 0.1,
        };
        let missing = missing.read().unwrap_err().to_string();
        assert!(missing.contains("/nowhere/at/all"), "{missing}");
        for (files, parts) in [
            (&["val/a/1.png"][..], ["train", "No such file"]),
            (
                &["train/a/1.png", "train/a/2.png"],
                ["test", "No such file"],
            ),
            (
                &["train/a/1.png", "test/a/1.png"],
                ["validation_fraction", "two images or more"],
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
            (&["train/1.png"], ["train", "one folder per class"]),
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
    }

    #[test]
    fn the_fingerprint_follows_content_classes_and_splits_but_not_the_place() {
        let files = ["train/a/1.png", "val/a/2.png", "test/a/3.png"];
        let fingerprint = |folder: &TempDir| open(folder).unwrap().fingerprint().unwrap();
        let (folder, copy) = (tree(&files), tree(&files));
        let first = fingerprint(&folder);
        assert_eq!(first, fingerprint(&copy));
        let moved = tree(&["train/b/1.png", "val/b/2.png", "test/b/3.png"]);
        assert_ne!(first, fingerprint(&moved), "another class");
        let moved = tree(&["train/a/1.png", "test/a/2.png", "val/a/3.png"]);
        assert_ne!(first, fingerprint(&moved), "another split");
        let of = |name: &str| folder.path().join(name);
        fs_err::copy(of("val/a/2.png"), of("test/a/3.png")).unwrap();
        assert_ne!(first, fingerprint(&folder), "another content");
    }
}
