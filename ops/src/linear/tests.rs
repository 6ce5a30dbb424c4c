//! Linear layers against Burn's operations, in `f32` and in `f64`.

use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::*;
use crate::level;
use crate::testing::{
    Case, Tensors, View, cases, compare, compare_in_bf16, results, results_in_bf16,
    same_on_any_threads, same_where_not_finite, views,
};

const SCALE: f64 = 0.7;

/// Inputs: `x`, weight, bias, residual, `A`, `B`.
fn case([b, n, k, o, r]: [usize; 5], view: View, seed: u32) -> Case {
    let case = Case::new(seed).with(&[b, n, k], view).with(&[o, k], view);
    let case = case.with(&[o], View::Plain).with(&[b, n, o], view);
    case.with(&[r, k], view).with(&[o, r], view)
}

fn plain(t: &Tensors) -> Tensor<3> {
    linear(t.get(0), t.get(1), None) + t.get(3)
}

fn with_bias(t: &Tensors) -> Tensor<3> {
    linear(t.get(0), t.get(1), Some(t.get(2)))
}

fn with_residual(t: &Tensors) -> Tensor<3> {
    linear_residual(t.get(0), t.get(1), Some(t.get(2)), t.get(3))
}

fn with_low_rank(t: &Tensors) -> Tensor<3> {
    linear_low_rank(
        t.get(0),
        t.get(1),
        Some(t.get(2)),
        [t.get(4), t.get(5)],
        SCALE,
    )
}

fn with_gelu(t: &Tensors) -> Tensor<3> {
    linear_gelu(t.get(0), Gelu::Exact, t.get(1), Some(t.get(2)), None)
}

fn with_quick_gelu(t: &Tensors) -> Tensor<3> {
    linear_gelu(t.get(0), Gelu::Quick, t.get(1), None, Some(t.get(3)))
}

fn composed_gelu(t: &Tensors) -> Tensor<3> {
    let x = burn::tensor::activation::gelu(t.get::<3>(0));
    composed(x, t.get(1), Some(t.get(2)))
}

fn composed_quick_gelu(t: &Tensors) -> Tensor<3> {
    let x = t.get::<3>(0);
    let x = x.clone() * burn::tensor::activation::sigmoid(x * 1.702);
    composed(x, t.get(1), None) + t.get(3)
}

fn composed_plain(t: &Tensors) -> Tensor<3> {
    composed(t.get(0), t.get(1), None) + t.get(3)
}

fn composed_bias(t: &Tensors) -> Tensor<3> {
    composed(t.get(0), t.get(1), Some(t.get(2)))
}

fn composed_residual(t: &Tensors) -> Tensor<3> {
    t.get::<3>(3) + composed_bias(t)
}

fn composed_low_rank(t: &Tensors) -> Tensor<3> {
    let path = composed(composed(t.get::<3>(0), t.get(4), None), t.get(5), None);
    composed_bias(t) + path * SCALE
}

type Op = fn(&Tensors) -> Tensor<3>;
/// Each with Burn's, and the inputs that it has.
const OPS: [(Op, Op, u32); 6] = [
    (plain, composed_plain, 0b00_1011),
    (with_bias, composed_bias, 0b00_0111),
    (with_residual, composed_residual, 0b00_1111),
    (with_low_rank, composed_low_rank, 0b11_0111),
    (with_gelu, composed_gelu, 0b00_0111),
    (with_quick_gelu, composed_quick_gelu, 0b00_1011),
];

proptest! {
    #![proptest_config(cases(48))]
    #[test]
    fn values_and_gradients_agree_with_f64(
        b in 1usize..4, n in 1usize..60, k in 1usize..100, o in 1usize..100, r in 1usize..12,
        wanted in 0u32..64, view in views(), seed in 1u32..1000,
    ) {
        let case = case([b, n, k, o, r], view, seed);
        for (op, composed, inputs) in OPS {
            compare(&case.clone().wanting(wanted & inputs), op, composed);
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]
    #[test]
    fn bf16_agrees_with_f64(
        b in 1usize..4, n in 1usize..60, k in 1usize..100, o in 1usize..100, r in 1usize..12,
        wanted in 0u32..64, view in views(), seed in 1u32..1000,
    ) {
        let case = case([b, n, k, o, r], view, seed);
        for (op, composed, inputs) in OPS {
            let case = case.clone().wanting(wanted & inputs);
            if level::current().has_kernels() {
                compare_in_bf16(&case, op, composed);
            }
        }
    }
}

#[test]
fn long_sums_and_single_values_are_as_close() {
    for size in [
        [1, 1, 1, 1, 1],
        [2, 9, 3000, 17, 2],
        [3, 700, 5, 4, 3],
        [1, 14, 32, 32, 8],
    ] {
        for (op, composed, inputs) in OPS {
            compare(&case(size, View::Plain, 9).wanting(inputs), op, composed);
        }
    }
}

#[test]
fn bf16_is_as_good_for_long_sums_and_single_values_and_on_any_threads() {
    for size in [
        [1, 1, 1, 1, 1],
        [2, 9, 3000, 17, 2],
        [3, 700, 5, 4, 3],
        [1, 140, 320, 130, 8],
    ] {
        for (op, composed, inputs) in OPS {
            let case = case(size, View::Plain, 9).wanting(inputs);
            if level::current().has_kernels() {
                compare_in_bf16(&case, op, composed);
            }
            same_on_any_threads(|| results_in_bf16(&case, op));
        }
    }
}

#[test]
fn huge_and_tiny_values_are_as_close() {
    for factor in [1e15, 1e-15] {
        let case = Case::new(3).with(&[2, 5, 33], View::Plain).times(factor);
        let case = case.with(&[7, 33], View::Plain).with(&[7], View::Plain);
        compare(&case, with_bias, composed_bias);
    }
}

#[test]
fn what_is_empty_or_not_finite_stays_so() {
    for (op, _, inputs) in OPS {
        let case = case([2, 0, 5, 3, 2], View::Plain, 1).wanting(inputs);
        assert!(results(&case, op)[0].1.is_empty());
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = crate::testing::noise(3 * 40, 1);
        values[45] = value;
        let case = Case::new(1).with_values(&[1, 3, 40], values, View::Plain);
        let case = case.with(&[9, 40], View::Plain).with(&[9], View::Plain);
        same_where_not_finite(&case, with_bias, composed_bias);
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for (op, _, inputs) in OPS {
        let case = case([2, 150, 40, 30, 4], View::Plain, 5).wanting(inputs);
        same_on_any_threads(|| results(&case, op));
    }
}

/// A prefix cache relies on this: a row is computed in one batch and used in another.
#[test]
fn a_row_is_the_same_to_the_bit_beside_any_others() {
    let device = Device::flex();
    let line = |count: usize, seed: u32| {
        let values = crate::testing::noise(count, seed);
        Tensor::<1>::from_data(TensorData::new(values, [count]), &device)
    };
    for (rows, inputs, outputs) in [(61, 80, 240), (29, 320, 80), (17, 7, 5)] {
        let x = line(rows * inputs, 1).reshape([rows, inputs]);
        let residual = line(rows * outputs, 2).reshape([rows, outputs]);
        let weight = line(outputs * inputs, 3).reshape([outputs, inputs]);
        let bias = line(outputs, 4);
        let of = |range: std::ops::Range<usize>| -> Vec<f32> {
            let x = x.clone().slice([range.clone()]);
            let residual = residual.clone().slice([range]);
            let y = linear_residual(x, weight.clone(), Some(bias.clone()), residual);
            y.into_data().iter().collect()
        };
        let all = of(0..rows);
        for start in 0..rows {
            for end in [start + 1, start + 3, start + 9] {
                let end = end.min(rows);
                assert!(
                    of(start..end) == all[start * outputs..end * outputs],
                    "rows {start}..{end} of {rows}"
                );
            }
        }
    }
}
