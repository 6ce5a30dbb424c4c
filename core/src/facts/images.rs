//! How images are prepared, as timm, open_clip and transformers write it beside weights.
//!
//! Every setting is followed, refused, or printed. What is refused can be decided by the configuration,
//! where it has a field for it.

use std::path::Path;

use serde_json::Value;

use super::setting::{Images, Setting, Unfollowed};
use crate::input::{CropMode, ImageSize, Interpolation};

/// Reads the preparation of images from one file, and returns it with remarks for the user.
///
/// # Errors
/// A message with the field, for a value of another kind than its library writes.
pub(super) fn read(value: &Value, path: &Path) -> Result<(Images, Vec<String>), String> {
    let parts = ["pretrained_cfg", "preprocess_cfg", "image_processor"];
    let part = parts.into_iter().find(|part| value[*part].is_object());
    let mut reader = Reader {
        path,
        at: part.map_or(String::new(), |part| format!("{part}.")),
        own: part.map_or(value, |part| &value[part]),
        images: Images::default(),
        remarks: Vec::new(),
    };
    let marks = [
        "image_mean",
        "do_resize",
        "do_normalize",
        "do_rescale",
        "do_center_crop",
        "image_processor_type",
        "feature_extractor_type",
    ];
    match part {
        Some("preprocess_cfg") => reader.open_clip(value)?,
        _ if marks.iter().any(|mark| reader.own.get(mark).is_some()) => reader.transformers()?,
        _ => reader.timm()?,
    }
    Ok((reader.images, reader.remarks))
}

struct Reader<'a> {
    path: &'a Path,
    /// The path of the section in the file, with a dot behind it, for example `pretrained_cfg.`.
    at: String,
    own: &'a Value,
    images: Images,
    remarks: Vec<String>,
}

impl Reader<'_> {
    fn setting<T>(&self, field: &str, value: T) -> Option<Setting<T>> {
        Some(Setting {
            value,
            path: self.path.to_owned(),
            field: format!("{}{field}", self.at),
        })
    }

    fn refuse(&mut self, field: &str, why: &str, fields: &'static [&'static str]) {
        let (path, at, value) = (self.path.display(), &self.at, &self.own[field]);
        self.images.unfollowed.push(Unfollowed {
            fields,
            message: format!("{path}: {at}{field}: {why}, got {value}"),
        });
    }

    fn mean_and_std(&mut self, mean: &str, std: &str) -> Result<(), String> {
        let mean_of = channels(self.own, mean)?;
        let std_of = channels(self.own, std)?;
        if let Some(values) = std_of.filter(|values| values.contains(&0.0)) {
            return Err(format!("{std}: expected no zeros, got {values:?}"));
        }
        self.images.mean = mean_of.and_then(|value| self.setting(mean, value));
        self.images.std = std_of.and_then(|value| self.setting(std, value));
        Ok(())
    }

    fn filter(&mut self, field: &str) {
        let value = &self.own[field];
        let filter = match (value.as_str(), value.as_u64()) {
            (Some("bilinear"), _) | (_, Some(2)) => Interpolation::Bilinear,
            (Some("bicubic"), _) | (_, Some(3)) => Interpolation::Bicubic,
            (None, None) if value.is_null() => return,
            (name, number) => {
                // The names of Pillow's numbers.
                let names = [
                    "nearest", "lanczos", "bilinear", "bicubic", "box", "hamming",
                ];
                let known = number.and_then(|number| names.get(number as usize));
                let what = name.or(known.copied()).unwrap_or("another filter");
                let why = format!("expected bilinear or bicubic ({what} is not available here)");
                return self.refuse(field, &why, &["interpolation"]);
            }
        };
        self.images.interpolation = self.setting(field, filter);
    }

    fn crop(&mut self, field: &str, mode: CropMode, kept: f32) {
        self.images.crop_mode = self.setting(field, mode);
        self.images.crop_pct = self.setting(field, kept);
    }

    /// `pretrained_cfg`, whose fields stood at the top in older files.
    fn timm(&mut self) -> Result<(), String> {
        self.mean_and_std("mean", "std")?;
        self.filter("interpolation");
        let kept = part(self.own, "crop_pct")?;
        self.images.crop_pct = kept.and_then(|kept| self.setting("crop_pct", kept));
        let mode = match self.own["crop_mode"].as_str() {
            None => return Ok(()),
            Some("center") => CropMode::Center,
            Some("squash") => CropMode::Squash,
            Some(_) => {
                self.refuse("crop_mode", "expected center or squash", &["crop_mode"]);
                return Ok(());
            }
        };
        self.images.crop_mode = self.setting("crop_mode", mode);
        Ok(())
    }

    /// `preprocess_cfg`. Everything of the resized image is kept there.
    fn open_clip(&mut self, whole: &Value) -> Result<(), String> {
        self.mean_and_std("mean", "std")?;
        match self.own["interpolation"].as_str() {
            // While evaluating, random is bicubic.
            Some("random") => {
                self.images.interpolation = self.setting("interpolation", Interpolation::Bicubic);
            }
            _ => self.filter("interpolation"),
        }
        let of_timm = whole["model_cfg"]["vision_cfg"]["timm_model_name"].is_string();
        match self.own["resize_mode"].as_str() {
            // A tower of timm's has another default here.
            None if of_timm => self.crop("resize_mode", CropMode::Center, 1.0),
            None => {}
            Some("shortest") => self.crop("resize_mode", CropMode::Center, 1.0),
            Some("squash") => self.crop("resize_mode", CropMode::Squash, 1.0),
            Some(_) => {
                let why = "expected shortest or squash (images are not padded here)";
                self.refuse("resize_mode", why, &["crop_mode"]);
            }
        }
        if let Some(kept) = part(self.own, "crop_pct")? {
            self.images.crop_pct = self.setting("crop_pct", kept);
        }
        if self.own["mode"].as_str().is_some_and(|mode| mode != "RGB") {
            self.refuse("mode", "expected RGB", &[]);
        }
        match side(&self.own["size"], both) {
            Side::Both(size) => self.images.size = self.setting("size", size),
            Side::None => {}
            Side::Shortest(_) | Side::Other => {
                self.refuse("size", "expected a height and a width", &["img_size"]);
            }
        }
        Ok(())
    }

    /// The settings of transformers' image processors.
    fn transformers(&mut self) -> Result<(), String> {
        let class = ["image_processor_type", "feature_extractor_type"];
        let class = class.iter().find_map(|field| self.own[*field].as_str());
        let class = class.unwrap_or_default();
        let ends = ["ImageProcessor", "FeatureExtractor"];
        let kind = ends.iter().find_map(|end| Some(class.split_once(end)?.0));
        let kind = kind.unwrap_or_default();
        self.values()?;
        if self.is_on("do_resize") {
            self.filter("resample");
        }
        let crops = match &self.own["do_center_crop"] {
            Value::Bool(crops) => *crops,
            _ => CROPPING.contains(&kind),
        };
        self.sizes(kind, crops)?;
        for (field, value) in self.own.as_object().into_iter().flatten() {
            let known = KNOWN.contains(&field.as_str()) || field.starts_with('_');
            if known || is_off(value) {
                continue;
            }
            if REFUSED.contains(&field.as_str()) {
                self.refuse(field, "expected false, which is all that is done here", &[]);
            } else {
                self.remarks.push(format!(
                    "{}{field} {value} may change how images are prepared, and is not followed",
                    self.at
                ));
            }
        }
        Ok(())
    }

    /// Returns true if a step is done. All steps are, unless the file turns them off.
    fn is_on(&self, step: &str) -> bool {
        self.own[step].as_bool() != Some(false)
    }

    /// Mean and deviation, for values in `[0, 1]`: another scale than 1/255 is divided out.
    fn values(&mut self) -> Result<(), String> {
        let factor = match self.is_on("do_rescale") {
            false => 1.0,
            true => number(self.own, "rescale_factor")?.unwrap_or(1.0 / 255.0),
        };
        let scale = 255.0 * factor;
        let shift = f64::from(u8::from(self.own["rescale_offset"].as_bool() == Some(true)));
        let plain = (scale - 1.0).abs() < 1e-6 && shift == 0.0;
        let field = match self.is_on("do_rescale") {
            false => "do_rescale",
            true => "rescale_factor",
        };
        if self.is_on("do_normalize") {
            self.mean_and_std("image_mean", "image_std")?;
        } else {
            self.images.mean = self.setting("do_normalize", [0.0; 3]);
            self.images.std = self.setting("do_normalize", [1.0; 3]);
        }
        if plain {
            return Ok(());
        }
        let (Some(mean), Some(std)) = (&self.images.mean, &self.images.std) else {
            let why = "expected image_mean and image_std beside it";
            self.refuse(field, why, &["mean", "std"]);
            return Ok(());
        };
        let scaled = |values: [f32; 3], shift: f64| {
            values.map(|value| ((f64::from(value) + shift) / scale) as f32)
        };
        let (mean, std) = (scaled(mean.value, shift), scaled(std.value, 0.0));
        self.images.mean = self.setting(field, mean);
        self.images.std = self.setting(field, std);
        self.remarks.push(format!(
            "{}{field}: pixels are not divided by 255 there; mean {mean:?} and std {std:?} have the same \
             effect here",
            self.at
        ));
        Ok(())
    }

    /// What is resized to which size, and what is cut out of it.
    fn sizes(&mut self, kind: &str, crops: bool) -> Result<(), String> {
        const FIELDS: &[&str] = &["crop_mode", "crop_pct"];
        let kept = part(self.own, "crop_pct")?;
        let cut = match side(&self.own["crop_size"], both) {
            Side::Both(cut) if crops => Some(cut),
            Side::Shortest(cut) if crops => Some(cut.into()),
            _ if !crops => None,
            // Only `size` is written where both are the same.
            Side::None => None,
            _ => {
                self.refuse("crop_size", "expected a height and a width", FIELDS);
                return Ok(());
            }
        };
        if !self.is_on("do_resize") {
            if let Some(cut) = cut {
                let why = format!("expected true before a part of {cut} pixels is cut out");
                self.refuse("do_resize", &why, FIELDS);
                return Ok(());
            }
            self.crop("do_resize", CropMode::Center, 1.0);
            self.remarks.push(format!(
                "{}do_resize is false; images of another size than the network's are resized here",
                self.at
            ));
            return Ok(());
        }
        let of_shortest = match &self.own["default_to_square"] {
            Value::Bool(square) => !square,
            // Without the class's name a part that is cut out shows that it is not ViT's.
            _ if kind.is_empty() => crops || kept.is_some(),
            _ => SHORTEST.contains(&kind),
        };
        let one_number: fn(usize) -> Side = match of_shortest {
            true => Side::Shortest,
            false => both,
        };
        let size = side(&self.own["size"], one_number);
        let convnext = kind == "ConvNext" || kind.is_empty() && kept.is_some();
        let (field, mode, whole, used) = match (size, cut) {
            (Side::None, _) => return Ok(()),
            (Side::Other, _) => {
                let why = "expected a height and a width, or the shortest edge";
                self.refuse("size", why, &["crop_mode", "crop_pct"]);
                return Ok(());
            }
            // ConvNeXt's processor crops small images and squashes large ones.
            (Side::Shortest(size), _) if convnext && size >= 384 => {
                ("size", CropMode::Squash, size.into(), size.into())
            }
            (Side::Shortest(size), cut) if convnext || kept.is_some() => {
                // Its own default.
                let kept = kept.unwrap_or(224.0 / 256.0);
                self.crop("crop_pct", CropMode::Center, kept);
                self.images.size = self.setting("size", cut.unwrap_or(size.into()));
                return Ok(());
            }
            (Side::Both(size), None) => ("size", CropMode::Squash, size, size),
            (Side::Both(size), Some(cut)) => ("crop_size", CropMode::Squash, size, cut),
            // Here the side is resized that is shorter beside the part's, there the image's shorter one.
            (Side::Shortest(_), Some(cut)) if !cut.is_square() => {
                let why = "expected a square part of an image whose shortest edge is resized";
                self.refuse("crop_size", why, FIELDS);
                return Ok(());
            }
            (Side::Shortest(size), Some(cut)) => ("crop_size", CropMode::Center, size.into(), cut),
            (Side::Shortest(size), None) if crops => {
                ("size", CropMode::Center, size.into(), size.into())
            }
            (Side::Shortest(_), None) => {
                let why = "expected a height and a width, or a part cut out of the shortest edge";
                self.refuse("size", why, FIELDS);
                return Ok(());
            }
        };
        let inside = used.height <= whole.height && used.width <= whole.width;
        if !inside || used.height * whole.width != used.width * whole.height {
            let why = match inside {
                false => format!("at most the {whole} of size (images are not padded here)"),
                true => format!("the aspect of size ({whole})"),
            };
            self.refuse("crop_size", &format!("expected {why}"), FIELDS);
            return Ok(());
        }
        self.crop(field, mode, used.height as f32 / whole.height as f32);
        self.images.size = self.setting(field, used);
        Ok(())
    }
}

/// The processors of transformers that cut the centre out if the file does not say whether they do.
const CROPPING: [&str; 8] = [
    "CLIP",
    "ChineseCLIP",
    "Bit",
    "DeiT",
    "Levit",
    "MobileNetV1",
    "MobileNetV2",
    "PoolFormer",
];

/// Processors that read a size without a name as that of the shortest edge, not of both sides.
const SHORTEST: [&str; 9] = [
    "CLIP",
    "ChineseCLIP",
    "Bit",
    "ConvNext",
    "Levit",
    "MobileNetV1",
    "MobileNetV2",
    "PoolFormer",
    "VideoMAE",
];

/// Fields that are followed, or that leave the values of an image alone.
const KNOWN: [&str; 33] = [
    "image_mean",
    "image_std",
    "size",
    "crop_size",
    "crop_pct",
    "resample",
    "rescale_factor",
    "rescale_offset",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_reduce_labels",
    "reduce_labels",
    "default_to_square",
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "auto_map",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "image_seq_length",
    "patch_size",
    "num_channels",
    "transformers_version",
    "model_type",
    "architectures",
    "torch_dtype",
    "dtype",
];

/// Steps that are not done here.
const REFUSED: [&str; 7] = [
    "do_flip_channel_order",
    "do_pad",
    "do_thumbnail",
    "do_align_long_axis",
    "do_crop_margin",
    "do_color_quantize",
    "do_image_splitting",
];

/// A size in pixels, in the spellings of transformers.
#[derive(Clone, Copy)]
enum Side {
    None,
    /// Rows and columns.
    Both(ImageSize),
    /// The shorter side of the image.
    Shortest(usize),
    /// Anything else: the longest edge, a limit.
    Other,
}

/// One number for rows and columns.
fn both(side: usize) -> Side {
    Side::Both(side.into())
}

/// Reads a size; `one_number` says what a number without a name means.
fn side(value: &Value, one_number: fn(usize) -> Side) -> Side {
    let pixels = |value: &Value| {
        let pixels = value.as_f64().filter(|n| *n >= 1.0 && n.fract() == 0.0);
        pixels.map(|pixels| pixels as usize)
    };
    let sides = |height: &Value, width: &Value| match (pixels(height), pixels(width)) {
        (Some(height), Some(width)) => Side::Both(ImageSize::new(height, width)),
        _ => Side::Other,
    };
    match value {
        Value::Null => Side::None,
        Value::Number(_) => pixels(value).map_or(Side::Other, one_number),
        Value::Array(list) => match &list[..] {
            [size] => pixels(size).map_or(Side::Other, one_number),
            [height, width] => sides(height, width),
            _ => Side::Other,
        },
        Value::Object(named) => {
            let mut names: Vec<&str> = named.keys().map(String::as_str).collect();
            names.retain(|name| !named[*name].is_null());
            names.sort_unstable();
            match names[..] {
                ["height", "width"] => sides(&named["height"], &named["width"]),
                ["shortest_edge"] => {
                    pixels(&named["shortest_edge"]).map_or(Side::Other, Side::Shortest)
                }
                _ => Side::Other,
            }
        }
        _ => Side::Other,
    }
}

/// Returns true if a value asks for nothing.
fn is_off(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false))
}

/// Three numbers, or one for all channels.
fn channels(value: &Value, name: &str) -> Result<Option<[f32; 3]>, String> {
    let Some(list) = value.get(name).filter(|list| !list.is_null()) else {
        return Ok(None);
    };
    if let Some(number) = list.as_f64() {
        return Ok(Some([number as f32; 3]));
    }
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

#[cfg(test)]
mod tests;
