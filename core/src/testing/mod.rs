//! Tools for tests of plugins: golden values, and the conformance suite that every method passes on
//! every backbone it accepts.

mod conformance;
mod golden;

pub use conformance::{Verdict, conforms, tiny_backbones};
pub use golden::{Golden, Reference, assert_close, check_hf_peft};
