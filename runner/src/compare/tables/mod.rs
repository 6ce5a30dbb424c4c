//! The tables of a report: each is built once, by [`super::report`], and printed by [`super::print`].

pub mod accuracy;
pub mod choices;
pub mod cost;
pub mod published;
pub mod table;
pub mod versus;

#[cfg(test)]
mod tests;
