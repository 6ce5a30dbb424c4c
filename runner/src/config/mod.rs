//! The content of a YAML: found, read, resolved and checked before anything is opened.

pub mod about;
pub mod cache;
pub mod error;
pub mod experiment;
pub mod find;
pub mod head;
pub mod on_error;
pub mod part;
pub mod recipe;
pub mod resolve;
pub mod set;
pub mod sources;
pub mod start;
pub mod stated;
