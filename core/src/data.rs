//! Data sets as the runner sees them: labelled images in three fixed splits.

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::input::{CropMode, InputSpec, Interpolation};

/// The configuration of a data set; the `dataset:` of a YAML.
#[typetag::serde(tag = "name")]
pub trait DatasetConfig: Debug + Send + Sync + dyn_clone::DynClone {
    /// Opens the data set: classes, sizes and labels are known afterwards, images are read one by
    /// one.
    ///
    /// # Errors
    /// A missing path, an empty split or class, or a bad record; the message names it.
    fn open(&self) -> Result<Box<dyn Dataset>>;

    /// How the protocol of the format resizes images: VTAB-1k resizes without a crop, for example.
    /// By default as the backbone expects it.
    fn protocol(&self) -> Transform {
        Transform::default()
    }

    /// How images are resized: as the configuration states, else as the protocol of the format does.
    fn transform(&self) -> Transform {
        self.protocol()
    }

    /// States how images are resized.
    fn set_transform(&mut self, _transform: Transform) {}

    /// The part of the training split that is used; none for all of it.
    ///
    /// # Errors
    /// A field outside of its range.
    fn subset(&self) -> Result<Option<Subset>> {
        Ok(None)
    }

    /// The paths in the YAML, so that the runner can resolve them.
    fn paths_mut(&mut self) -> Vec<&mut std::path::PathBuf> {
        Vec::new()
    }
}

dyn_clone::clone_trait_object!(DatasetConfig);

/// How images are resized under the protocol of a data set. What is absent is as the backbone
/// expects it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Transform {
    /// What is resized: the shorter side (`center`), or both sides to the backbone's size, whatever the
    /// aspect of the image (`squash`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_mode: Option<CropMode>,
    /// Part of the resized image that is kept, in (0, 1]: images are resized to the backbone's size
    /// divided by it, and the centre is cut out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_pct: Option<f32>,
    /// The filter of the resize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
}

impl Transform {
    /// The whole image, whatever its aspect: VTAB's.
    pub const SQUASH: Self = Self {
        crop_mode: Some(CropMode::Squash),
        crop_pct: Some(1.0),
        interpolation: None,
    };

    /// Returns true if no field is stated.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Fills the fields that are absent from `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            crop_mode: self.crop_mode.or(other.crop_mode),
            crop_pct: self.crop_pct.or(other.crop_pct),
            interpolation: self.interpolation.or(other.interpolation),
        }
    }

    /// The input of a backbone under this protocol.
    pub fn over(self, backbone: InputSpec) -> InputSpec {
        InputSpec {
            crop_mode: self.crop_mode.unwrap_or(backbone.crop_mode),
            crop_pct: self.crop_pct.unwrap_or(backbone.crop_pct),
            interpolation: self.interpolation.unwrap_or(backbone.interpolation),
            ..backbone
        }
    }

    /// The names of the fields that are stated.
    pub fn stated(&self) -> Vec<&'static str> {
        let fields = [
            ("crop_mode", self.crop_mode.is_some()),
            ("crop_pct", self.crop_pct.is_some()),
            ("interpolation", self.interpolation.is_some()),
        ];
        let stated = fields.into_iter().filter(|(_, stated)| *stated);
        stated.map(|(name, _)| name).collect()
    }
}

/// A part of the training split. The images are drawn from the experiment's seed; a smaller part lies
/// in a larger one of the same seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// So many images, shared out over the classes as evenly as they allow.
    Images(usize),
    /// So many images of each class, or all of a class that has fewer.
    Shots(usize),
}

impl Subset {
    /// The part that the fields `train_images` and `shots` state.
    ///
    /// # Errors
    /// Both, or a number below 1.
    pub fn of(train_images: Option<usize>, shots: Option<usize>) -> Result<Option<Self>> {
        match (train_images, shots) {
            (None, None) => Ok(None),
            (Some(0), _) => Err(Error::config("train_images", "expected at least 1, got 0")),
            (_, Some(0)) => Err(Error::config("shots", "expected at least 1, got 0")),
            (Some(images), None) => Ok(Some(Self::Images(images))),
            (None, Some(shots)) => Ok(Some(Self::Shots(shots))),
            (Some(_), Some(_)) => Err(Error::config(
                "shots",
                "expected either train_images or shots, got both",
            )),
        }
    }
}

/// Declares the configuration of a data set: appends the fields that every data set has, `transform`,
/// `train_images` and `shots`, to its own. [`protocol_methods!`](crate::protocol_methods) answers with
/// them.
///
/// A macro, because the fields must stand beside the others in a YAML: serde's `flatten` would do that
/// too, but it cannot refuse unknown fields.
#[macro_export]
macro_rules! dataset_config {
    (
        $(#[$attribute:meta])*
        pub struct $name:ident { $($own:tt)* }
    ) => {
        $(#[$attribute])*
        pub struct $name {
            $($own)*
            /// How images are resized under the data set's protocol. What is absent is as the backbone
            /// expects it.
            #[serde(default, skip_serializing_if = "peft_core::data::Transform::is_empty")]
            pub transform: $crate::data::Transform,
            /// Number of training images: at least 1, by default all. They are drawn from the
            /// experiment's seed, as evenly over the classes as these allow. Validation and test stay
            /// whole.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub train_images: Option<usize>,
            /// Number of training images in each class: at least 1, by default all. They are drawn from
            /// the experiment's seed; a class that has fewer keeps them all. Validation and test stay
            /// whole.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub shots: Option<usize>,
        }
    };
}

/// The methods of a [`DatasetConfig`] whose fields [`dataset_config!`](crate::dataset_config) declared.
/// `protocol` is how the format resizes images; `own_shots` says of a configuration whether the format
/// draws `shots` itself.
#[macro_export]
macro_rules! protocol_methods {
    ($(protocol: $protocol:expr,)? $(own_shots: $own_shots:expr,)?) => {
        $(fn protocol(&self) -> $crate::data::Transform {
            $protocol
        })?

        fn transform(&self) -> $crate::data::Transform {
            self.transform.or(self.protocol())
        }

        fn set_transform(&mut self, transform: $crate::data::Transform) {
            self.transform = transform;
        }

        fn subset(&self) -> $crate::Result<Option<$crate::data::Subset>> {
            let drawn = false $(|| ($own_shots)(self))?;
            let shots = self.shots.filter(|_| !drawn);
            $crate::data::Subset::of(self.train_images, shots)
        }
    };
}

/// Labelled images in three splits, in a fixed order.
pub trait Dataset: Send + Sync {
    /// The classes' names; a label is an index into them.
    fn classes(&self) -> &[String];

    /// Number of images of a split.
    fn len(&self, split: Split) -> usize;

    /// Whether a split has no image.
    fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// The label at `index < len(split)`, below the number of classes; the image is not read.
    ///
    /// # Errors
    /// If there is no such record, or the set [has several labels per image](Self::is_multi_label).
    fn label(&self, split: Split, index: usize) -> Result<usize>;

    /// Returns whether an image may show several classes, or none. Otherwise each image shows one.
    fn is_multi_label(&self) -> bool {
        false
    }

    /// All labels at `index < len(split)`, ascending and below the number of classes; the image is not
    /// read. By default the one [`label`](Self::label).
    ///
    /// # Errors
    /// If there is no such record.
    fn labels(&self, split: Split, index: usize) -> Result<Vec<usize>> {
        Ok(vec![self.label(split, index)?])
    }

    /// The image at `index < len(split)`. Any number of threads may call this, in any order.
    ///
    /// # Errors
    /// If this one image cannot be read; the message names its file, and its line or row. The other
    /// images are not affected, so a caller may count it and go on without it.
    fn image(&self, split: Split, index: usize) -> Result<Image>;

    /// The name of the image at `index < len(split)` in messages and tables: its file, with the line or
    /// row. By default its split and index.
    fn name(&self, split: Split, index: usize) -> String {
        format!("{split}/{index}")
    }

    /// The image and label at `index < len(split)`.
    ///
    /// # Errors
    /// See [`image`](Self::image).
    fn sample(&self, split: Split, index: usize) -> Result<Sample> {
        Ok(Sample {
            image: self.image(split, index)?,
            label: self.label(split, index)?,
        })
    }

    /// Describes what is special about how an image is stored, if it bears on its pixels; nothing
    /// for plain 8-bit RGB. Reads the encoded image.
    ///
    /// # Errors
    /// If the bytes of this image cannot be read.
    fn storage(&self, _split: Split, _index: usize) -> Result<Vec<Storage>> {
        Ok(Vec::new())
    }

    /// The groups by which accuracy is also reported (class and background, for example); empty if
    /// the data set has none.
    fn groups(&self) -> &[String] {
        &[]
    }

    /// The group at `index < len(split)`, an index into [`groups`](Self::groups); none if the data
    /// set has no groups.
    ///
    /// # Errors
    /// If there is no such record.
    fn group(&self, _split: Split, _index: usize) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Facts that a reader of the results should know: a class without training images, a split that
    /// is part of another.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// A hash of the content: with a changed file an experiment is a different one.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn fingerprint(&self) -> Result<String>;
}

/// A part of a data set. The test split is read once, after every choice has been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The images that gradients are computed from.
    Train,
    /// The images that choices are made on.
    Validation,
    /// The images of the final result.
    Test,
}

impl Split {
    /// All three splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// A property of a stored image that is lost when it becomes 8-bit RGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Storage {
    /// The property: `16-bit greyscale`, for example.
    pub what: &'static str,
    /// The way in which reading converts it.
    pub done: &'static str,
}

/// An image and its label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The pixels.
    pub image: Image,
    /// Index of its class.
    pub label: usize,
}

/// An image of interleaved 8-bit RGB pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` values, row by row.
    pub rgb: Vec<u8>,
}

impl Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} x {})", self.width, self.height)
    }
}
