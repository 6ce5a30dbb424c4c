//! A method in the study of costs.

use crate::study::trained::plan::Count;

/// A method on a backbone, with its costs.
pub struct Row {
    pub backbone: String,
    pub label: String,
    pub cnn: bool,
    /// The width of what the head reads.
    pub features: usize,
    pub count: Count,
    pub measured: Option<Measured>,
}

/// The measured costs of a row.
pub struct Measured {
    pub peak: usize,
    pub kept: usize,
    pub optimizer: usize,
    /// Seconds of each timed step.
    pub steps: Vec<f64>,
    pub seconds_per_epoch: f64,
    pub images_per_second: f64,
}
