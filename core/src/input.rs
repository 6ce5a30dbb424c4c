//! The input images that a checkpoint expects. They belong to the weights, not to the architecture,
//! and are published beside them, for example in a `config.json`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::facts::{Fact, read};
use crate::files::text_of;

/// Mean of each channel of ImageNet's images, with which most networks are trained.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of each channel of ImageNet's images.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The way in which an image becomes the input of a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// Rows and columns in pixels.
    pub size: usize,
    /// Mean of each channel (red, green, blue), for values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
    /// The filter with which images are resized.
    pub interpolation: Interpolation,
    /// Fraction of the resized image that is kept, in `(0, 1]`: images are resized to `floor(size /
    /// crop_pct)` pixels and the centre is cut out.
    pub crop_pct: f32,
    /// The sides that are resized to that many pixels.
    pub crop_mode: CropMode,
}

impl std::fmt::Display for InputSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            size,
            mean,
            std,
            interpolation,
            crop_pct,
            crop_mode,
        } = self;
        let filter = match interpolation {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        };
        let mode = match crop_mode {
            CropMode::Center => "center",
            CropMode::Squash => "squash",
        };
        write!(
            f,
            "{size} x {size}, {filter}, crop {crop_pct} ({mode}), mean {mean:?}, std {std:?}"
        )
    }
}

/// A resampling filter, antialiased like Pillow's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Triangle filter.
    Bilinear,
    /// Keys' cubic with a = -0.5.
    #[default]
    Bicubic,
}

/// The sides of an image that are resized before its centre is cut out, in the terms of timm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CropMode {
    /// The shorter side; the aspect ratio is kept.
    #[default]
    Center,
    /// Both sides; the aspect ratio is lost.
    Squash,
}

/// The statements of a file beside a checkpoint about its input and its architecture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// The file.
    pub path: PathBuf,
    /// timm's name of the architecture.
    pub architecture: Option<String>,
    /// Attention heads, where they are one number that the files state.
    pub num_heads: Option<usize>,
    /// The statements of the files about the network.
    pub facts: Vec<Fact>,
    /// The names of the head's classes, in the order of its rows: transformers' `id2label`, timm's
    /// `label_names`.
    pub classes: Option<Vec<String>>,
    pub(crate) mean: Option<[f32; 3]>,
    pub(crate) std: Option<[f32; 3]>,
    pub(crate) interpolation: Option<Interpolation>,
    pub(crate) crop_pct: Option<f32>,
    pub(crate) crop_mode: Option<CropMode>,
    /// The statements of the file that cannot be followed.
    pub remarks: Vec<String>,
}

/// The files that are looked for beside a checkpoint, in this order: those of transformers, of
/// open_clip, and of timm or transformers.
const FILES: [&str; 3] = [
    "preprocessor_config.json",
    "open_clip_config.json",
    "config.json",
];

impl Published {
    /// Reads the file beside `weights`, if it states anything about the input or the network.
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
            all = all.or(published, path);
        }
        let heads = all.facts.iter().find(|fact| fact.name == "num_heads");
        all.num_heads = heads
            .and_then(|fact| fact.value.as_u64())
            .map(|heads| heads as usize);
        Ok(Some(all).filter(|published| *published != Self::default()))
    }

    /// Fills what is missing from another file.
    fn or(self, other: Self, path: PathBuf) -> Self {
        let silent = Self::default();
        Self {
            path: if self == silent && other != silent {
                path
            } else {
                self.path
            },
            architecture: self.architecture.or(other.architecture),
            num_heads: self.num_heads.or(other.num_heads),
            facts: [self.facts, other.facts].concat(),
            classes: self.classes.or(other.classes),
            mean: self.mean.or(other.mean),
            std: self.std.or(other.std),
            interpolation: self.interpolation.or(other.interpolation),
            crop_pct: self.crop_pct.or(other.crop_pct),
            crop_mode: self.crop_mode.or(other.crop_mode),
            remarks: [self.remarks, other.remarks].concat(),
        }
    }

    fn read(value: &Value, path: &Path) -> Result<Self, String> {
        // timm and open_clip keep these settings one level below; a processor of transformers has
        // them at the top.
        let own = match (&value["pretrained_cfg"], &value["preprocess_cfg"]) {
            (Value::Object(_), _) => &value["pretrained_cfg"],
            (_, Value::Object(_)) => &value["preprocess_cfg"],
            _ => value,
        };
        let (facts, remarks) = read(value, path)?;
        let mut published = Self {
            architecture: value["architecture"].as_str().map(str::to_owned),
            facts,
            remarks,
            classes: classes(value)?,
            ..Self::default()
        };
        if own.get("image_mean").is_some() || own.get("do_resize").is_some() {
            published.of_transformers(own)?
        } else {
            published.of_timm(own)?
        }
        Ok(published)
    }

    /// Reads timm's `pretrained_cfg` and open_clip's `preprocess_cfg`.
    fn of_timm(&mut self, value: &Value) -> Result<(), String> {
        self.mean = channels(value, "mean")?;
        self.std = channels(value, "std")?;
        self.filter(&value["interpolation"]);
        self.crop_pct = part(value, "crop_pct")?;
        let mode = value["crop_mode"]
            .as_str()
            .or(value["resize_mode"].as_str());
        match mode {
            None => {}
            Some("center" | "shortest") => self.crop_mode = Some(CropMode::Center),
            Some("squash") => self.crop_mode = Some(CropMode::Squash),
            Some(other) => {
                let message = format!("its crop mode {other:?} is not known here");
                self.remarks.push(message);
            }
        }
        Ok(())
    }

    /// Reads the settings of transformers' image processors.
    fn of_transformers(&mut self, value: &Value) -> Result<(), String> {
        let off = |name: &str| value[name].as_bool() == Some(false);
        // Without normalisation images keep their values in [0, 1].
        if off("do_normalize") {
            (self.mean, self.std) = (Some([0.0; 3]), Some([1.0; 3]));
        } else {
            self.mean = channels(value, "image_mean")?;
            self.std = channels(value, "image_std")?;
        }
        self.filter(&value["resample"]);
        let side = |value: &Value, name: &str| match value {
            Value::Object(_) => number(value, name),
            Value::Number(_) if name == "shortest_edge" => Ok(value.as_f64()),
            _ => Ok(None),
        };
        let (size, crop) = (&value["size"], &value["crop_size"]);
        let shortest = side(size, "shortest_edge")?;
        let cut = match side(crop, "height")? {
            Some(height) => Some(height),
            None => side(crop, "shortest_edge")?,
        };
        let crops = value["do_center_crop"].as_bool() == Some(true);
        let crop_pct = part(value, "crop_pct")?;
        (self.crop_mode, self.crop_pct) = match (shortest, cut.filter(|_| crops), crop_pct) {
            // The processor of ConvNeXt, which ResNets use too, has a crop of the kind of timm.
            // Others state two sizes, whose quotient is that crop.
            (_, None, Some(kept)) => (Some(CropMode::Center), Some(kept)),
            (Some(short), Some(cut), _) if cut <= short => {
                (Some(CropMode::Center), Some((cut / short) as f32))
            }
            (_, None, None) if size.get("height").is_some() => (Some(CropMode::Squash), Some(1.0)),
            _ => (None, None),
        };
        Ok(())
    }

    fn filter(&mut self, value: &Value) {
        self.interpolation = match (value.as_str(), value.as_u64()) {
            (Some("bilinear"), _) | (_, Some(2)) => Some(Interpolation::Bilinear),
            (Some("bicubic"), _) | (_, Some(3)) => Some(Interpolation::Bicubic),
            (None, None) => None,
            _ => {
                let message = format!("its interpolation {value} is not known here");
                self.remarks.push(message);
                None
            }
        };
    }
}

fn channels(value: &Value, name: &str) -> Result<Option<[f32; 3]>, String> {
    let Some(list) = value.get(name).filter(|list| !list.is_null()) else {
        return Ok(None);
    };
    let wrong = || format!("{name}: expected three finite numbers, got {list}");
    let numbers = list.as_array().ok_or_else(wrong)?;
    let numbers: Vec<f32> = (numbers.iter().filter_map(Value::as_f64))
        .map(|number| number as f32)
        .collect();
    let three = <[f32; 3]>::try_from(numbers).map_err(|_| wrong())?;
    Ok(Some(three))
}

fn number(value: &Value, name: &str) -> Result<Option<f64>, String> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(number) => match number.as_f64().filter(|n| *n > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{name}: expected a number above 0, got {number}")),
        },
    }
}

fn part(value: &Value, name: &str) -> Result<Option<f32>, String> {
    match number(value, name)? {
        Some(part) if part > 1.0 => Err(format!("{name}: expected at most 1, got {part}")),
        part => Ok(part.map(|part| part as f32)),
    }
}

/// Reads the names of the classes. transformers writes `LABEL_0`, `LABEL_1`, .. if it was given
/// none.
fn classes(value: &Value) -> Result<Option<Vec<String>>, String> {
    if let Value::Object(labels) = &value["id2label"] {
        let mut names = labels
            .iter()
            .map(|(row, name)| Some((row.parse::<usize>().ok()?, name.as_str()?.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or("id2label: expected names by row")?;
        names.sort();
        if names.iter().enumerate().any(|(i, (row, _))| i != *row) {
            let rows = names.len();
            return Err(format!("id2label: expected the rows 0 to {}", rows - 1));
        }
        // Names that transformers made up would be joined with a data set as if they were classes.
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
mod tests {
    use super::*;

    fn beside(files: &[(&str, &str)]) -> Result<Option<Published>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Published::beside(&folder.path().join("model.safetensors"))
    }

    /// The files as timm, transformers (ViT, ConvNeXt's processor for ResNets, CLIP) and open_clip
    /// publish them, cut down to what is read.
    #[test]
    fn every_library_tells_it_in_its_own_way() {
        let half = Some([0.5; 3]);
        let timm = r#"{"architecture": "vit_base_patch16_224", "num_classes": 1000, "pretrained_cfg":
            {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
             "crop_pct": 0.9, "crop_mode": "center", "input_size": [3, 224, 224]}}"#;
        let published = beside(&[("config.json", timm)]).unwrap().unwrap();
        assert_eq!(
            published.architecture.as_deref(),
            Some("vit_base_patch16_224")
        );
        assert_eq!((published.mean, published.std), (half, half));
        assert_eq!(published.crop_pct, Some(0.9));
        assert_eq!(published.crop_mode, Some(CropMode::Center));
        assert_eq!(published.interpolation, Some(Interpolation::Bicubic));

        let vit = r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": {"height": 224, "width": 224}}"#;
        let config = r#"{"model_type": "vit", "num_attention_heads": 12}"#;
        let files = [("config.json", config), ("preprocessor_config.json", vit)];
        let published = beside(&files).unwrap().unwrap();
        assert_eq!(published.interpolation, Some(Interpolation::Bilinear));
        assert_eq!(published.crop_mode, Some(CropMode::Squash));
        assert_eq!(published.num_heads, Some(12));

        let resnet = r#"{"crop_pct": 0.875, "do_resize": true, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225], "resample": 3, "size": {"shortest_edge": 224}}"#;
        let published = beside(&[("preprocessor_config.json", resnet)]).unwrap();
        let published = published.unwrap();
        assert_eq!(published.crop_pct, Some(0.875));
        assert_eq!(published.crop_mode, Some(CropMode::Center));

        let clip = r#"{"crop_size": 224, "do_center_crop": true, "do_resize": true, "resample": 3,
            "image_mean": [0.48, 0.45, 0.40], "image_std": [0.26, 0.26, 0.27], "size": 224}"#;
        let published = beside(&[("preprocessor_config.json", clip)]).unwrap();
        assert_eq!(published.unwrap().crop_pct, Some(1.0));

        let open_clip = r#"{"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5], "interpolation": "lanczos", "resize_mode": "squash"}}"#;
        let published = beside(&[("open_clip_config.json", open_clip)]).unwrap();
        let published = published.unwrap();
        assert_eq!(published.crop_mode, Some(CropMode::Squash));
        assert_eq!(published.interpolation, None);
        assert!(
            published.remarks[0].contains("lanczos"),
            "{:?}",
            published.remarks
        );
    }

    #[test]
    fn a_file_that_says_nothing_is_none_and_a_broken_one_an_error() {
        assert_eq!(beside(&[]).unwrap(), None);
        assert_eq!(
            beside(&[("config.json", r#"{"model_type": "x"}"#)]).unwrap(),
            None
        );
        for (broken, expected) in [
            ("{", "expected JSON"),
            (r#"{"mean": [0.5]}"#, "mean: expected three finite numbers"),
            (r#"{"crop_pct": 1.5}"#, "crop_pct: expected at most 1"),
            (r#"{"crop_pct": "x"}"#, "crop_pct: expected a number"),
        ] {
            let error = beside(&[("config.json", broken)]).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("config.json"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_classes_of_a_head_are_named_beside_it() {
        let names = |json: &str| beside(&[("config.json", json)]).unwrap().map(|p| p.classes);
        let list = |names: &[&str]| Some(Some(names.iter().map(|n| (*n).to_owned()).collect()));
        for (json, expected) in [
            (
                r#"{"id2label": {"1": "bee", "0": "ant"}}"#,
                list(&["ant", "bee"]),
            ),
            (
                r#"{"id2label": {"10": "k", "0": "a", "1": "b", "2": "c", "3": "d", "4": "e", "5": "f",
                    "6": "g", "7": "h", "8": "i", "9": "j"}}"#,
                list(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]),
            ),
            (r#"{"label_names": ["cat", "ant"]}"#, list(&["cat", "ant"])),
            (
                r#"{"architecture": "x", "pretrained_cfg": {"label_names": ["cat"]}}"#,
                list(&["cat"]),
            ),
            (r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#, None),
        ] {
            assert_eq!(names(json), expected, "{json}");
        }
        for (json, expected) in [
            (
                r#"{"id2label": {"0": "a", "2": "b"}}"#,
                "id2label: expected the rows 0 to 1",
            ),
            (
                r#"{"id2label": {"a": "0"}}"#,
                "id2label: expected names by row",
            ),
            (
                r#"{"label_names": [1, 2]}"#,
                "label_names: expected a list of names",
            ),
        ] {
            let error = beside(&[("config.json", json)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
