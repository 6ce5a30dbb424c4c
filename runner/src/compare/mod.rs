//! Head to head: methods on backbones and data sets under identical settings, and the report of it.

pub mod config;
pub mod execute;
pub mod fields;
pub mod manifest;
pub mod page;
pub mod plan;
pub mod print;
pub mod report;
pub mod results;
pub mod scores;
pub mod search;
pub mod standing;
pub mod statistics;
pub mod tables;
mod tune;

#[cfg(test)]
mod sample;
