//! Figures of studies as SVG, drawn with the marks and frames of the reports.

pub mod heat;
pub mod lines;
