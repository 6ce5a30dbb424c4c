//! The binary cross-entropy of a batch of logits, with a backward pass that keeps their gradient.

use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

use crate::row_loss::RowLoss;

/// The mean over all logits `x` with targets `y` of `-y log s(x) - (1 - y) log(1 - s(x))`, where `s` is the
/// logistic function. Targets are a constant.
///
/// # Shapes
/// `logits`, `targets [b, classes]` `-> [1]`.
pub fn binary_cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let loss = RowLoss {
        row,
        over_logits: true,
        composed,
    };
    loss.of(logits, targets)
}

/// The loss as Burn's operations: `1 - s(x)` is `s(-x)`.
fn composed(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let shown = log_sigmoid(logits.clone()) * targets.clone();
    let absent = log_sigmoid(-logits) * (-targets + 1.0);
    -(shown + absent).mean()
}

/// The sum of the losses of a row, and `share` times its gradient `s(logits) - targets`.
fn row(logits: &[f32], targets: &[f32], share: f64, mut slopes: Option<&mut [f32]>) -> f64 {
    let mut sum = 0.0;
    for (i, (&logit, &target)) in logits.iter().zip(targets).enumerate() {
        let (x, y) = (f64::from(logit), f64::from(target));
        // `exp` of a number that is not positive does not overflow.
        let exponential = (-x.abs()).exp();
        let smaller = exponential / (1.0 + exponential);
        let probability = if x < 0.0 { smaller } else { 1.0 - smaller };
        if let Some(slopes) = &mut slopes {
            slopes[i] = ((probability - y) * share) as f32;
        }
        sum += x.max(0.0) - x * y + exponential.ln_1p();
    }
    sum
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
        binary_cross_entropy(t.get(0), t.get(1))
    }

    fn burns(t: &Tensors) -> Tensor<1> {
        composed(t.get(0), t.get(1))
    }

    fn case([b, classes]: [usize; 2], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&[b, classes], view);
        // Shares of classes, as mixup makes them.
        let targets = crate::testing::noise(b * classes, seed + 7).into_iter();
        let targets = targets.map(|value| value.abs().min(1.0)).collect();
        case.with_values(&[b, classes], targets, View::Plain)
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
    fn what_is_not_finite_stays_so() {
        let mut values = crate::testing::noise(3 * 40, 1);
        values[45] = f32::NAN;
        let case = Case::new(1).with_values(&[3, 40], values, View::Plain);
        let case = case.with(&[3, 40], View::Plain);
        same_where_not_finite(&case, op, burns);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case([50, 20], View::Plain, 5).wanting(0b01);
        same_on_any_threads(|| results(&case, op));
    }
}
