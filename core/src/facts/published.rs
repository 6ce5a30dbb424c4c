//! What lies beside a checkpoint: the files in which libraries say what its shapes do not show.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::setting::Images;
use super::{Fact, images, read};
use crate::error::{Error, Result};
use crate::files::text_of;

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
    /// The names of the head's classes, in the order of its rows: transformers' `id2label`, timm's
    /// `label_names`.
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
        match own {
            None => self.facts.push(Fact {
                name: "img_size".to_owned(),
                value: size.value.into(),
                path: size.path.clone(),
                field: size.field.clone(),
                implied: false,
            }),
            Some(own) if own.value != size.value => self.remarks.push(format!(
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

/// The classes' names. transformers writes `LABEL_0`, `LABEL_1`, .. where it was given none.
fn classes(value: &Value) -> Result<Option<Vec<String>>, String> {
    if let Value::Object(labels) = &value["id2label"] {
        let text = |name: &Value| match name {
            Value::String(name) => Some(name.clone()),
            // The classes of digits, say, are sometimes written as numbers.
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let mut names = labels
            .iter()
            .map(|(row, name)| Some((row.parse::<usize>().ok()?, text(name)?)))
            .collect::<Option<Vec<_>>>()
            .ok_or("id2label: expected names by row")?;
        names.sort();
        if names.iter().enumerate().any(|(i, (row, _))| i != *row) {
            let rows = names.len();
            return Err(format!("id2label: expected the rows 0 to {}", rows - 1));
        }
        let given = |(row, name): &(usize, String)| *name != format!("LABEL_{row}");
        return Ok(names
            .iter()
            .any(given)
            .then(|| names.into_iter().map(|(_, name)| name).collect()));
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

#[cfg(test)]
mod tests;
