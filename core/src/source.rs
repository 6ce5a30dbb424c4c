//! Where a backbone's weights come from and which images they were trained on: the part that the
//! configurations of all families share.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::facts::{Published, Setting, Unfollowed};
use crate::input::{CropMode, InputSpec, Interpolation};

/// The fields that every family's configuration has beside its own.
///
/// In a YAML they stand directly below `backbone:`, among the family's own fields;
/// [`backbone_config!`](crate::backbone_config) puts them there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// The checkpoint, or `random`; without one the values are random too.
    pub weights: Option<WeightsFile>,
    /// The library whose parameter names the checkpoint uses, if they are not to be recognised.
    pub layout: Option<String>,
    /// Mean of each channel.
    pub mean: Option<[f32; 3]>,
    /// Standard deviation of each channel.
    pub std: Option<[f32; 3]>,
    /// How images are resized.
    pub interpolation: Option<Interpolation>,
    /// Part of the resized image that is kept, in `(0, 1]`.
    pub crop_pct: Option<f32>,
    /// What is resized.
    pub crop_mode: Option<CropMode>,
}

/// A file of weights: its path, or the path and which part of the file to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum WeightsFile {
    /// The path alone: of several sets of weights the averaged one is read, then `state_dict`, `model`.
    Path(PathBuf),
    /// The path and the part.
    Part(WeightsPart),
}

/// A part of a file of weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightsPart {
    /// The file.
    pub path: PathBuf,
    /// The key of a set of weights, for example `state_dict`; keys of nested dictionaries are joined by
    /// dots. Default: the averaged weights, as timm chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the names of the backbone's weights begin with, for example `teacher.backbone.`; other names
    /// are not read. Default: found from the names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

impl WeightsFile {
    /// Instead of a path: values that are drawn from the seed. A file of that name is `./random`.
    pub const RANDOM: &str = "random";

    /// Whether the values are drawn from the seed, and there is no file.
    pub fn is_random(&self) -> bool {
        matches!(self, Self::Path(path) if path.as_os_str() == Self::RANDOM)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Path(path) => path,
            Self::Part(part) => &part.path,
        }
    }

    /// The key of a set of weights, if one is chosen.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Path(_) => None,
            Self::Part(part) => part.key.as_deref(),
        }
    }

    /// The prefix of the names, if one is chosen.
    pub fn prefix(&self) -> Option<&str> {
        match self {
            Self::Path(_) => None,
            Self::Part(part) => part.prefix.as_deref(),
        }
    }
}

impl From<PathBuf> for WeightsFile {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&Path> for WeightsFile {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&str> for WeightsFile {
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<WeightsPart> for WeightsFile {
    fn from(part: WeightsPart) -> Self {
        Self::Part(part)
    }
}

impl<'de> Deserialize<'de> for WeightsFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        path_or::<_, _, WeightsPart>(deserializer, "a path, or a mapping of path, key and prefix")
    }
}

/// Reads a path alone, or a mapping `M` that has one among its fields; `expected` describes both for
/// messages. A derived untagged enum would answer a misspelt field without naming it.
///
/// # Errors
/// What is wrong with the mapping, or `expected` for a value of another kind.
pub fn path_or<'de, D: Deserializer<'de>, T, M>(
    deserializer: D,
    expected: &'static str,
) -> Result<T, D::Error>
where
    T: From<PathBuf> + From<M>,
    M: Deserialize<'de>,
{
    struct Visitor<T, M>(&'static str, PhantomData<(T, M)>);
    impl<'de, T: From<PathBuf> + From<M>, M: Deserialize<'de>> serde::de::Visitor<'de>
        for Visitor<T, M>
    {
        type Value = T;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<T, E> {
            Ok(PathBuf::from(path).into())
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let map = serde::de::value::MapAccessDeserializer::new(map);
            M::deserialize(map).map(T::from)
        }
    }
    deserializer.deserialize_any(Visitor::<T, M>(expected, PhantomData))
}

impl Source {
    /// The file of weights; none for random values.
    pub fn file(&self) -> Option<&WeightsFile> {
        self.weights.as_ref().filter(|file| !file.is_random())
    }

    /// How images become the backbone's input: these fields where they are given, else `default`.
    pub fn input(&self, default: InputSpec) -> InputSpec {
        InputSpec {
            size: default.size,
            mean: self.mean.unwrap_or(default.mean),
            std: self.std.unwrap_or(default.std),
            interpolation: self.interpolation.unwrap_or(default.interpolation),
            crop_pct: self.crop_pct.unwrap_or(default.crop_pct),
            crop_mode: self.crop_mode.unwrap_or(default.crop_mode),
        }
    }

    /// Takes over what the files beside the weights state where the configuration states nothing, and
    /// returns one remark for each field where they differ: the configuration's value stands.
    pub fn take(&mut self, published: &Published) -> Vec<String> {
        let images = &published.images;
        let differing = [
            filled("mean", &mut self.mean, images.mean.as_ref()),
            filled("std", &mut self.std, images.std.as_ref()),
            filled(
                "interpolation",
                &mut self.interpolation,
                images.interpolation.as_ref(),
            ),
            filled("crop_pct", &mut self.crop_pct, images.crop_pct.as_ref()),
            filled("crop_mode", &mut self.crop_mode, images.crop_mode.as_ref()),
        ];
        differing.into_iter().flatten().collect()
    }

    /// What the files beside the weights say of the preparation of images and cannot be followed, where
    /// the configuration does not say what is to be done instead; `img_size`: whether it states one.
    pub fn unfollowed(&self, published: &Published, img_size: bool) -> Vec<String> {
        let states = |field: &&str| match *field {
            "mean" => self.mean.is_some(),
            "std" => self.std.is_some(),
            "interpolation" => self.interpolation.is_some(),
            "crop_pct" => self.crop_pct.is_some(),
            "crop_mode" => self.crop_mode.is_some(),
            _ => img_size,
        };
        let open = published.images.unfollowed.iter();
        let open = open.filter(|one| one.fields.is_empty() || !one.fields.iter().all(states));
        let message = |one: &Unfollowed| match one.fields {
            [] => one.message.clone(),
            fields => {
                let (message, fields) = (&one.message, fields.join(" and "));
                format!("{message}; {fields} in the configuration of the backbone decides")
            }
        };
        open.map(message).collect()
    }
}

/// Fills an empty field with the published value, if there is one; a remark with both values if the field
/// holds another.
fn filled<T: Copy + PartialEq + std::fmt::Debug>(
    name: &str,
    field: &mut Option<T>,
    published: Option<&Setting<T>>,
) -> Option<String> {
    let Setting {
        value,
        path,
        field: theirs,
    } = published?;
    let own = *field.get_or_insert(*value);
    let remark = || {
        let of = match theirs == name {
            true => String::new(),
            false => format!(" ({theirs})"),
        };
        let path = path.display();
        format!("{name} is {own:?}, as the configuration states; {path} says {value:?}{of}")
    };
    (own != *value).then(remark)
}

/// A configuration with the fields of a [`Source`]; implemented by
/// [`backbone_config!`](crate::backbone_config).
pub trait HasSource {
    /// These fields.
    fn source(&self) -> Source;

    /// Replaces them.
    fn set_source(&mut self, source: Source);

    /// Whether the configuration has a field of this name, its own or one of these.
    fn has_field(&self, name: &str) -> bool;
}

/// Declares the configuration of a family of backbones: appends the fields of a
/// [`Source`](crate::source::Source) to the family's own and implements
/// [`HasSource`](crate::source::HasSource).
///
/// The texts under `source` complete the fields' documentation, which is also the schema's: what
/// the defaults are, which formats and names of checkpoints the family reads, and its layouts.
///
/// A macro, because the fields must stand beside the family's own in a YAML: serde's `flatten`
/// would do that too, but it cannot refuse unknown fields.
///
/// ```text
/// peft_core::backbone_config! {
///     /// A Swin Transformer.
///     #[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
///     #[serde(default, deny_unknown_fields)]
///     pub struct Swin {
///         /// Rows and columns of the image in pixels. Default 224.
///         #[serde(skip_serializing_if = "Option::is_none")]
///         pub img_size: Option<ImageSize>,
///     }
///     source {
///         mean: "ImageNet's",
///         std: "ImageNet's",
///         interpolation: "bicubic",
///         crop_pct: "0.9",
///         weights: "(safetensors, `.pth`, `.bin`) under timm's names",
///         layout: "`timm`",
///     }
/// }
/// ```
#[macro_export]
macro_rules! backbone_config {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident { $($own:tt)* }
        source {
            mean: $mean:literal,
            std: $std:literal,
            interpolation: $interpolation:literal,
            crop_pct: $crop_pct:literal,
            weights: $weights:literal,
            layout: $layout:literal $(,)?
        }
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $($own)*
            #[doc = concat!(
                "Mean of each channel that the checkpoint was trained with. Default ", $mean, "."
            )]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub mean: Option<[f32; 3]>,
            #[doc = concat!("Standard deviation of each channel. Default ", $std, ".")]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub std: Option<[f32; 3]>,
            #[doc = concat!("How images are resized. Default ", $interpolation, ".")]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub interpolation: Option<$crate::input::Interpolation>,
            #[doc = concat!(
                "Part of the resized image that is kept: images are resized to \
                 `img_size / crop_pct` and the centre is cut out. Default ",
                $crop_pct,
                "."
            )]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub crop_pct: Option<f32>,
            /// What is resized: the shorter side (`center`), or both sides to `img_size` whatever the
            /// image's aspect (`squash`). Default `center`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub crop_mode: Option<$crate::input::CropMode>,
            #[doc = concat!(
                "A checkpoint ", $weights, ": its path, or `{path, key, prefix}` to choose one of \
                 several sets of weights. With `random`, or without weights, the values are random."
            )]
            pub weights: Option<$crate::source::WeightsFile>,
            #[doc = concat!(
                "The library whose parameter names the checkpoint uses: ",
                $layout,
                ". Default: recognised by its keys."
            )]
            #[serde(skip_serializing_if = "Option::is_none")]
            pub layout: Option<String>,
        }

        impl $crate::source::HasSource for $name {
            fn source(&self) -> $crate::source::Source {
                $crate::source::Source {
                    weights: self.weights.clone(),
                    layout: self.layout.clone(),
                    mean: self.mean,
                    std: self.std,
                    interpolation: self.interpolation,
                    crop_pct: self.crop_pct,
                    crop_mode: self.crop_mode,
                }
            }

            fn set_source(&mut self, source: $crate::source::Source) {
                // Names every field, so that a new one cannot be forgotten here.
                let $crate::source::Source {
                    weights,
                    layout,
                    mean,
                    std,
                    interpolation,
                    crop_pct,
                    crop_mode,
                } = source;
                self.weights = weights;
                self.layout = layout;
                self.mean = mean;
                self.std = std;
                self.interpolation = interpolation;
                self.crop_pct = crop_pct;
                self.crop_mode = crop_mode;
            }

            fn has_field(&self, name: &str) -> bool {
                let schema = $crate::schemars::schema_for!($name);
                let fields = schema.get("properties");
                fields.is_some_and(|fields| fields.get(name).is_some())
            }
        }
    };
}

#[cfg(test)]
mod tests;
