//! What a YAML describes, opened: backbone, adapter, head, and the trial that trains them.

pub mod adapter;
pub mod base;
pub mod trial;
pub mod workshop;
