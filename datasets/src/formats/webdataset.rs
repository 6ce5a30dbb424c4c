//! Tar shards in the format of WebDataset: the members of a sample share a name up to the first
//! dot, `000017.jpg` and `000017.cls`. Members of other kinds are passed over and counted; a sample
//! whose own name has a dot is an error, as the first dot would cut it.
//!
//! The headers are read once; images are then read from the mapped file, in any order, so shards
//! must not be compressed. The library is Aizman et al., "High Performance I/O For Large Scale Deep
//! Learning", 2019.

mod member;
mod samples;

use std::borrow::Cow;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::member::Member;
use self::samples::{PassedOver, Samples, counted, split_name};
use super::file_format::file_format;
use crate::error::Error;
use crate::files::Place;
use crate::indexed::{Indexed, Source};
use crate::labels::{Labelled, OnStray, Strays, read_names, resolve};
use crate::shards::{Mapped, Patterns};
use crate::split::{default_validation_fraction, set_aside};
use crate::storage::Exif;

peft_core::dataset_config! {
    /// Tar shards of a WebDataset, with an image and a label for each sample.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    pub struct WebDataset {
        /// The folder of the shards.
        pub root: PathBuf,
        /// The shards of the training split: a path below the root, or a pattern in which `*` stands
        /// for any part of a name and `{000000..000003}` for a range.
        pub train: String,
        /// The shards of the validation split. Without them, a part of `train` is set aside.
        #[serde(default)]
        pub validation: Option<String>,
        /// The shards of the test split.
        pub test: String,
        /// The field of a sample's `.json` that holds its label. Without it, the label is in the
        /// `.cls`.
        #[serde(default)]
        pub label: Option<String>,
        /// A text file with the names of the classes, one per line. Without it, labels that are
        /// all whole numbers are their own names, and other labels are sorted.
        #[serde(default)]
        pub names: Option<PathBuf>,
        /// Part of each class of `train` that is set aside where there is no validation split: a number
        /// in (0, 1). The order is that of the blake3 hash of `<shard's file name>/<key>`.
        #[serde(default = "default_validation_fraction")]
        pub validation_fraction: f32,
        /// What becomes of an image without a label, or with a negative one, which marks a label that
        /// is hidden.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unlabelled: OnStray,
        /// What becomes of an image of a class that the training split lacks, where no `names` list it.
        #[serde(default, skip_serializing_if = "OnStray::is_fail")]
        pub unseen: OnStray,
        /// Whether EXIF orientation is applied. By default it is not, as the
        /// webdataset library reads images by Pillow.
        #[serde(default, skip_serializing_if = "Exif::is_ignore")]
        pub exif: Exif,
    }
}

file_format! {
    WebDataset,
    name: "webdataset",
    paths: [root, names],
    summary: "tar shards of images, each with a .cls or a .json",
    reference: "High Performance I/O For Large Scale Deep Learning, Aizman et al., 2019",
    example: "name: webdataset\nroot: data/flowers\ntrain: train-{000000..000003}.tar\n\
              test: test-*.tar\n",
}

impl WebDataset {
    fn read(&self) -> Result<Indexed<Shards>, Error> {
        let patterns = Patterns {
            train: &self.train,
            validation: self.validation.as_deref(),
            test: Some(&self.test),
        };
        let mut shards = Shards::default();
        let field = self.label.as_deref();
        let samples = patterns.read(&self.root, |path| shards.add(path, field))?;
        let names = self.names.as_deref().map(read_names).transpose()?;
        let strays = Strays {
            unlabelled: self.unlabelled,
            unseen: self.unseen,
        };
        let mut remarks = Vec::new();
        let (classes, mut splits) = resolve(samples, names, strays, &mut remarks)?;
        if self.validation.is_none() {
            splits.validation = set_aside(
                &mut splits.train,
                self.validation_fraction,
                |item| item.label,
                |_, item| shards.key(&item.at),
            )?;
        }
        remarks.extend(shards.passed_over());
        let mut data = Indexed::new(classes, splits, shards);
        data.exif = self.exif;
        data.remarks.extend(remarks);
        Ok(data)
    }
}

/// The mapped shards.
#[derive(Debug, Default)]
struct Shards {
    files: Vec<Mapped>,
    passed_over: PassedOver,
}

/// The program that compressed a file, by its first bytes.
fn compressed(content: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], _); 4] = [
        (&[0x1F, 0x8B], "gzip"),
        (b"BZh", "bzip2"),
        (&[0xFD, b'7', b'z', b'X', b'Z'], "xz"),
        (&[0x28, 0xB5, 0x2F, 0xFD], "zstd"),
    ];
    let found = known.iter().find(|(first, _)| content.starts_with(first));
    found.map(|(_, name)| *name)
}

impl Shards {
    /// Maps one more shard and reads its headers and labels.
    ///
    /// # Errors
    /// A file that is not tar, is compressed or ends early; a sample without an image or a label,
    /// or with two; no sample at all.
    fn add(&mut self, path: PathBuf, field: Option<&str>) -> Result<Vec<Labelled<Member>>, Error> {
        let shard = self.files.len();
        let file = Mapped::open(path)?;
        let (path, content) = (&file.path, file.bytes());
        if let Some(codec) = compressed(content) {
            let got = format!("one that {codec} compressed: unpack it first");
            return Err(Error::layout(path, "an uncompressed tar file", got));
        }
        let damaged = |error: io::Error| {
            Error::layout(path, "a whole, uncompressed tar file", error.to_string())
        };
        let first = Place::first(path, "member");
        let mut samples = Samples::new(field);
        let mut archive = tar::Archive::new(Cursor::new(content));
        for (index, entry) in archive.entries_with_seek().map_err(damaged)?.enumerate() {
            let entry = entry.map_err(damaged)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let place = first.at(index + 1);
            let name = String::from_utf8(entry.path_bytes().into_owned())
                .map_err(|_| Error::record(&place, "a name in UTF-8", "another encoding"))?;
            // Only the place of the content is noted; the image is decoded from the map when it is
            // needed.
            let start = entry.raw_file_position() as usize;
            let bytes = start..start + entry.size() as usize;
            let name = name.into();
            samples.take(Member { shard, name, bytes }, place, content)?;
        }
        let (whole, passed_over) = samples.finish()?;
        if whole.is_empty() {
            let expected = "a tar file with images and labels";
            return Err(Error::layout(path, expected, counted(&passed_over)));
        }
        for (extension, count) in passed_over {
            *self.passed_over.entry(extension).or_default() += count;
        }
        self.files.push(file);
        Ok(whole)
    }

    /// The remark about members that are no part of a sample.
    fn passed_over(&self) -> Option<String> {
        let count: usize = self.passed_over.values().sum();
        let kinds = counted(&self.passed_over);
        (count > 0).then(|| format!("members that are passed over: {count} ({kinds})"))
    }

    /// `<shard's file name>/<key>`, which does not depend on where the shards are.
    fn key(&self, at: &Member) -> String {
        let shard = self.files[at.shard].path.file_name().unwrap_or_default();
        let key = split_name(&at.name).map_or(&*at.name, |(key, _)| key);
        format!("{}/{key}", Path::new(shard).display())
    }
}

impl Source for Shards {
    type At = Member;

    fn name(&self, at: &Member) -> String {
        format!("`{}` in `{}`", at.name, self.files[at.shard].path.display())
    }

    fn bytes(&self, at: &Member) -> Result<Cow<'_, [u8]>, Error> {
        Ok(Cow::Borrowed(
            &self.files[at.shard].bytes()[at.bytes.clone()],
        ))
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::{Dataset, Split, Transform};
    use tempfile::TempDir;

    use super::*;

    /// A tar file of these members.
    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(train: &[u8], label: Option<&str>) -> Result<(TempDir, Indexed<Shards>), String> {
        let folder = tempfile::tempdir().unwrap();
        let label_name = if label.is_some() { "0.json" } else { "0.cls" };
        let one: &[u8] = if label.is_some() {
            br#"{"label": 0}"#
        } else {
            b"0"
        };
        let test = tar(&[("0.png", b"test"), (label_name, one)]);
        fs_err::write(folder.path().join("train-000000.tar"), train).unwrap();
        fs_err::write(folder.path().join("test.tar"), test).unwrap();
        let config = WebDataset {
            root: folder.path().into(),
            train: "train-{000000..000000}.tar".into(),
            validation: None,
            test: "test.tar".into(),
            label: label.map(Into::into),
            names: None,
            validation_fraction: 0.3,
            unlabelled: OnStray::Fail,
            unseen: OnStray::Fail,
            exif: Exif::Ignore,
            transform: Transform::default(),
            train_images: None,
            shots: None,
        };
        let data = config.read().map_err(|error| error.to_string())?;
        Ok((folder, data))
    }

    #[test]
    fn members_of_one_key_are_a_sample() {
        let long = format!("{}/b.JPG", "folder".repeat(30));
        let train = tar(&[
            ("d/a.png", b"first"),
            ("d/a.cls", b"0\n"),
            ("d/a.seg.png", b"another kind"),
            (&long, b"second"),
            (&long.replace("JPG", "cls"), b"0"),
            ("README", b"text"),
            ("d/c.cls", b"1"),
            ("d/c.webp", b"third"),
        ]);
        let (_folder, data) = read(&train, None).unwrap();
        assert_eq!(data.classes(), ["0", "1"]);
        assert_eq!(Split::ALL.map(|split| data.len(split)), [2, 1, 1]);
        let mut seen: Vec<_> = [&data.splits.train, &data.splits.validation]
            .into_iter()
            .flatten()
            .map(|item| {
                (
                    data.source.bytes(&item.at).unwrap().into_owned(),
                    item.label,
                )
            })
            .collect();
        seen.sort_unstable();
        let expected = [
            (b"first".to_vec(), 0),
            (b"second".to_vec(), 0),
            (b"third".to_vec(), 1),
        ];
        assert_eq!(seen, expected);
        let message = data.image(Split::Test, 0).unwrap_err().to_string();
        assert!(message.contains("cannot decode `0.png` in `"), "{message}");
        assert!(
            message.contains("test.tar`: expected a complete png"),
            "{message}"
        );
    }

    #[test]
    fn labels_come_from_a_field_of_the_json_too() {
        let train = tar(&[
            ("a.png", b""),
            ("a.json", br#"{"label": 0, "text": "ant"}"#),
            ("b.png", b""),
            ("b.json", br#"{"label": 0}"#),
        ]);
        let (_folder, data) = read(&train, Some("label")).unwrap();
        assert_eq!(data.classes(), ["0"]);
        let message = read(&train, Some("text")).unwrap_err();
        assert!(
            message.contains("member 4 (`b.json`): expected an object with"),
            "{message}"
        );
    }

    #[test]
    fn a_sample_whose_name_has_a_dot_is_an_error_and_other_members_are_counted() {
        let fine: [(&str, &[u8]); 4] = [
            ("a.png", b""),
            ("a.cls", b"0"),
            ("b.png", b""),
            ("b.cls", b"0"),
        ];
        for members in [
            &[("img.v1.00.png", &b""[..]), ("img.v1.00.cls", b"0")][..],
            &[("d/img.v1.00.PNG", b"")],
            &[("a.v1.cls", b"0"), ("a.v1.png", b"")],
            &[("c.cls", b"0"), ("c.seg.tif", b"")],
        ] {
            for members in [members.to_vec(), [&fine, members].concat()] {
                let message = read(&tar(&members), None).unwrap_err();
                assert!(
                    message.contains("names are cut at the first dot"),
                    "{message}"
                );
                let name = members
                    .iter()
                    .find(|(name, _)| name.matches('.').count() > 1);
                assert!(message.contains(&name.unwrap().0[..4]), "{message}");
            }
        }
        let others: [(&str, &[u8]); 6] = [
            ("a.seg.png", b""),
            ("c.txt", b"a text without an image"),
            ("b.json", b"{}"),
            ("b.txt", b""),
            ("README", b""),
            ("a.tif", b"a mask beside the image"),
        ];
        let (_folder, data) = read(&tar(&[&fine[..], &others].concat()), None).unwrap();
        assert_eq!(
            data.remarks(),
            [
                "members that are passed over: 4 (1 .seg.png, 1 .tif, 1 .txt, 1 without an extension)"
            ]
        );
    }

    #[test]
    fn labels_from_anywhere_are_read_or_named() {
        let shard = |label: &str| {
            tar(&[
                ("a.png", b""),
                ("a.json", label.as_bytes()),
                ("b.png", b""),
                ("b.json", br#"{"label": 0}"#),
            ])
        };
        for text in [
            "{\"label\": 0}",
            "\u{feff}{\"label\":\r\n 0}\r\n",
            "{\"label\": \"0\"}",
        ] {
            assert!(read(&shard(text), Some("label")).is_ok(), "{text:?}");
        }
        for (text, part) in [
            (r#"{"label": 0.0}"#, "got `0.0`: write `0`"),
            (r#"{"label": "3.0"}"#, "got `3.0`: write `3`"),
            (r#"{"label": -1}"#, "got `-1` in the train split"),
            (r#"{"label": null}"#, "got none in the train split"),
            (
                r#"{"text": 0}"#,
                "a number or a string in `label`, got null",
            ),
        ] {
            let message = read(&shard(text), Some("label")).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        let cls = tar(&[
            ("a.png", b""),
            ("a.cls", b"\xef\xbb\xbf0\r\n"),
            ("b.png", b""),
            ("b.cls", b"0"),
        ]);
        assert_eq!(read(&cls, None).unwrap().1.classes(), ["0"]);
    }

    #[test]
    fn a_bad_shard_is_named() {
        let fine: [(&str, &[u8]); 4] = [
            ("a.png", b""),
            ("a.cls", b"0"),
            ("b.png", b""),
            ("b.cls", b"0"),
        ];
        assert!(read(&tar(&fine), None).is_ok());
        for (members, parts) in [
            (
                &[("c.png", &b""[..])][..],
                ["member 5", "a `c.cls` beside the image, got none"],
            ),
            (
                &[("c.cls", b"1")],
                ["member 5", "an image of `c` beside its label"],
            ),
            (
                &[("a.jpg", b"")],
                ["the image of `a` is listed twice", "member 5"],
            ),
            (
                &[("c.png", b""), ("c.cls", b" ")],
                ["member 6 (`c.cls`)", "the text of a label"],
            ),
            (
                &[("c.png", b""), ("c.cls", b"99999999")],
                ["member 6", "a label in 0..1048576"],
            ),
        ] {
            let message = read(&tar(&[&fine, members].concat()), None).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        for (text, part) in [
            ("a.json", "`label` names its field"),
            ("a.txt", "of another kind"),
        ] {
            let message = read(&tar(&[("a.png", b""), (text, b"0")]), None).unwrap_err();
            assert!(message.contains("a `a.cls` beside the image"), "{message}");
            assert!(message.contains(part), "{message}");
        }
        let message = read(&[0x1F, 0x8B, 8, 0], None).unwrap_err();
        assert!(message.contains("that gzip compressed"), "{message}");
        let whole = tar(&[("a.png", &[7; 2000]), ("a.cls", b"0")]);
        let message = read(&whole[..1024], None).unwrap_err();
        assert!(
            message.contains("the 2000 bytes of `a.png`, got 512 of them"),
            "{message}"
        );
        let message = read(&[0x1f; 600], None).unwrap_err();
        assert!(
            message.contains("train-000000.tar`: expected a whole, uncompressed tar"),
            "{message}"
        );
        let message = read(b"", None).unwrap_err();
        assert!(message.contains("got neither"), "{message}");
    }
}
