//! `dataset_info.json`, `features.json` and `<label>.labels.txt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use peft_core::error::{listed, nearest};
use peft_core::files::read_text;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::example::Value;
use super::slices::{self, Slice};
use crate::error::Error;
use crate::label_sets::JOINED;
use crate::text::lines;

/// The facts that the files beside the shards state.
pub struct Info {
    root: PathBuf,
    info: DatasetInfo,
    /// The features at the top by name.
    features: BTreeMap<String, Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DatasetInfo {
    name: String,
    #[serde(default = "tfrecord")]
    file_format: String,
    splits: Vec<Shards>,
}

/// The shards of a split.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shards {
    name: String,
    #[serde(default)]
    shard_lengths: Vec<Json>,
    #[serde(default)]
    filepath_template: Option<String>,
}

fn tfrecord() -> String {
    "tfrecord".to_owned()
}

/// How the library names shards if a set does not say.
const TEMPLATE: &str = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}";

/// How labels are read.
pub enum Labels {
    /// Indices into names.
    Classes(Vec<String>),
    /// Any number of indices into names.
    Sets(Vec<String>),
    /// Whole numbers or texts.
    Values,
}

impl Shards {
    /// The number of records of each shard. The library writes numbers of 64 bits as texts.
    fn lengths(&self) -> Option<Vec<usize>> {
        let length = |value: &Json| match value {
            Json::String(text) => text.parse().ok(),
            value => value.as_u64()?.try_into().ok(),
        };
        self.shard_lengths.iter().map(length).collect()
    }
}

impl Info {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// A folder without them, with the nearest one that has them; shards of another format.
    pub fn read(root: &Path) -> Result<Self, Error> {
        let root = fs_err::canonicalize(root)?;
        let path = root.join("dataset_info.json");
        if !path.is_file() {
            let below = below(&root, 3);
            let got = match &below[..] {
                [] => "none".to_owned(),
                found => format!("one in {}", listed(found, 5)),
            };
            return Err(Error::layout(&root, "a `dataset_info.json`", got));
        }
        let info: DatasetInfo = read_json(&path)?;
        if info.file_format != "tfrecord" {
            let got = format!("`{}`: write the set as tfrecord", info.file_format);
            return Err(Error::layout(path, "shards in the format `tfrecord`", got));
        }
        let path = root.join("features.json");
        let features: Json = read_json(&path)?;
        let features = features["featuresDict"]["features"].as_object();
        let features = features
            .ok_or_else(|| Error::layout(&path, "`featuresDict` with `features`", "none"))?;
        let features = features.clone().into_iter().collect();
        Ok(Self {
            root,
            info,
            features,
        })
    }

    /// The splits of the set by name.
    pub fn splits(&self) -> impl Iterator<Item = (&str, &Shards)> {
        let splits = self.info.splits.iter();
        splits.map(|split| (split.name.as_str(), split))
    }

    /// Whether the set has a split of this name.
    pub fn has(&self, split: &str) -> bool {
        self.count(split).is_some()
    }

    fn count(&self, split: &str) -> Option<usize> {
        let (_, shards) = self.splits().find(|(name, _)| *name == split)?;
        Some(shards.lengths()?.iter().sum())
    }

    /// Reads a field that names slices.
    ///
    /// # Errors
    /// A split that the set does not have, with those that it has; another form.
    pub fn slice(&self, field: &'static str, text: &str) -> Result<Vec<Slice>, Error> {
        slices::parse(text, |name| self.count(name)).map_err(|expected| {
            let names: Vec<&str> = self.splits().map(|(name, _)| name).collect();
            let got = format!("`{text}`; the set has {}", listed(&names, 10));
            Error::invalid(field, expected, got)
        })
    }

    /// The files of a split and the number of records of each.
    ///
    /// # Errors
    /// A name of a file that leaves the folder.
    pub fn files(&self, split: &Shards) -> Result<Vec<(PathBuf, usize)>, Error> {
        let path = self.root.join("dataset_info.json");
        let lengths = split
            .lengths()
            .ok_or_else(|| Error::layout(&path, "numbers as `shardLengths`", "another value"))?;
        let shards = lengths.len();
        let template = split.filepath_template.as_deref().unwrap_or(TEMPLATE);
        let name = |shard: usize| {
            template
                .replace("{DATASET}", &self.info.name)
                .replace("{SPLIT}", &split.name)
                .replace("{FILEFORMAT}", &self.info.file_format)
                .replace("{SHARD_X_OF_Y}", &format!("{shard:05}-of-{shards:05}"))
                .replace("{SHARD_INDEX}", &format!("{shard:05}"))
                .replace("{NUM_SHARDS}", &format!("{shards:05}"))
        };
        let files = lengths.into_iter().enumerate();
        files
            .map(|(shard, length)| {
                let name = name(shard);
                match name.contains(['/', '\\']) {
                    true => {
                        let expected = "names of files in this folder";
                        Err(Error::layout(&path, expected, format!("`{name}`")))
                    }
                    false => Ok((self.root.join(name), length)),
                }
            })
            .collect()
    }

    /// A feature of the set.
    fn feature(&self, field: &'static str, name: &str) -> Result<&Json, Error> {
        self.features.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.features.keys().map(String::as_str).collect();
            let near = nearest(name, names.iter().copied());
            let near = near.map(|near| format!(" (did you mean `{near}`?)"));
            let got = format!("`{name}`{}", near.unwrap_or_default());
            Error::invalid(field, format!("one of {}", listed(&names, 20)), got)
        })
    }

    /// Checks that a feature is an image.
    ///
    /// # Errors
    /// If it is something else, or is not there.
    pub fn check_image(&self, name: &str) -> Result<(), Error> {
        let feature = self.feature("image", name)?;
        match class_of(feature) {
            "Image" | "LabeledImage" => Ok(()),
            other => Err(Error::invalid(
                "image",
                "a feature of images",
                format!("`{name}`, {other}"),
            )),
        }
    }

    /// How a feature is a label.
    ///
    /// # Errors
    /// If it cannot be one, or its list of names is damaged.
    pub fn labels(&self, name: &str) -> Result<Labels, Error> {
        let feature = self.feature("label", name)?;
        let inner = &feature["sequence"]["feature"];
        match class_of(feature) {
            "Sequence" if class_of(inner) == "ClassLabel" => match self.classes(name, inner)? {
                Some(names) => Ok(Labels::Sets(names)),
                None => {
                    let expected = "classes whose number `features.json` states";
                    Err(Error::invalid("label", expected, format!("`{name}`")))
                }
            },
            "ClassLabel" => Ok(match self.classes(name, feature)? {
                Some(names) => Labels::Classes(names),
                None => Labels::Values,
            }),
            "Text" | "Tensor" | "Scalar" => Ok(Labels::Values),
            other => {
                let expected =
                    "a feature that is a class, a sequence of classes, a number or a text";
                Err(Error::invalid(
                    "label",
                    expected,
                    format!("`{name}`, {other}"),
                ))
            }
        }
    }

    /// The names of the classes of a feature; none if the set does not state their number.
    fn classes(&self, name: &str, feature: &Json) -> Result<Option<Vec<String>>, Error> {
        let count = match &feature["classLabel"]["numClasses"] {
            Json::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        let path = self.root.join(format!("{name}.labels.txt"));
        let names: Vec<String> = match (path.is_file(), count) {
            (true, _) => lines(read_text(&path)?.trim_end())
                .map(str::to_owned)
                .collect(),
            (false, Some(count)) => (0..count).map(|class| class.to_string()).collect(),
            (false, None) => return Ok(None),
        };
        match count {
            Some(count) if count != names.len() as u64 => {
                let expected = format!("{count} names, as `features.json` states");
                Err(Error::layout(path, expected, names.len().to_string()))
            }
            _ => Ok(Some(names)),
        }
    }
}

impl Labels {
    /// The names of the classes, if the set lists them.
    pub fn names(self) -> Option<Vec<String>> {
        match self {
            Self::Classes(names) | Self::Sets(names) => Some(names),
            Self::Values => None,
        }
    }

    /// Returns the character between the labels in the text of a record. A record with one label has none.
    pub fn separator(&self) -> Option<char> {
        matches!(self, Self::Sets(_)).then_some(JOINED)
    }

    /// The labels of a record of a sequence as one text, or else what was expected.
    pub fn joined(&self, labels: Option<Vec<i64>>) -> Result<String, String> {
        let expected = || "a sequence of the numbers of classes".to_owned();
        let labels = labels.ok_or_else(expected)?.into_iter();
        let names = labels.map(|label| self.text(Some(&Value::Int(label)), &[]));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        Ok(names.join(&JOINED.to_string()))
    }

    /// A label as a text, or else what was expected.
    pub fn text(&self, value: Option<&Value>, file: &[u8]) -> Result<String, String> {
        match (self, value) {
            // By name, so that a class that is called `1` is never taken for the second.
            (Self::Classes(names) | Self::Sets(names), Some(Value::Int(label @ 0..))) => {
                let name = names.get(usize::try_from(*label).unwrap_or(usize::MAX));
                name.cloned()
                    .ok_or_else(|| format!("a label below {}", names.len()))
            }
            (Self::Sets(names), _) => Err(format!("labels in 0..{}", names.len())),
            (_, Some(Value::Int(label))) => Ok(label.to_string()),
            (Self::Values, Some(Value::Bytes(place))) => {
                let text = file
                    .get(place.clone())
                    .and_then(|bytes| std::str::from_utf8(bytes).ok());
                text.map(str::to_owned)
                    .ok_or_else(|| "a text in UTF-8".to_owned())
            }
            (Self::Classes(_), _) => Err("the number of a class".to_owned()),
            (Self::Values, _) => Err("a whole number or a text".to_owned()),
        }
    }
}

/// The class that a feature has in Python, such as `ClassLabel`.
fn class_of(feature: &Json) -> &str {
    let path = feature["pythonClassName"]
        .as_str()
        .unwrap_or("a feature of no class");
    path.rsplit('.').next().unwrap_or(path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = read_text(path)?;
    let read = serde_json::from_str(&text);
    read.map_err(|e| Error::layout(path, "JSON that TensorFlow Datasets wrote", e.to_string()))
}

/// The folders below `root` that have a `dataset_info.json`, relative to it.
fn below(root: &Path, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    for path in entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
    {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.join("dataset_info.json").is_file() {
            found.push(format!("`{name}`"));
        } else if depth > 1 {
            let inner = below(&path, depth - 1);
            found.extend(inner.iter().map(|inner| format!("`{name}/{}", &inner[1..])));
        }
    }
    found.sort();
    found
}
