//! What lies beside a checkpoint: the files in which libraries say what its shapes do not show.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::setting::Images;
use super::{Fact, images, read};
use crate::error::{Error, Result};
use crate::files::text_of;
use crate::image_size::ImageSize;

/// The statements of the files beside a checkpoint about its input, its architecture and its classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// The first of the files that says anything.
    pub path: PathBuf,
    /// timm's name of the architecture.
    pub architecture: Option<Fact>,
    /// Attention heads, where they are one number that the files state.
    pub num_heads: Option<usize>,
    /// The facts of the network that the files state.
    pub facts: Vec<Fact>,
    /// The names of the head's classes, in the order of its rows: transformers' `id2label` or `label2id`,
    /// timm's `label_names`.
    pub classes: Option<Vec<String>>,
    pub(crate) images: Images,
    /// Statements that cannot be followed, each with the path of its file.
    pub remarks: Vec<String>,
}

/// What is looked for beside a checkpoint, in this order: of transformers, of open_clip, of timm or
/// transformers.
const FILES: [&str; 4] = [
    "preprocessor_config.json",
    "processor_config.json",
    "open_clip_config.json",
    "config.json",
];

impl Published {
    /// Reads the files beside `weights`; none if they state nothing about the input or the network.
    ///
    /// # Errors
    /// [`Error::File`] if a file there is not JSON or holds values of another kind.
    pub fn beside(weights: &Path) -> Result<Option<Self>> {
        let mut all = Self::default();
        for file in FILES {
            let path = weights.with_file_name(file);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(&path)(e)),
            };
            let text = text_of(&bytes)
                .map_err(|got| Error::file(&path, format!("expected text in UTF-8, got {got}")))?;
            let value: Value = serde_json::from_str(text)
                .map_err(|e| Error::file(&path, format!("expected JSON: {e}")))?;
            let published = Self::read(&value, &path).map_err(|e| Error::file(&path, e))?;
            all = all.or(published);
        }
        all.settle_size();
        let heads = all.facts.iter().find(|fact| fact.name == "num_heads");
        all.num_heads = heads
            .and_then(|fact| fact.value.as_u64())
            .map(|heads| heads as usize);
        Ok(Some(all).filter(|published| *published != Self::default()))
    }

    /// Fills the fields that are absent from another file.
    fn or(self, other: Self) -> Self {
        let silent = Self::default();
        if self == silent {
            return other;
        }
        let (own, others) = (self.images, other.images);
        Self {
            path: self.path,
            architecture: self.architecture.or(other.architecture),
            num_heads: self.num_heads.or(other.num_heads),
            facts: [self.facts, other.facts].concat(),
            classes: self.classes.or(other.classes),
            images: Images {
                mean: own.mean.or(others.mean),
                std: own.std.or(others.std),
                interpolation: own.interpolation.or(others.interpolation),
                crop_pct: own.crop_pct.or(others.crop_pct),
                crop_mode: own.crop_mode.or(others.crop_mode),
                size: own.size.or(others.size),
                unfollowed: [own.unfollowed, others.unfollowed].concat(),
            },
            remarks: [self.remarks, other.remarks].concat(),
        }
    }

    fn read(value: &Value, path: &Path) -> Result<Self, String> {
        let (facts, remarks) = read(value, path)?;
        let (images, more) = images::read(value, path)?;
        let of_timm = [
            ("architecture", &value["architecture"]),
            (
                "model_cfg.vision_cfg.timm_model_name",
                &value["model_cfg"]["vision_cfg"]["timm_model_name"],
            ),
        ];
        let named = of_timm.into_iter().find(|(_, name)| name.is_string());
        let architecture = named.map(|(field, name)| Fact {
            name: "architecture".to_owned(),
            value: name.clone(),
            path: path.to_owned(),
            field: field.to_owned(),
            implied: false,
        });
        let at = |remark: &String| format!("{}: {remark}", path.display());
        let published = Self {
            architecture,
            facts,
            images,
            remarks: remarks.iter().chain(&more).map(at).collect(),
            classes: classes(value)?,
            ..Self::default()
        };
        let says = published != Self::default();
        Ok(Self {
            path: if says {
                path.to_owned()
            } else {
                PathBuf::new()
            },
            ..published
        })
    }

    /// The size of the network's images.
    pub fn image_size(&self) -> Option<ImageSize> {
        let fact = self.facts.iter().find(|fact| fact.name == "img_size")?;
        ImageSize::deserialize(&fact.value).ok()
    }

    /// timm's name of the architecture.
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_ref()?.value.as_str()
    }

    /// The size of the prepared images is that of the network, unless the network has one of its own:
    /// transformers prepares smaller images for DINOv2 than it was trained on.
    fn settle_size(&mut self) {
        let Some(size) = &self.images.size else {
            return;
        };
        let own = self.facts.iter().find(|fact| fact.name == "img_size");
        let prepared = json!(size.value);
        match own {
            None => self.facts.push(Fact {
                name: "img_size".to_owned(),
                value: prepared,
                path: size.path.clone(),
                field: size.field.clone(),
                implied: false,
            }),
            Some(own) if own.value != prepared => self.remarks.push(format!(
                "{}: {} prepares images of {} pixels, but {} says {} ({}), which is followed; `img_size` \
                 chooses",
                size.path.display(),
                size.field,
                size.value,
                own.path.display(),
                own.value,
                own.field
            )),
            Some(_) => {}
        }
    }
}

/// The classes' names: transformers' `id2label` and `label2id`, which must agree, or timm's `label_names`.
fn classes(value: &Value) -> Result<Option<Vec<String>>, String> {
    let by_row = rows_of(&value["id2label"], "id2label", |row, name| {
        Some((number(&Value::from(row))?, text(name)?))
    })?;
    let by_name = rows_of(&value["label2id"], "label2id", |name, row| {
        Some((number(row)?, name.to_owned()))
    })?;
    match (by_row, by_name) {
        (Some(names), by_name) => {
            // Two classes may share a name, of which `label2id` can hold one only.
            let differs = |(row, name): &&(usize, String)| {
                names.iter().all(|own| own != &(*row, name.clone()))
            };
            if let Some((row, name)) = by_name.iter().flatten().find(differs) {
                let own = names.iter().find(|(own, _)| own == row);
                let own = own.map_or("none".to_owned(), |(_, own)| format!("`{own}`"));
                return Err(format!(
                    "id2label and label2id disagree: the name of row {row} is {own} in the one and `{name}` in \
                     the other"
                ));
            }
            return consecutive(names, "id2label").map(Some);
        }
        (None, Some(names)) => return consecutive(names, "label2id").map(Some),
        (None, None) => {}
    }
    let own = &value["pretrained_cfg"]["label_names"];
    let names = own.as_array().or(value["label_names"].as_array());
    let names = names.map(|names| {
        let names = names.iter().map(|name| name.as_str().map(str::to_owned));
        names
            .collect::<Option<Vec<_>>>()
            .ok_or("label_names: expected a list of names")
    });
    Ok(names.transpose()?)
}

/// The entries of one of transformers' two tables of classes, none if it is absent or says `LABEL_0`,
/// `LABEL_1`, .., which transformers writes where it was given no names.
fn rows_of(
    table: &Value,
    field: &str,
    entry: impl Fn(&str, &Value) -> Option<(usize, String)>,
) -> Result<Option<Vec<(usize, String)>>, String> {
    let Value::Object(table) = table else {
        return Ok(None);
    };
    let entries = table.iter().map(|(key, value)| entry(key, value));
    let rows = entries
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| format!("{field}: expected names by row"))?;
    let given = |(row, name): &(usize, String)| *name != format!("LABEL_{row}");
    Ok(rows.iter().any(given).then_some(rows))
}

/// The names in the order of their rows.
fn consecutive(mut names: Vec<(usize, String)>, field: &str) -> Result<Vec<String>, String> {
    names.sort();
    if names.iter().enumerate().any(|(i, (row, _))| i != *row) {
        return Err(format!(
            "{field}: expected the rows 0 to {}",
            names.len() - 1
        ));
    }
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

/// The name of a class. The classes of digits, say, are sometimes written as numbers.
fn text(name: &Value) -> Option<String> {
    match name {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A row, which scripts write as a number or as its digits.
fn number(row: &Value) -> Option<usize> {
    match row {
        Value::Number(row) => usize::try_from(row.as_u64()?).ok(),
        Value::String(row) => row.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
