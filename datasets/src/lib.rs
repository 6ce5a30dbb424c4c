//! Data sets for comparing PEFT methods on vision backbones: one that is bundled, several that are
//! drawn, and the file formats in common use.
//!
//! Each is a plugin: a [`DatasetConfig`](peft_core::DatasetConfig) that opens as a
//! [`Dataset`](peft_core::Dataset). [`decode`] reads an [`Image`](peft_core::data::Image) from a
//! file, [`Preprocess`] turns it into the input of a backbone, and [`Augment`] changes it at random
//! on the way. Nothing is downloaded, and nothing is written.

pub mod augment;
mod decode;
mod digits;
mod error;
mod files;
mod formats;
mod indexed;
mod kinds;
mod label_sets;
mod labels;
mod orientation;
mod procedural;
mod python_random;
mod shards;
mod split;
mod storage;
mod text;
mod tiff;
mod transform;

pub use crate::augment::Augment;
pub use crate::decode::decode;
pub use crate::digits::Digits;
pub use crate::error::Error;
pub use crate::formats::*;
pub use crate::labels::OnStray;
pub use crate::procedural::{
    Fundus, Scenes, ScenesTask, Shapes, Sprites, SpritesTask, Terrain, Textures,
};
pub use crate::storage::Exif;
pub use crate::transform::Preprocess;
