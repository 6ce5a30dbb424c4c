//! The paper's studies: each computes what a claim speaks of and judges it by a stated rule.
//!
//! A study is one file or folder and one row of [`STUDIES`]. It reads its settings from a [`Request`](request::Request)
//! and returns an [`Outcome`](outcome::Outcome): claims with verdicts, numbers, tables and figures. What trains is a
//! comparison underneath. All statistics are in double precision, and a study is a function of its settings.

pub mod claim;
pub mod components;
pub mod entry;
pub mod figure;
pub mod outcome;
pub mod page;
pub mod print;
pub mod request;
pub mod statistics;
pub mod table;
pub mod trained;

mod attention_distance;
mod cka;
mod compact;
mod efficiency;
mod label_mapping;
mod layer_sweep;
mod prop1;
mod samples;
mod theory;

pub use entry::Study;

/// All studies.
pub static STUDIES: &[Study] = &[
    layer_sweep::STUDY,
    samples::STUDY,
    cka::STUDY,
    attention_distance::STUDY,
    theory::STUDY,
    prop1::STUDY,
    compact::STUDY,
    efficiency::STUDY,
    label_mapping::STUDY,
];

/// The study of that name.
pub fn find(name: &str) -> Option<&'static Study> {
    STUDIES.iter().find(|study| study.name == name)
}
