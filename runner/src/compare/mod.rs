//! Head to head: methods on backbones and data sets under identical settings, and the report about them.
//!
//! A YAML becomes a [`Comparison`](config::Comparison), a [`Plan`](plan::Plan) of trials, their
//! [`Results`](results::Results), and a [`Report`](report::Report) with scores, ranks and intervals,
//! which [`print`] and [`page`] turn into text. [`run`](run::run) does everything up to the results in
//! one call.

pub mod config;
pub mod estimate;
pub mod execute;
pub mod fields;
pub mod manifest;
pub mod page;
pub mod paired;
pub mod plan;
pub mod print;
pub mod processes;
pub mod progress;
pub mod report;
pub mod results;
pub mod run;
pub mod scores;
pub mod search;
pub mod standing;
pub mod state;
pub mod statistics;
pub mod tables;
mod tune;
pub mod tuned;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
