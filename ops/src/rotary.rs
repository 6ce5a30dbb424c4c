//! Rotary position embedding (Su et al. 2021): pairs of channels of queries and keys are rotated by angles
//! that depend on the token's place.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::bridge::apply;
use crate::constant::values_mut;
use crate::operation::Operation;

/// The channels of a head that are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Channel `c` of the first half and channel `c` of the second half.
    Halves,
    /// Channels `2 c` and `2 c + 1`.
    Neighbours,
}

/// The angles of a run of tokens, the same for all heads.
#[derive(Clone, Debug)]
pub struct Rotation {
    pairs: Pairs,
    /// The tokens before the first that is rotated.
    skipped: usize,
    /// Angles of a token, half the width of a head.
    width: usize,
    /// Cosine and sine of each angle, token by token.
    table: Arc<[[f32; 2]]>,
}

impl Rotation {
    /// A rotation that leaves the first `skipped` tokens as they are and rotates those after it by `angles`,
    /// of which each token has `width`, half the channels of a head. Tokens behind these stay as they are.
    ///
    /// # Panics
    /// If the number of angles is not a multiple of `width`.
    pub fn new(pairs: Pairs, skipped: usize, width: usize, angles: &[f64]) -> Self {
        assert!(
            width > 0 && angles.len().is_multiple_of(width),
            "expected {width} angles for each token, got {} in all",
            angles.len()
        );
        let pair = |angle: &f64| [angle.cos() as f32, angle.sin() as f32];
        Self {
            pairs,
            skipped,
            width,
            table: angles.iter().map(pair).collect(),
        }
    }

    /// Number of tokens that are rotated.
    fn tokens(&self) -> usize {
        self.table.len() / self.width
    }
}

/// Queries and keys after the rotation of their heads; values stay as they are.
///
/// # Shapes
/// `qkv [b, n, 3 d]` (all queries, then keys, then values), `n` at least the skipped and rotated tokens
/// `-> [b, n, 3 d]`.
///
/// # Panics
/// If a head has another number of channels than twice the rotation's angles.
pub fn rotate(qkv: Tensor<3>, heads: usize, rotation: &Rotation) -> Tensor<3> {
    let [_, n, d3] = qkv.dims();
    let width = 2 * rotation.width;
    assert_eq!(d3, 3 * heads * width, "{heads} heads of {width} channels");
    let needed = rotation.skipped + rotation.tokens();
    assert!(n >= needed, "expected at least {needed} tokens, got {n}");
    let op = Rotate {
        rotation: rotation.clone(),
        sign: 1.0,
    };
    match apply(op, [qkv.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([qkv]) => composed(Tensor::from_dispatch(qkv), heads, rotation),
    }
}

/// The rotation as Burn's operations.
pub(crate) fn composed(qkv: Tensor<3>, heads: usize, rotation: &Rotation) -> Tensor<3> {
    let [b, n, d3] = qkv.dims();
    let (first, count, half) = (rotation.skipped, rotation.tokens(), rotation.width);
    let (turned, kept) = (2 * d3 / 3, d3 / 3);
    let part = |x: &Tensor<3>, start, count| match count {
        0 => None,
        count => Some(x.clone().narrow(1, start, count)),
    };
    let both = qkv.clone().narrow(2, 0, turned); // [b, n, 2 d]
    // Queries and keys of all heads side by side.
    let pairs = match rotation.pairs {
        Pairs::Halves => [b, count, 2 * heads, 2, half],
        Pairs::Neighbours => [b, count, 2 * heads, half, 2],
    };
    let axis = match rotation.pairs {
        Pairs::Halves => 3,
        Pairs::Neighbours => 4,
    };
    let x = both.clone().narrow(1, first, count).reshape(pairs);
    let [u, v] = [0, 1].map(|i| x.clone().narrow(axis, i, 1).squeeze_dim::<4>(axis)); // [b, count, 2 heads, half]
    let table = |i: usize| {
        let values = rotation.table.iter().map(|pair| pair[i]).collect();
        let data = TensorData::new(values, [count, 1, half]);
        let table = Tensor::<3>::from_data(data, &qkv.device());
        match qkv.dtype() {
            DType::F32 => table,
            dtype => table.cast(dtype),
        }
        .unsqueeze::<4>()
    };
    let (cos, sin) = (table(0), table(1));
    let first_turned = u.clone() * cos.clone() - v.clone() * sin.clone();
    let second_turned = v * cos + u * sin;
    let middle = Tensor::stack::<5>(vec![first_turned, second_turned], axis);
    let middle = middle.reshape([b, count, turned]);
    let end = first + count;
    let parts = [
        part(&both, 0, first),
        Some(middle),
        part(&both, end, n - end),
    ];
    let rotated = Tensor::cat(parts.into_iter().flatten().collect(), 1);
    Tensor::cat(vec![rotated, qkv.narrow(2, turned, kept)], 2)
}

/// The rotation, or with a sign of -1 the one back.
#[derive(Clone, Debug)]
struct Rotate {
    rotation: Rotation,
    sign: f32,
}

impl Rotate {
    /// Rotates in place; the values are copied first if another tensor shares them.
    fn turned(&self, mut x: FlexTensor) -> FlexTensor {
        let shape = x.shape();
        let (n, row) = (shape[1], shape[2]);
        let turned = 2 * row / 3;
        let Rotation {
            pairs,
            skipped,
            width,
            ref table,
        } = self.rotation;
        let tokens = self.rotation.tokens();
        let kernel = match pairs {
            Pairs::Halves => turn_halves,
            Pairs::Neighbours => turn_neighbours,
        };
        let rows = values_mut(&mut x).par_chunks_exact_mut(row.max(1));
        rows.enumerate().for_each(|(i, row)| {
            let token = (i % n).wrapping_sub(skipped);
            if token < tokens {
                let table = &table[token * width..][..width];
                kernel(&mut row[..turned], table, self.sign);
            }
        });
        x
    }
}

impl Operation<FlexTensor, 1> for Rotate {
    /// A rotation needs no input to be undone.
    type Saved = ();

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, ()) {
        (self.turned(x), ())
    }

    fn backward(&self, (): (), gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let back = Self {
            sign: -self.sign,
            ..self.clone()
        };
        [Some(back.turned(gradient))]
    }
}

/// Rotates the heads in a row, whose pairs are in its two halves.
fn turn_halves(row: &mut [f32], table: &[[f32; 2]], sign: f32) {
    for head in row.chunks_exact_mut(2 * table.len()) {
        let (first, second) = head.split_at_mut(table.len());
        for ((u, v), [cos, sin]) in first.iter_mut().zip(second).zip(table) {
            (*u, *v) = turned([*u, *v], [*cos, sign * sin]);
        }
    }
}

/// Rotates the heads in a row, whose pairs are neighbours.
fn turn_neighbours(row: &mut [f32], table: &[[f32; 2]], sign: f32) {
    for head in row.chunks_exact_mut(2 * table.len()) {
        for (pair, [cos, sin]) in head.chunks_exact_mut(2).zip(table) {
            (pair[0], pair[1]) = turned([pair[0], pair[1]], [*cos, sign * sin]);
        }
    }
}

fn turned([u, v]: [f32; 2], [cos, sin]: [f32; 2]) -> (f32, f32) {
    (u * cos - v * sin, v * cos + u * sin)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Case, cases, compare, results, same_on_any_threads, views};

    fn rotation(pairs: Pairs, skipped: usize, tokens: usize, width: usize) -> Rotation {
        let angles: Vec<f64> = (0..tokens * width).map(|i| 0.37 * i as f64).collect();
        Rotation::new(pairs, skipped, width, &angles)
    }

    fn pairs() -> impl Strategy<Value = Pairs> {
        prop_oneof![Just(Pairs::Halves), Just(Pairs::Neighbours)]
    }

    proptest! {
        #![proptest_config(cases(32))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, skipped in 0usize..3, tokens in 1usize..8, behind in 0usize..3,
            heads in 1usize..4, width in 1usize..9, wanted in 0u32..2, pairs in pairs(),
            view in views(), seed in 1u32..1000,
        ) {
            let rotation = rotation(pairs, skipped, tokens, width);
            let shape = [b, skipped + tokens + behind, 6 * heads * width];
            let case = Case::new(seed).with(&shape, view).wanting(wanted);
            let op = |t: &crate::testing::Tensors| rotate(t.get(0), heads, &rotation);
            compare(&case, op, |t| composed(t.get(0), heads, &rotation));
        }
    }

    /// The formula written out for one pair of each kind.
    #[test]
    fn a_pair_is_rotated_by_its_angle_and_other_tokens_stay() {
        let (angles, device) = ([0.5, -1.25], burn::tensor::Device::flex());
        // One head of four channels; three tokens, of which the middle one is rotated.
        let values: Vec<f32> = (0..36).map(|i| i as f32 - 11.0).collect();
        let x = Tensor::<1>::from_data(&values[..], &device).reshape([1, 3, 12]);
        for (pairs, places) in [
            (Pairs::Halves, [[0, 2], [1, 3]]),
            (Pairs::Neighbours, [[0, 1], [2, 3]]),
        ] {
            let rotation = Rotation::new(pairs, 1, 2, &angles);
            let got: Vec<f32> = rotate(x.clone(), 1, &rotation).into_data().iter().collect();
            let mut expected: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
            for start in [12, 16] {
                for ([u, v], angle) in places.iter().zip(angles) {
                    let (a, b) = (f64::from(values[start + u]), f64::from(values[start + v]));
                    expected[start + u] = a * angle.cos() - b * angle.sin();
                    expected[start + v] = b * angle.cos() + a * angle.sin();
                }
            }
            for (got, expected) in got.iter().zip(expected) {
                let error = (f64::from(*got) - expected).abs();
                assert!(error < 1e-5, "{pairs:?}: got {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let rotation = rotation(Pairs::Halves, 2, 40, 8);
        let case = Case::new(3).with(&[5, 45, 96], crate::testing::View::Plain);
        same_on_any_threads(|| results(&case, |t| rotate(t.get(0), 2, &rotation)));
    }
}
