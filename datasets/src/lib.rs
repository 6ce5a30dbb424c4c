//! Data sets for comparing PEFT methods on vision backbones: a bundled one, procedural ones and
//! folders of images.
//!
//! [`Digits`], [`Folder`] and the procedural sets are plugins, each a
//! [`DatasetConfig`](peft_core::DatasetConfig) that opens as a [`Dataset`](peft_core::Dataset).
//! [`Preprocess`] turns the [`Image`](peft_core::data::Image) of a sample into what a backbone
//! sees; [`decode`] reads one from a file.

mod decode;
mod digits;
mod error;
mod folder;
mod procedural;
mod split;
mod transform;

pub use crate::decode::decode;
pub use crate::digits::Digits;
pub use crate::error::Error;
pub use crate::folder::Folder;
pub use crate::procedural::{
    Fundus, Scenes, ScenesTask, Shapes, Sprites, SpritesTask, Terrain, Textures,
};
pub use crate::transform::Preprocess;
