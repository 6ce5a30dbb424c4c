//! A row of the table of studies.

use crate::exit::Failure;
use crate::study::outcome::Outcome;
use crate::study::request::Request;

/// A study.
pub struct Study {
    /// Its name on the command line.
    pub name: &'static str,
    /// The subject in one sentence without a full stop.
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
