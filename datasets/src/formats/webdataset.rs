//! Tar shards as WebDataset writes them: the members of a sample share a name up to the first dot,
//! `000017.jpg` and `000017.cls`.
//!
//! The headers are read once; images are then read where they lie, in any order. So shards must not
//! be compressed. The library is Aizman et al., "High Performance I/O For Large Scale Deep
//! Learning", 2019.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

use peft_core::Result;
use peft_core::data::{Dataset, DatasetConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::decode::EXTENSIONS;
use crate::files::Place;
use crate::indexed::{Indexed, Item, Source};
use crate::labels::{read_names, resolve};
use crate::shards::{Mapped, expand};
use crate::split::{BySplit, default_validation_fraction, set_aside};

/// Tar shards of a WebDataset: an image and a label a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebDataset {
    /// The folder of the shards.
    pub root: PathBuf,
    /// The shards of the training split: a path below the root, or a pattern in which `*` stands for
    /// any part of a name and `{000000..000003}` for a range.
    pub train: String,
    /// The same for the validation split. Without it a part of `train` is set aside.
    #[serde(default)]
    pub validation: Option<String>,
    /// The same for the test split.
    pub test: String,
    /// The field of a sample's `.json` that holds its label. Without it, the `.cls` is it.
    #[serde(default)]
    pub label: Option<String>,
    /// A text file with the names of the classes, one a line. Without it labels that are all numbers
    /// are their own names, and names are sorted.
    #[serde(default)]
    pub names: Option<PathBuf>,
    /// Part of each class of `train` that becomes the validation split where there is none: a number
    /// in (0, 1). Within a class the samples are ordered by the blake3 hash of
    /// `<shard's file name>/<key>`; the first ones validate.
    #[serde(default = "default_validation_fraction")]
    pub validation_fraction: f32,
}

#[typetag::serde(name = "webdataset")]
impl DatasetConfig for WebDataset {
    fn open(&self) -> Result<Box<dyn Dataset>> {
        Ok(Box::new(self.read()?))
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        [&mut self.root]
            .into_iter()
            .chain(&mut self.names)
            .collect()
    }
}

peft_core::register!(
    Dataset,
    WebDataset,
    name: "webdataset",
    summary: "tar shards of images with a .cls or .json each",
    reference: "High Performance I/O For Large Scale Deep Learning, Aizman et al., 2019",
    example: "name: webdataset\nroot: data/flowers\ntrain: train-{000000..000003}.tar\n\
              test: test-*.tar\n",
);

impl WebDataset {
    fn read(&self) -> Result<Indexed<Shards>, Error> {
        let root = fs_err::canonicalize(&self.root)?;
        let mut shards = Shards::default();
        let mut read = |field, pattern: &str| -> Result<Vec<Labelled>, Error> {
            let mut samples = Vec::new();
            for path in expand(&root, field, pattern)? {
                samples.extend(shards.add(path, self.label.as_deref())?);
            }
            Ok(samples)
        };
        let samples = BySplit {
            train: read("train", &self.train)?,
            validation: match &self.validation {
                Some(pattern) => read("validation", pattern)?,
                None => Vec::new(),
            },
            test: read("test", &self.test)?,
        };
        let names = self.names.as_deref().map(read_names).transpose()?;
        let texts = samples.iter().flatten();
        let texts: Vec<_> = texts.map(|s| (s.label.clone(), &s.place)).collect();
        let (classes, labels) = resolve(&texts, names)?;
        let mut labels = labels.into_iter();
        let mut splits = samples.map(|samples| -> Vec<Item<Member>> {
            let items = samples
                .into_iter()
                .zip(&mut labels)
                .map(|(sample, label)| Item {
                    label,
                    group: None,
                    at: sample.at,
                });
            items.collect()
        });
        if splits.validation.is_empty() {
            splits.validation = set_aside(
                &mut splits.train,
                self.validation_fraction,
                |item| item.label,
                |item| shards.key(&item.at),
            )?;
        }
        Ok(Indexed::new(classes, splits, shards))
    }
}

/// The mapped shards.
#[derive(Debug, Default)]
struct Shards {
    files: Vec<Mapped>,
}

/// An image in a shard.
#[derive(Debug)]
struct Member {
    shard: usize,
    name: Box<str>,
    bytes: Range<usize>,
}

/// A sample whose label is still a text.
struct Labelled {
    at: Member,
    label: String,
    place: Place,
}

/// What was seen of a sample so far.
#[derive(Default)]
struct Parts {
    image: Option<(Member, Place)>,
    label: Option<(String, Place)>,
}

impl Shards {
    /// Maps one more shard and reads its headers and labels.
    fn add(&mut self, path: PathBuf, field: Option<&str>) -> Result<Vec<Labelled>, Error> {
        if let Some(known) = self.files.iter().find(|known| known.path == path) {
            let expected = "shards that belong to one split";
            return Err(Error::layout(
                &known.path,
                expected,
                "one that belongs to two",
            ));
        }
        let shard = self.files.len();
        let file = Mapped::open(path)?;
        let (path, content) = (&file.path, file.bytes());
        let damaged = |error: std::io::Error| {
            Error::layout(path, "an uncompressed tar file", error.to_string())
        };
        let mut order = Vec::new();
        let mut samples: HashMap<String, Parts> = HashMap::new();
        let first = Place::first(path, "member");
        let mut archive = tar::Archive::new(Cursor::new(content));
        for (index, entry) in archive.entries_with_seek().map_err(damaged)?.enumerate() {
            let entry = entry.map_err(damaged)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let place = first.at(index + 1);
            let name = String::from_utf8(entry.path_bytes().into_owned())
                .map_err(|_| Error::record(&place, "a name in UTF-8", "another encoding"))?;
            let (Some((key, extension)), start) = (split_name(&name), entry.raw_file_position())
            else {
                continue;
            };
            let bytes = start as usize..(start + entry.size()) as usize;
            let Some(value) = content.get(bytes.clone()) else {
                let got = format!("{} of them", content.len().saturating_sub(bytes.start));
                let expected = format!("the {} bytes of `{name}`", entry.size());
                return Err(Error::record(place, expected, got));
            };
            let is_image = EXTENSIONS.contains(&extension.as_str());
            let is_label = extension == if field.is_some() { "json" } else { "cls" };
            if !is_image && !is_label {
                continue;
            }
            let sample = samples.entry(key.to_owned()).or_insert_with(|| {
                order.push(key.to_owned());
                Parts::default()
            });
            let earlier = if is_image {
                let name = name.as_str().into();
                let member = Member { shard, name, bytes };
                sample
                    .image
                    .replace((member, place.clone()))
                    .map(|(_, place)| place)
            } else {
                let label = label_of(value, field).map_err(|(expected, got)| {
                    Error::record(format!("{place} (`{name}`)"), expected, got)
                })?;
                sample
                    .label
                    .replace((label, place.clone()))
                    .map(|(_, place)| place)
            };
            if let Some(earlier) = earlier {
                return Err(Error::Twice {
                    image: format!(
                        "the {} of `{key}`",
                        if is_image { "image" } else { "label" }
                    ),
                    first: earlier.to_string(),
                    second: place.to_string(),
                });
            }
        }
        let whole = order.into_iter().map(|key| match samples.remove(&key) {
            Some(Parts {
                image: Some((at, _)),
                label: Some((label, place)),
            }) => Ok(Labelled { at, label, place }),
            Some(Parts {
                image: Some((_, place)),
                ..
            }) => {
                let expected = match field {
                    Some(_) => format!("a `{key}.json` beside the image"),
                    None => format!("a `{key}.cls` beside the image"),
                };
                Err(Error::record(place, expected, "none"))
            }
            Some(Parts {
                label: Some((_, place)),
                ..
            }) => {
                let expected = format!("an image of `{key}` beside its label");
                Err(Error::record(place, expected, "none"))
            }
            _ => unreachable!("a key is noted with its first part"),
        });
        let whole = whole.collect::<Result<Vec<_>, _>>()?;
        if whole.is_empty() {
            let expected = "a tar file with images and labels";
            return Err(Error::layout(path, expected, "neither"));
        }
        self.files.push(file);
        Ok(whole)
    }

    /// `<shard's file name>/<key>`.
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

/// A member's key and extension: what comes before and after the first dot of its last name.
/// None of a hidden file and of one without a dot.
fn split_name(name: &str) -> Option<(&str, String)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (&name[..dot], name[dot + 1..].to_lowercase()))
}

/// The text of a `.cls`, or the value of a field of a `.json`; else what was expected and what came.
fn label_of(bytes: &[u8], field: Option<&str>) -> Result<String, (String, String)> {
    let Some(field) = field else {
        let text = str::from_utf8(bytes).map(str::trim).unwrap_or_default();
        let got = || format!("{} bytes of another kind", bytes.len());
        return match text.is_empty() {
            true => Err(("the text of a label".into(), got())),
            false => Ok(text.to_owned()),
        };
    };
    let expected = || format!("an object with a number or a text at `{field}`");
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| (expected(), error.to_string()))?;
    match &value[field] {
        serde_json::Value::Number(number) => Ok(number.to_string()),
        serde_json::Value::String(text) => Ok(text.clone()),
        other => Err((expected(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::Split;
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
            br#"{"label": 1}"#
        } else {
            b"1"
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
        assert_eq!(data.classes(), ["0", "1"]);
        assert_eq!(data.remarks(), ["class `1` has no training image"]);
        let message = read(&train, Some("text")).unwrap_err();
        assert!(
            message.contains("member 4 (`b.json`): expected an object with"),
            "{message}"
        );
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
        let whole = tar(&[("a.png", &[7; 2000]), ("a.cls", b"0")]);
        let message = read(&whole[..1024], None).unwrap_err();
        assert!(
            message.contains("the 2000 bytes of `a.png`, got 512 of them"),
            "{message}"
        );
        let message = read(&[0x1f; 600], None).unwrap_err();
        assert!(
            message.contains("train-000000.tar`: expected an uncompressed tar"),
            "{message}"
        );
        let message = read(b"", None).unwrap_err();
        assert!(message.contains("got neither"), "{message}");
    }
}
