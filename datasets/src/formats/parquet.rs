//! Parquet shards in the layout of the Hugging Face hub: a column of images, a struct of `bytes`
//! and `path`, and a column of labels, whose names are in the schema's metadata.
//!
//! A page is the smallest part that can be decompressed on its own. Opening reads the labels and
//! the headers of the images' pages. An image is then found in its page, and the pages used last
//! are kept, up to 256 MiB of them. Shuffled reading of a larger set therefore decompresses one
//! page per image. That costs nothing where pages are not compressed, as the datasets library
//! writes images, and a millisecond or two at pyarrow's defaults, where a page holds 1,024 small
//! images. A set with much larger pages should be written again.

mod columns;
mod shards;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::shards::Shards;
use super::file_format::file_format;
use crate::error::Error;
use crate::indexed::Indexed;
use crate::label_sets::{JOINED, resolve_sets};
use crate::labels::{OnStray, Strays, read_names};
use crate::shards::Patterns;
use crate::split::{default_validation_fraction, set_aside, take_part};
use crate::storage::Exif;

peft_core::dataset_config! {
    /// Parquet shards in the layout of the Hugging Face hub: images and labels.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct Parquet {
        /// The folder of the shards.
        pub root: PathBuf,
        /// The shards of the training split: a path below the root, or a pattern in which `*` stands
        /// for any part of a name.
        pub train: String,
        /// The shards of the validation split. Without them, a part of `train` is set aside.
        #[serde(default)]
        pub validation: Option<String>,
        /// The shards of the test split.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub test: Option<String>,
        /// The column of the images: a struct of `bytes` and `path`, or bytes.
        #[serde(default = "default_image")]
        pub image: String,
        /// The column of the labels: whole numbers or texts, or lists of them, where images have several
        /// labels.
        #[serde(default = "default_label")]
        pub label: String,
        /// A text file with the names of the classes, one per line. Without it, they are those in the
        /// schema. If that has none, labels that are all whole numbers are their own names, and other
        /// labels are sorted.
        #[serde(default)]
        pub names: Option<PathBuf>,
        /// Part of each class of `train` that is set aside where there is no validation split: a number
        /// in (0, 1). The order is that of the blake3 hash of a row's index over all training shards
        /// (as a little-endian `u32`), without the rows that `test_fraction` took.
        #[serde(default = "default_validation_fraction")]
        pub validation_fraction: f32,
        /// Part of each class of `train` that is set aside for testing, where there is no `test`: a number in
        /// (0, 1), in the same order.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub test_fraction: Option<f32>,
        /// What becomes of an image without a label, or with a negative one, which marks a label that
        /// is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks, where neither `names` nor the schema list it.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is, as in the
        /// datasets library.
        #[serde(default = "Exif::apply", skip_serializing_if = "Exif::is_apply")]
        pub exif: Exif,
    }
}

fn default_image() -> String {
    "image".into()
}

fn default_label() -> String {
    "label".into()
}

file_format! {
    Parquet,
    name: "parquet",
    paths: [root, names],
    summary: "parquet shards of images and labels, in the layout of the Hugging Face hub",
    reference: "the storage of the datasets library, Lhoest et al., 2021",
    example: "name: parquet\nroot: data/cifar10\ntrain: plain_text/train-*.parquet\n\
              test: plain_text/test-*.parquet\n",
}

impl Parquet {
    fn read(&self) -> Result<Indexed<Shards>, Error> {
        let patterns = Patterns {
            train: &self.train,
            validation: self.validation.as_deref(),
            test: self.test.as_deref(),
        };
        if self.test.is_some() == self.test_fraction.is_some() {
            let expected = "either shards, or `test_fraction` without them";
            let got = if self.test.is_some() {
                "both"
            } else {
                "neither"
            };
            return Err(Error::invalid("test", expected, got));
        }
        let mut shards = Shards::default();
        let rows = patterns.read(&self.root, |path| {
            shards.add(path, &self.image, &self.label)
        })?;
        let names = match &self.names {
            Some(path) => Some(read_names(path)?),
            None => shards.names.take(),
        };
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let mut remarks = Vec::new();
        let separator = shards.lists.then_some(JOINED);
        let mut resolved = resolve_sets(rows, separator, names, strays, &mut remarks)?;
        let stratum = resolved.stratum();
        let splits = &mut resolved.splits;
        let key = |index: usize, _: &_| (index as u32).to_le_bytes();
        if let Some(fraction) = self.test_fraction {
            let train = &mut splits.train;
            splits.test = take_part("test_fraction", train, fraction, &stratum, key)?;
        }
        if self.validation.is_none() {
            let fraction = self.validation_fraction;
            splits.validation = set_aside(&mut splits.train, fraction, &stratum, key)?;
        }
        let mut data = Indexed::of(resolved, shards);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::{Dataset, Split, Transform};

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/data/parquet");

    fn config(train: &str) -> Parquet {
        Parquet {
            root: FOLDER.into(),
            train: train.into(),
            validation: Some("data/validation-*.parquet".into()),
            test: Some("data/test-*.parquet".into()),
            image: default_image(),
            label: default_label(),
            names: None,
            validation_fraction: default_validation_fraction(),
            test_fraction: None,
            unlabelled: OnStray::Fail,
            unseen: OnStray::Fail,
            exif: Exif::Apply,
            transform: Transform::default(),
            train_images: None,
            shots: None,
        }
    }

    fn message(config: &Parquet) -> String {
        config.read().err().unwrap().to_string()
    }

    /// `fixtures/scripts/data.py` made the shards with the datasets library and pyarrow.
    #[test]
    fn every_codec_page_and_encoding_holds_the_same_pictures() {
        let file = fs_err::read(format!("{FOLDER}/../pictures.safetensors")).unwrap();
        let pictures = safetensors::SafeTensors::deserialize(&file).unwrap();
        let pictures = pictures.tensor("train.images").unwrap();
        let pictures: Vec<_> = pictures.data().chunks_exact(9 * 8 * 3).collect();
        for train in [
            "data/train-*",
            "plain.*",
            "gzip_v2.*",
            "zstd_pages.*",
            "lz4_names.*",
            "delta.*",
        ] {
            let data = config(train).read().map_err(|e| e.to_string()).unwrap();
            assert_eq!(data.classes(), ["ant", "bee", "cat"], "{train}");
            assert_eq!(
                Split::ALL.map(|split| data.len(split)),
                [12, 6, 6],
                "{train}"
            );
            // Backwards, so that pages are not met in order.
            for index in (0..12).rev() {
                let sample = data.sample(Split::Train, index).unwrap();
                assert_eq!(sample.image.rgb, pictures[index], "{train} {index}");
                assert_eq!(sample.label, index % 3, "{train} {index}");
            }
        }
    }

    #[test]
    fn a_part_of_train_validates_where_nothing_else_does() {
        let with = Parquet {
            validation: None,
            ..config("data/train-*")
        };
        let data = with.read().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Split::ALL.map(|split| data.len(split)), [9, 3, 6]);
        let tested = Parquet {
            test: None,
            test_fraction: Some(0.25),
            ..with.clone()
        };
        let data = tested.read().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Split::ALL.map(|split| data.len(split)), [6, 3, 3]);
        for (test, test_fraction, got) in [(None, None, "neither"), (Some("a"), Some(0.5), "both")]
        {
            let config = Parquet {
                test: test.map(str::to_owned),
                test_fraction,
                ..with.clone()
            };
            let message = message(&config);
            assert!(message.contains("`test_fraction` without them") && message.contains(got));
        }
        let whole = config("plain.*").read().unwrap_or_else(|e| panic!("{e}"));
        let sharded = config("data/train-*")
            .read()
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            whole.fingerprint().unwrap(),
            sharded.fingerprint().unwrap(),
            "the way rows are packed makes no difference"
        );
    }

    #[test]
    fn a_row_without_an_image_is_named_and_the_others_are_read() {
        let data = config("holed.*").read().unwrap_or_else(|e| panic!("{e}"));
        let message = data.image(Split::Train, 3).unwrap_err().to_string();
        assert!(
            message.ends_with("holed.parquet` row 3: expected the bytes of an image, got null"),
            "{message}"
        );
        assert!((0..12).all(|index| data.image(Split::Train, index).is_ok() == (index != 3)));
        assert!(data.fingerprint().is_ok());
    }

    /// `fixtures/scripts/data_kinds.py` made the shards with pyarrow.
    #[test]
    fn labels_of_other_types_and_codecs_are_read_or_named() {
        let with = |train: &str| Parquet {
            root: format!("{FOLDER}/../parquet_kinds").into(),
            train: train.into(),
            validation: None,
            test: Some("test.parquet".into()),
            ..config("")
        };
        let data = with("brotli.parquet")
            .read()
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(data.len(Split::Train) + data.len(Split::Validation), 6);
        assert!(data.image(Split::Train, 0).is_ok());
        for (train, part) in [
            (
                "double.parquet",
                "row 0: expected a label that is a whole number or a name, got `0.0`",
            ),
            (
                "float.parquet",
                "row 0: expected a label that is a whole number or a name, got `0.0`",
            ),
            (
                "hidden.parquet",
                "row 5: expected the label of a class, got `-1` in the train split",
            ),
            (
                "null.parquet",
                "row 5: expected the label of a class, got none in the train split",
            ),
            ("struct.parquet", "expected a column `label`"),
            (
                "bytes.parquet",
                "expected a column of whole numbers or texts, got labels that",
            ),
        ] {
            let message = message(&with(train));
            assert!(message.contains(part), "{train}: {message}");
            assert!(!message.contains("complete parquet"), "{message}");
        }
        for train in ["hidden.parquet", "null.parquet"] {
            let config = Parquet {
                unlabelled: OnStray::Skip,
                ..with(train)
            };
            let data = config.read().unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(data.len(Split::Train) + data.len(Split::Validation), 5);
            assert_eq!(data.remarks().len(), 1, "{:?}", data.remarks());
        }
    }

    /// `fixtures/scripts/multi_label.py` made the shards with the datasets library and pyarrow.
    #[test]
    fn lists_are_the_labels_of_an_image() {
        let with = |train: &str, validation: Option<&str>| Parquet {
            root: format!("{FOLDER}/../multi_label").into(),
            train: train.into(),
            validation: validation.map(str::to_owned),
            test: Some("test.parquet".into()),
            label: "labels".into(),
            ..config("")
        };
        let sets: [&[usize]; 6] = [&[0, 1], &[], &[2], &[0, 1, 2], &[1], &[0]];
        let data = with("train.parquet", Some("names.parquet")).read();
        let data = data.unwrap_or_else(|e| panic!("{e}"));
        assert!(data.is_multi_label());
        assert_eq!(data.classes(), ["sea", "sky", "tree"]);
        for (split, count, first) in [
            (Split::Train, 6, 0),
            (Split::Validation, 6, 200),
            (Split::Test, 3, 100),
        ] {
            assert_eq!(data.len(split), count);
            for (index, set) in sets.iter().enumerate().take(count) {
                assert_eq!(data.labels(split, index).unwrap(), *set, "{split} {index}");
                let shade = data.image(split, index).unwrap().rgb[0];
                assert_eq!(usize::from(shade), first + index, "{split} {index}");
            }
        }
        // Without a validation split, a part of all images is set aside.
        let data = with("train.parquet", None).read();
        let data = data.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Split::ALL.map(|split| data.len(split)), [5, 1, 3]);

        for (train, validation, part) in [
            (
                "null.parquet",
                None,
                "row 5: expected a list of labels, empty if",
            ),
            (
                "train.parquet",
                Some("one.parquet"),
                "expected lists of labels in `labels`, as in the shards before, got one label per row",
            ),
        ] {
            let message = message(&with(train, validation));
            assert!(message.contains(part), "{message}");
        }
    }

    /// A set of images that are not upright is another set when they are turned; others are not.
    #[test]
    fn the_fingerprint_changes_where_images_are_turned() {
        for (train, differs) in [("turned.parquet", true), ("brotli.parquet", false)] {
            let [apply, ignore] = [Exif::Apply, Exif::Ignore].map(|exif| {
                let config = Parquet {
                    root: format!("{FOLDER}/../parquet_kinds").into(),
                    train: train.into(),
                    validation: None,
                    test: Some("test.parquet".into()),
                    exif,
                    ..config("")
                };
                config.read().unwrap_or_else(|e| panic!("{e}"))
            });
            let prints = [&apply, &ignore].map(|data| data.fingerprint().unwrap());
            assert_eq!(prints[0] != prints[1], differs, "{train}");
            let images = [&apply, &ignore].map(|data| data.image(Split::Train, 0).unwrap());
            assert_eq!(images[0] != images[1], differs, "{train}");
        }
    }

    #[test]
    fn missing_columns_shared_shards_and_damaged_files_are_named() {
        let picture = Parquet {
            image: "picture".into(),
            ..config("plain.*")
        };
        let found = message(&picture);
        let expected =
            "expected a column `picture.bytes` or `picture`, got image.bytes, image.path, label";
        assert!(found.contains(expected), "{found}");
        let found = message(&config("data/test-*"));
        assert!(found.contains("shards that belong to one split"), "{found}");

        let folder = tempfile::tempdir().unwrap();
        let whole = fs_err::read(format!("{FOLDER}/plain.parquet")).unwrap();
        let broken = |bytes: &[u8]| {
            fs_err::write(folder.path().join("train.parquet"), bytes).unwrap();
            let config = Parquet {
                root: folder.path().into(),
                ..config("train.parquet")
            };
            message(&config)
        };
        for bytes in [&b""[..], b"not parquet at all", &whole[..whole.len() / 2]] {
            let message = broken(bytes);
            assert!(
                message.contains("train.parquet`: expected a complete parquet file"),
                "{message}"
            );
        }
    }
}
