//! Means, standard deviations, and the normal distribution.

use std::f64::consts::SQRT_2;

use statrs::function::erf::{erfc, erfc_inv};

/// The mean; none if there are no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sample standard deviation (over `n - 1`); none for fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let (mean, count) = (mean(values)?, values.len());
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (count > 1).then(|| (squares / (count - 1) as f64).sqrt())
}

/// The standard normal distribution function.
pub fn normal(z: f64) -> f64 {
    0.5 * erfc(-z / SQRT_2)
}

/// The inverse of [`normal`]: the value below which `share` of the distribution lies.
pub fn normal_quantile(share: f64) -> f64 {
    -SQRT_2 * erfc_inv(2.0 * share)
}
