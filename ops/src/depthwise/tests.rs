use burn::tensor::module;
use proptest::prelude::*;

use super::*;
use crate::Level;
use crate::testing::{
    Case, Tensors, View, at_level, cases, compare, results, same_on_any_threads,
    same_where_not_finite, views,
};

fn op(t: &Tensors, padding: [usize; 2]) -> Tensor<4> {
    depthwise_conv2d(t.get(0), t.get(1), Some(t.get(2)), padding)
}

/// Burn's convolution of the same maps with their channels first.
fn burns(t: &Tensors, padding: [usize; 2]) -> Tensor<4> {
    let weight: Tensor<4> = t.get(1);
    let options = ConvOptions::new([1, 1], padding, [1, 1], weight.dims()[0]);
    let x = t.get::<4>(0).permute([0, 3, 1, 2]);
    module::conv2d(x, weight, Some(t.get(2)), options).permute([0, 2, 3, 1])
}

fn case(x: [usize; 4], [down, across]: [usize; 2], view: View, seed: u32) -> Case {
    let channels = x[3];
    let case = Case::new(seed).with(&x, view);
    let case = case.with(&[channels, 1, down, across], View::Plain);
    case.with(&[channels], View::Plain)
}

proptest! {
    #![proptest_config(cases(64))]
    #[test]
    fn values_and_gradients_agree_with_f64(
        b in 1usize..4, h in 1usize..12, w in 1usize..20, c in 1usize..40, down in 1usize..8,
        across in 1usize..8, above in 0usize..4, before in 0usize..4, wanted in 0u32..8,
        view in views(), seed in 1u32..1000,
    ) {
        prop_assume!(down <= h + 2 * above && across <= w + 2 * before);
        let case = case([b, h, w, c], [down, across], view, seed).wanting(wanted);
        let padding = [above, before];
        compare(&case, |t| op(t, padding), |t| burns(t, padding));
    }
}

/// Maps of the stages of a ConvNeXt, some of whose channels are left over by every register.
#[test]
fn the_layers_of_a_network_agree() {
    for [b, h, w, c] in [
        [1, 28, 28, 40],
        [2, 14, 14, 24],
        [12, 7, 7, 36],
        [3, 5, 9, 64],
    ] {
        let case = case([b, h, w, c], [7, 7], View::Plain, 9);
        compare(&case, |t| op(t, [3, 3]), |t| burns(t, [3, 3]));
    }
}

#[test]
fn every_level_agrees() {
    for level in [Level::Baseline, Level::Avx2, Level::Composed] {
        if level.available() {
            for test in [
                "values_and_gradients_agree_with_f64",
                "the_layers_of_a_network_agree",
            ] {
                at_level(level, &format!("depthwise::tests::{test}"));
            }
        }
    }
}

#[test]
fn a_bias_may_be_absent() {
    let case = case([2, 6, 5, 19], [3, 5], View::Plain, 4).wanting(0b011);
    let without = |t: &Tensors| depthwise_conv2d(t.get(0), t.get(1), None, [1, 2]);
    let burns = |t: &Tensors| {
        let options = ConvOptions::new([1, 1], [1, 2], [1, 1], 19);
        let x = t.get::<4>(0).permute([0, 3, 1, 2]);
        module::conv2d(x, t.get(1), None, options).permute([0, 2, 3, 1])
    };
    compare(&case, without, burns);
}

#[test]
fn maps_that_are_empty_or_not_finite_stay_so() {
    let empty = case([0, 7, 7, 20], [7, 7], View::Plain, 1).wanting(0);
    assert!(results(&empty, |t| op(t, [3, 3]))[0].1.is_empty());
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = crate::testing::noise(9 * 10 * 20, 1);
        values[45 * 20 + 3] = value;
        let case = Case::new(1).with_values(&[1, 9, 10, 20], values, View::Plain);
        let case = case.with(&[20, 1, 3, 3], View::Plain);
        let case = case.with(&[20], View::Plain);
        same_where_not_finite(&case, |t| op(t, [1, 1]), |t| burns(t, [1, 1]));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for [b, h, w] in [[5, 14, 14], [40, 4, 3]] {
        let case = case([b, h, w, 24], [7, 7], View::Plain, 5);
        same_on_any_threads(|| results(&case, |t| op(t, [3, 3])));
    }
}
