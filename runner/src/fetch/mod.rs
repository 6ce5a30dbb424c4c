//! Fetching of files: weights from a hub, and data sets from where their makers keep them.
//!
//! A file is written beside its place under another name, and renamed once its size and its checksum
//! are right. Whatever ends a fetch early, a signal or a full disk, leaves no file that could be taken
//! for a whole one, and the next fetch goes on where it ended.

pub mod address;
pub mod client;
pub mod data;
pub mod digest;
pub mod file;
pub mod hub;
pub mod offline;
pub mod progress;
pub mod room;
pub mod unpack;
