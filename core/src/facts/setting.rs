//! The preparation of images, setting by setting.

use std::path::PathBuf;

use crate::input::{CropMode, ImageSize, Interpolation};

/// The preparation of images, as far as files state it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Images {
    pub mean: Option<Setting<[f32; 3]>>,
    pub std: Option<Setting<[f32; 3]>>,
    pub interpolation: Option<Setting<Interpolation>>,
    pub crop_pct: Option<Setting<f32>>,
    pub crop_mode: Option<Setting<CropMode>>,
    /// Rows and columns of the prepared image.
    pub size: Option<Setting<ImageSize>>,
    /// Settings that cannot be followed. Each is an error unless the configuration states a value of its own.
    pub unfollowed: Vec<Unfollowed>,
}

/// A value, and what a file calls it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting<T> {
    pub value: T,
    pub path: PathBuf,
    pub field: String,
}

/// A setting that cannot be followed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unfollowed {
    /// The fields of a configuration that replace it; none if nothing does.
    pub fields: &'static [&'static str],
    /// The path, the file's field and why.
    pub message: String,
}
