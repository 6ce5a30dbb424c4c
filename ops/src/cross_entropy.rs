//! The softmax cross-entropy of a batch, with a backward pass that keeps the gradient of the logits.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use crate::cube;
use crate::math::sum_of;
use crate::row_loss::RowLoss;

/// The mean over rows of `-sum_j targets_j log(softmax(logits)_j)`. Targets are a constant.
///
/// # Shapes
/// `logits`, `targets [b, classes]` `-> [1]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let loss = RowLoss {
        row,
        over_logits: false,
        composed: elsewhere,
    };
    loss.of(logits, targets)
}

/// The loss on other devices than the CPU.
fn elsewhere(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let inputs = [logits.into_dispatch(), targets.into_dispatch()];
    cube::cross_entropy(inputs).unwrap_or_else(|inputs| {
        let [logits, targets] = inputs.map(Tensor::from_dispatch);
        composed(logits, targets)
    })
}

/// The loss as Burn's operations.
fn composed(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    -(log_softmax(logits, 1) * targets).sum_dim(1).mean()
}

/// The cross-entropy of a row, and `share` times its gradient `softmax(logits) sum(targets) - targets`.
fn row(logits: &[f32], targets: &[f32], share: f64, slopes: Option<&mut [f32]>) -> f64 {
    // `largest` drops NaN, but the sum keeps it.
    let largest = f64::from(crate::math::largest(logits));
    let exponential = |logit: f32| (f64::from(logit) - largest).exp();
    let sum: f64 = logits.iter().map(|&logit| exponential(logit)).sum();
    let weight = sum_of([targets], |sum: f64, [target]| sum + target);
    for ((slope, &logit), &target) in slopes.into_iter().flatten().zip(logits).zip(targets) {
        let probability = exponential(logit) / sum;
        *slope = ((probability * weight - f64::from(target)) * share) as f32;
    }
    let log_sum = sum.ln();
    let picked = logits.iter().zip(targets);
    picked
        .map(|(&logit, &target)| (log_sum - (f64::from(logit) - largest)) * f64::from(target))
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        Case, Tensors, View, cases, compare, results, same_on_any_threads, same_where_not_finite,
        views,
    };

    fn op(t: &Tensors) -> Tensor<1> {
        cross_entropy(t.get(0), t.get(1))
    }

    fn burns(t: &Tensors) -> Tensor<1> {
        composed(t.get(0), t.get(1))
    }

    fn case([b, classes]: [usize; 2], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&[b, classes], view);
        // Positive, as probabilities are: with both signs, the terms of the loss would cancel.
        let targets = crate::testing::noise(b * classes, seed + 7).into_iter();
        case.with_values(&[b, classes], targets.map(f32::abs).collect(), View::Plain)
    }

    proptest! {
        // A loss is one value: each case is drawn some hundred times.
        #![proptest_config(cases(8))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..20, classes in 1usize..200, view in views(), seed in 1u32..1000,
        ) {
            compare(&case([b, classes], view, seed).wanting(0b01), op, burns);
        }
    }

    #[test]
    fn large_logits_are_as_close() {
        let case = Case::new(3).with(&[4, 9], View::Plain).times(1e3);
        compare(&case.with(&[4, 9], View::Plain).wanting(0b01), op, burns);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for value in [f32::NAN, f32::INFINITY] {
            let mut values = crate::testing::noise(3 * 40, 1);
            values[45] = value;
            let case = Case::new(1).with_values(&[3, 40], values, View::Plain);
            let case = case.with(&[3, 40], View::Plain);
            same_where_not_finite(&case, op, burns);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case([50, 20], View::Plain, 5).wanting(0b01);
        same_on_any_threads(|| results(&case, op));
    }
}
