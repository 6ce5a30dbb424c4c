//! The paper's studies: each computes what a claim speaks of and judges it by a stated rule.
//!
//! A study is one file or folder and one row of [`STUDIES`]. It reads its settings from a [`Request`](request::Request)
//! and returns an [`Outcome`](outcome::Outcome): claims with verdicts, numbers, tables and figures. What trains is a
//! comparison underneath. All statistics are in double precision, and a study is a function of its settings.

pub mod claim;
pub mod components;
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

use outcome::Outcome;
use request::Request;

use crate::exit::Failure;

/// A study.
pub struct Study {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is about, in one sentence without a full stop.
    pub summary: &'static str,
    /// Its place in the paper.
    pub source: &'static str,
    /// The flags of files that it takes in the place of its own data.
    pub files: &'static [&'static str],
    /// The shipped configuration that is used where none is given.
    pub config: Option<&'static str>,
    /// Carries it out.
    pub run: fn(&Request) -> Result<Outcome, Failure>,
}

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
