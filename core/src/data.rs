//! Data sets as the runner sees them: labelled images in three fixed splits.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::input::InputSpec;

/// The configuration of a data set; the `dataset:` of a YAML.
#[typetag::serde(tag = "name")]
pub trait DatasetConfig: Debug + Send + Sync + dyn_clone::DynClone {
    /// Opens the data set: classes, sizes and labels are known afterwards, images are read one by
    /// one.
    ///
    /// # Errors
    /// A missing path, an empty split or class, or a bad record; the message names it.
    fn open(&self) -> Result<Box<dyn Dataset>>;

    /// Returns the input with the changes that the protocol of the data set makes to what the
    /// backbone expects: VTAB-1k resizes without a crop, for example. By default the crop of the
    /// backbone is used.
    fn input(&self, backbone: InputSpec) -> InputSpec {
        backbone
    }

    /// The paths in the YAML, so that the runner can resolve them.
    fn paths_mut(&mut self) -> Vec<&mut std::path::PathBuf> {
        Vec::new()
    }
}

dyn_clone::clone_trait_object!(DatasetConfig);

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
    /// If there is no such record.
    fn label(&self, split: Split, index: usize) -> Result<usize>;

    /// The image at `index < len(split)`. Any number of threads may call this, in any order.
    ///
    /// # Errors
    /// If this one image cannot be read; the message names its file, and its line or row. The other
    /// images are not affected, so a caller may count it and go on without it.
    fn image(&self, split: Split, index: usize) -> Result<Image>;

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
