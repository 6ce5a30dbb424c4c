//! Tools for tests of plugins: the conformance suite that every method passes on every backbone it
//! accepts, golden values made with a reference library, and tiny models.
//!
//! It is a development dependency; no released crate contains it.

mod conformance;
mod folders;
mod golden;
mod modern;
mod tiny;

pub use conformance::{Verdict, conforms};
pub use folders::{check_folder, refusal, theirs};
pub use golden::{
    FIXTURES, Golden, HfPeftCase, Reference, assert_close, check_hf_peft, exported, read_hf_peft,
};
pub use modern::{Modern, check_modern_hf_peft};
pub use tiny::{built, config, resnet, tiny, tiny_backbones, vit};
