//! Compares the values that a device computed with expected ones.

use serde::{Deserialize, Serialize};

use crate::device::ComputeDevice;

/// The largest relative error of `f32` that passes on the CPU.
pub const TOLERANCE: f32 = 1e-4;
/// The largest relative error that passes on other devices: Burn multiplies `f32` matrices in TF32 on
/// tensor cores, whose 10 bits of mantissa leave an error of 5e-4 in each product.
const TOLERANCE_TF32: f32 = 1e-2;

/// The largest relative error that passes on a device.
pub fn tolerance(device: &ComputeDevice) -> f32 {
    if device.is_cpu() {
        TOLERANCE
    } else {
        TOLERANCE_TF32
    }
}

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// Within the tolerance.
    Pass { max_relative_error: f32 },
    /// Beyond the tolerance, not finite, or a panic.
    Fail { reason: String },
    /// The method does not act on this backbone.
    Refused { reason: String },
}

/// Tensors by name.
pub type Named = Vec<(String, Vec<f32>)>;

/// A tensor's name, the values that a device computed, and the expected ones.
pub struct Pair {
    pub name: String,
    pub got: Vec<f32>,
    pub expected: Vec<f32>,
}

/// Puts two lists of tensors side by side.
///
/// # Errors
/// If they do not hold the same tensors in the same order.
pub fn pair(got: Named, expected: Named) -> Result<Vec<Pair>, String> {
    let names =
        |values: &Named| -> Vec<String> { values.iter().map(|(name, _)| name.clone()).collect() };
    let (ours, theirs) = (names(&got), names(&expected));
    if ours != theirs {
        return Err(format!(
            "expected {}, got {}",
            theirs.join(", "),
            ours.join(", ")
        ));
    }
    let pairs = got.into_iter().zip(expected);
    Ok(pairs
        .map(|((name, got), (_, expected))| Pair {
            name,
            got,
            expected,
        })
        .collect())
}

/// The largest error of each tensor, divided by its largest expected value, or what is wrong with it beyond
/// that: another number of values than expected, or one that is not finite.
///
/// A tensor that is far smaller than the largest one of all holds mostly rounding noise; its error is
/// divided by a thousandth of that one's largest value instead.
pub fn errors(pairs: &[Pair]) -> Vec<Result<f32, String>> {
    let largest = |values: &[f32]| values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let all = pairs.iter().map(|pair| largest(&pair.expected));
    let floor = 1e-3 * all.fold(0.0, f32::max);
    let error = |pair: &Pair| {
        let Pair {
            name,
            got,
            expected,
        } = pair;
        if got.len() != expected.len() {
            let (expected, got) = (expected.len(), got.len());
            return Err(format!("{name}: expected {expected} values, got {got}"));
        }
        // `max` drops NaN, so a tensor of NaN would pass below.
        if !got.iter().chain(expected).all(|value| value.is_finite()) {
            return Err(format!("{name}: not finite"));
        }
        let difference: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
        Ok(largest(&difference) / largest(expected).max(floor).max(f32::MIN_POSITIVE))
    };
    pairs.iter().map(error).collect()
}

/// Compares the largest of all [`errors`] with the tolerance.
pub fn judge(pairs: &[Pair], tolerance: f32) -> Outcome {
    let errors: Result<Vec<f32>, String> = errors(pairs).into_iter().collect();
    let errors = match errors {
        Ok(errors) => errors,
        Err(reason) => return Outcome::Fail { reason },
    };
    let worst = errors
        .iter()
        .zip(pairs)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match worst {
        Some((error, pair)) if *error > tolerance => Outcome::Fail {
            reason: format!("{}: relative error {error:.1e}", pair.name),
        },
        worst => Outcome::Pass {
            max_relative_error: worst.map_or(0.0, |(error, _)| *error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(got: f32, expected: f32) -> Outcome {
        let pair = Pair {
            name: "x".to_owned(),
            got: vec![got, 2.0],
            expected: vec![expected, 2.0],
        };
        judge(&[pair], TOLERANCE)
    }

    #[test]
    fn errors_are_relative_and_what_is_not_finite_fails() {
        let exact = Outcome::Pass {
            max_relative_error: 0.0,
        };
        assert_eq!(outcome(1.0, 1.0), exact);
        assert!(matches!(outcome(1.0, 1.01), Outcome::Fail { .. }));
        assert!(matches!(outcome(f32::NAN, f32::NAN), Outcome::Fail { .. }));
        // Twice the tolerance of the largest value, and half of it.
        assert!(matches!(outcome(1.0, 1.0004), Outcome::Fail { .. }));
        assert!(matches!(outcome(1.0, 1.0001), Outcome::Pass { .. }));
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let named = |name: &str| vec![(name.to_owned(), vec![0.0])];
        let error = pair(named("a"), named("b")).err().unwrap();
        assert_eq!(error, "expected b, got a");
    }
}
