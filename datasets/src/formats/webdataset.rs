//! Tar shards in the format of WebDataset: the members of a sample share a name up to the first
//! dot, `000017.jpg` and `000017.cls`. Members of other kinds are passed over and counted; a sample
//! whose own name has a dot is an error, as the first dot would cut it.
//!
//! The headers are read once; images are then read from the mapped file, in any order, so shards
//! must not be compressed. The library is Aizman et al., "High Performance I/O For Large Scale Deep
//! Learning", 2019.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Cursor};
use std::ops::Range;
use std::path::{Path, PathBuf};

use peft_core::error::listed;
use peft_core::files::text_of;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::file_format::file_format;
use crate::error::Error;
use crate::files::Place;
use crate::indexed::{Indexed, Source};
use crate::kinds::EXTENSIONS;
use crate::labels::{Labelled, OnStray, Strays, read_names, resolve};
use crate::shards::{Mapped, Patterns};
use crate::split::{default_validation_fraction, set_aside};
use crate::storage::Exif;

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
            test: &self.test,
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

/// Members that are no part of a sample, by their extension.
type PassedOver = BTreeMap<String, usize>;

/// An image in a shard.
#[derive(Debug)]
struct Member {
    shard: usize,
    name: Box<str>,
    bytes: Range<usize>,
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
        let damaged =
            |error: io::Error| Error::layout(path, "an uncompressed tar file", error.to_string());
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

/// `2 .json, 1 .txt`, or `neither`.
fn counted(members: &PassedOver) -> String {
    let kinds: Vec<String> = members
        .iter()
        .map(|(extension, count)| format!("{count} {extension}"))
        .collect();
    match kinds.is_empty() {
        true => "neither".into(),
        false => listed(&kinds, 10),
    }
}

/// The samples of a shard, put together as their members come.
struct Samples<'a> {
    /// The field of the `.json` that holds the label; without it, a `.cls` is the label.
    field: Option<&'a str>,
    /// The keys in the order in which they come in the shard: the map has none of its own.
    order: Vec<String>,
    parts: HashMap<String, Parts>,
    /// Members with several dots that would be part of a sample if names were cut at the last one.
    dotted: Vec<Dotted>,
    passed_over: PassedOver,
}

/// A member such as `img.v1.png`.
struct Dotted {
    /// `img`.
    key: String,
    /// `img.v1`.
    stem: String,
    /// Whether the last extension is that of an image; else it is that of labels.
    image: bool,
    name: Box<str>,
    place: Place,
}

/// The extensions that stand for an image only where a sample has no other.
const LESS_USUAL: [&str; 6] = ["pgm", "pbm", "pnm", "tif", "tiff", "jfif"];

struct Picture {
    member: Member,
    place: Place,
    /// Not one of [`LESS_USUAL`].
    usual: bool,
}

/// What a sample has so far, and where.
#[derive(Default)]
struct Parts {
    image: Option<Picture>,
    label: Option<(String, Place)>,
}

impl<'a> Samples<'a> {
    fn new(field: Option<&'a str>) -> Self {
        Self {
            field,
            order: Vec::new(),
            parts: HashMap::new(),
            dotted: Vec::new(),
            passed_over: PassedOver::new(),
        }
    }

    /// The extension of the members that hold labels.
    fn label_extension(&self) -> &'static str {
        if self.field.is_some() { "json" } else { "cls" }
    }

    /// Takes a member of the shard, whose content is `content`; one that is neither an image nor a
    /// label is passed over.
    fn take(&mut self, member: Member, place: Place, content: &[u8]) -> Result<(), Error> {
        let name = member.name.clone();
        let Some((key, extension)) = split_name(&name) else {
            self.pass_over("without an extension");
            return Ok(());
        };
        // A shard whose copy was interrupted still has whole headers.
        let Some(value) = content.get(member.bytes.clone()) else {
            let expected = format!("the {} bytes of `{name}`", member.bytes.len());
            let got = content.len().saturating_sub(member.bytes.start);
            return Err(Error::record(place, expected, format!("{got} of them")));
        };
        let (kind, earlier) = if EXTENSIONS.contains(&extension.as_str()) {
            let sample = self.sample(key);
            let usual = !LESS_USUAL.contains(&extension.as_str());
            let earlier = sample.image.take();
            let (image, other) = match earlier {
                // A mask beside the image, most likely.
                Some(earlier) if earlier.usual && !usual => (earlier, Some(extension)),
                Some(earlier) if !earlier.usual && usual => {
                    let (_, other) = split_name(&earlier.member.name).unwrap_or_default();
                    (
                        Picture {
                            member,
                            place: place.clone(),
                            usual,
                        },
                        Some(other),
                    )
                }
                Some(earlier) => {
                    return Err(Error::Twice {
                        image: format!("the image of `{key}`"),
                        first: earlier.place.to_string(),
                        second: place.to_string(),
                    });
                }
                None => (
                    Picture {
                        member,
                        place: place.clone(),
                        usual,
                    },
                    None,
                ),
            };
            sample.image = Some(image);
            if let Some(other) = other {
                self.pass_over(&format!(".{other}"));
            }
            return Ok(());
        } else if extension == self.label_extension() {
            let text = label_of(value, self.field).map_err(|(expected, got)| {
                Error::record(format!("{place} (`{name}`)"), expected, got)
            })?;
            let earlier = self.sample(key).label.replace((text, place.clone()));
            ("label", earlier.map(|(_, place)| place))
        } else {
            self.pass_over(&format!(".{extension}"));
            if let Some((stem, last)) = extension.rsplit_once('.') {
                let image = EXTENSIONS.contains(&last);
                if image || last == self.label_extension() {
                    self.dotted.push(Dotted {
                        key: key.to_owned(),
                        stem: format!("{key}.{stem}"),
                        image,
                        name,
                        place,
                    });
                }
            }
            return Ok(());
        };
        match earlier {
            None => Ok(()),
            Some(earlier) => Err(Error::Twice {
                image: format!("the {kind} of `{key}`"),
                first: earlier.to_string(),
                second: place.to_string(),
            }),
        }
    }

    /// The parts with this key, noted when it is new.
    fn sample(&mut self, key: &str) -> &mut Parts {
        self.parts.entry(key.to_owned()).or_insert_with(|| {
            self.order.push(key.to_owned());
            Parts::default()
        })
    }

    /// Counts a member that is no part of a sample. A text beside an image is usual, and not counted.
    fn pass_over(&mut self, extension: &str) {
        if [".json", ".txt", ".cls"].contains(&extension) {
            return;
        }
        *self.passed_over.entry(extension.to_owned()).or_default() += 1;
    }

    /// The samples in the order of the shard, and what was passed over.
    ///
    /// # Errors
    /// A sample that lacks its image or its label, or whose name has a dot. An image such as
    /// `a.seg.png` beside `a.png` is another part of one sample; but where there is no `a.png`, or
    /// there is an `a.seg.cls`, the image is meant to be a sample.
    fn finish(mut self) -> Result<(Vec<Labelled<Member>>, PassedOver), Error> {
        let labels = self.dotted.iter().filter(|dotted| !dotted.image);
        let labels: HashSet<&str> = labels.map(|dotted| dotted.stem.as_str()).collect();
        let cut = self.dotted.iter().find(|dotted| {
            let sample = self.parts.get(&dotted.key);
            let whole = sample.is_some_and(|sample| sample.image.is_some());
            dotted.image && (!whole || labels.contains(dotted.stem.as_str()))
        });
        if let Some(Dotted {
            key, name, place, ..
        }) = cut
        {
            let expected = "a name without a dot before its extension, as names are cut at the \
                            first dot";
            let got = format!("`{name}`, which would be a part of the sample `{key}`");
            return Err(Error::record(place, expected, got));
        }
        let extension = self.label_extension();
        let order = std::mem::take(&mut self.order).into_iter();
        let whole = order.map(|key| {
            let Parts { image, label } = self.parts.remove(&key).unwrap_or_default();
            match (image, label) {
                (Some(Picture { member: at, .. }), Some((label, place))) => {
                    Ok(Labelled { at, label, place })
                }
                (Some(Picture { place, .. }), None) => {
                    let expected = format!("a `{key}.{extension}` beside the image");
                    Err(Error::record(place, expected, "none"))
                }
                (None, Some((_, place))) => {
                    let expected = format!("an image of `{key}` beside its label");
                    Err(Error::record(place, expected, "none"))
                }
                (None, None) => unreachable!("a key is noted with its first part"),
            }
        });
        Ok((whole.collect::<Result<_, _>>()?, self.passed_over))
    }
}

/// A member's key and its extension in lower case: the parts before and after the first dot of its
/// file name. `None` for a hidden file and for a name without a dot.
fn split_name(name: &str) -> Option<(&str, String)> {
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = start + name[start..].find('.')?;
    (dot > start).then(|| (&name[..dot], name[dot + 1..].to_lowercase()))
}

/// The text of a `.cls`, or the value of a field of a `.json`; or else what was expected and what
/// was found.
fn label_of(bytes: &[u8], field: Option<&str>) -> Result<String, (String, String)> {
    let Some(field) = field else {
        let text = text_of(bytes).map(str::trim).unwrap_or_default();
        let got = || format!("{} bytes that are not text", bytes.len());
        return match text.is_empty() {
            true => Err(("the text of a label".into(), got())),
            false => Ok(text.to_owned()),
        };
    };
    let expected = || format!("an object with a number or a string in `{field}`");
    let text = text_of(bytes).map_err(|got| (expected(), got))?;
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| (expected(), error.to_string()))?;
    match &value[field] {
        serde_json::Value::Number(number) => Ok(number.to_string()),
        serde_json::Value::String(text) => Ok(text.clone()),
        // No label, which is refused or left out later.
        serde_json::Value::Null if value.get(field).is_some() => Ok(String::new()),
        other => Err((expected(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use peft_core::data::{Dataset, Split};
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
        let others: [(&str, &[u8]); 5] = [
            ("a.seg.png", b""),
            ("b.json", b"{}"),
            ("b.txt", b""),
            ("README", b""),
            ("a.tif", b"a mask beside the image"),
        ];
        let (_folder, data) = read(&tar(&[&fine[..], &others].concat()), None).unwrap();
        assert_eq!(
            data.remarks(),
            ["members that are passed over: 3 (1 .seg.png, 1 .tif, 1 without an extension)"]
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
