//! What a YAML says: it is found, read, resolved and checked before anything is opened.

pub mod about;
pub mod cache;
pub mod experiment;
pub mod find;
pub mod head;
pub mod hub;
pub mod on_error;
pub mod recipe;
pub mod resolve;
pub mod stated;
