//! What a YAML describes, opened: a backbone with its weights, a model to use, a trial to train.

pub mod adapter;
pub mod assembled;
pub mod base;
pub mod card;
pub mod classes;
pub mod export;
mod hash;
pub mod head;
pub mod label_map;
pub mod parts;
pub mod pytorch;
mod task;
pub mod trial;
pub mod workshop;
