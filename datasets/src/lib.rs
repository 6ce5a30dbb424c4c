//! Data sets for comparing PEFT methods on vision backbones: a bundled one, procedural ones and
//! the formats that people have on disk.
//!
//! Each is a plugin: a [`DatasetConfig`](peft_core::DatasetConfig) that opens as a
//! [`Dataset`](peft_core::Dataset). [`Preprocess`] turns the [`Image`](peft_core::data::Image) of a
//! sample into what a backbone sees, [`Augment`] changes it at random on the way; [`decode`] reads
//! one from a file. Nothing is downloaded, and nothing is written.

pub mod augment;
mod decode;
mod digits;
mod error;
mod files;
mod formats;
mod indexed;
mod labels;
mod procedural;
mod python_random;
mod shards;
mod split;
mod transform;

pub use crate::augment::Augment;
pub use crate::decode::decode;
pub use crate::digits::Digits;
pub use crate::error::Error;
pub use crate::formats::*;
pub use crate::procedural::{
    Fundus, Scenes, ScenesTask, Shapes, Sprites, SpritesTask, Terrain, Textures,
};
pub use crate::transform::Preprocess;
