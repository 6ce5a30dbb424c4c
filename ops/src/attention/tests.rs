//! Attention against Burn's operations, in `f32` and in `f64`.

use proptest::prelude::*;

use super::*;
use crate::testing::{
    Case, Tensors, View, cases, compare, noise, results, same_on_any_threads,
    same_where_not_finite, views,
};

/// `[b, n, 3 h w]`.
fn case([b, n, h, w]: [usize; 4], view: View, seed: u32) -> Case {
    Case::new(seed).with(&[b, n, 3 * h * w], view)
}

/// With a bias for each of the windows, in which some pairs are masked.
fn biased([images, windows, n, h, w]: [usize; 5], view: View, seed: u32) -> Case {
    let mut bias = noise(windows * h * n * n, seed + 7);
    for masked in bias.iter_mut().skip(1).step_by(5) {
        *masked = -100.0;
    }
    let case = case([images * windows, n, h, w], view, seed);
    case.with_values(&[windows, h, n, n], bias, View::Plain)
}

fn op(heads: usize) -> impl Fn(&Tensors) -> Tensor<3> + Sync {
    move |t| attention(t.get(0), heads)
}

fn burns(heads: usize) -> impl Fn(&Tensors) -> Tensor<3> {
    move |t| composed(t.get(0), heads, None)
}

fn op_with_bias(t: &Tensors) -> Tensor<3> {
    attention_with_bias(t.get(0), t.get(1))
}

fn burns_with_bias(t: &Tensors) -> Tensor<3> {
    let bias = t.get::<4>(1);
    let heads = bias.dims()[1];
    composed(t.get(0), heads, Some(bias))
}

proptest! {
    #![proptest_config(cases(32))]
    #[test]
    fn values_and_gradients_agree_with_f64(
        b in 1usize..4, n in 1usize..70, h in 1usize..4, w in 1usize..20, wanted in 0u32..2,
        view in views(), seed in 1u32..1000,
    ) {
        compare(&case([b, n, h, w], view, seed).wanting(wanted), op(h), burns(h));
    }

    #[test]
    fn with_a_bias_values_and_gradients_agree_with_f64(
        images in 1usize..4, windows in 1usize..4, n in 1usize..50, h in 1usize..4,
        w in 1usize..20, wanted in 0u32..4, view in views(), seed in 1u32..1000,
    ) {
        let case = biased([images, windows, n, h, w], view, seed).wanting(wanted);
        compare(&case, op_with_bias, burns_with_bias);
    }
}

#[test]
fn several_images_share_a_task() {
    let (windows, heads) = (40, 3);
    assert_eq!(TASKS / (windows * heads), 2);
    let case = biased([5, windows, 3, heads, 2], View::Plain, 7);
    compare(&case, op_with_bias, burns_with_bias);
}

#[test]
fn large_scores_are_as_close() {
    let case = case([2, 9, 2, 8], View::Plain, 3).times(30.0);
    compare(&case, op(2), burns(2));
}

#[test]
fn what_is_empty_or_not_finite_stays_so() {
    for size in [[0, 5, 2, 3], [2, 0, 2, 3]] {
        let case = case(size, View::Plain, 1).wanting(0);
        assert!(results(&case, op(2))[0].1.is_empty());
    }
    for value in [f32::NAN, f32::INFINITY] {
        let mut values = noise(2 * 6 * 12, 1);
        values[30] = value;
        let case = Case::new(1).with_values(&[2, 6, 12], values, View::Plain);
        same_where_not_finite(&case, op(2), burns(2));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let case = case([3, 40, 2, 8], View::Plain, 5);
    same_on_any_threads(|| results(&case, op(2)));
    let case = biased([9, 4, 10, 2, 8], View::Plain, 5);
    same_on_any_threads(|| results(&case, op_with_bias));
}
