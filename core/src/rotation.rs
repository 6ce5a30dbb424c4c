//! Rotations from skew-symmetric matrices, for methods that rotate the inputs of weights.

use burn::tensor::{Int, Tensor};

/// The skew-symmetric matrices with these entries above the diagonal, row by row.
///
/// # Shapes
/// `[n, b (b - 1) / 2] -> [n, b, b]`.
pub fn skew(entries: Tensor<2>, size: usize) -> Tensor<3> {
    let [count, _] = entries.dims();
    let device = entries.device();
    // The place of the entry in row `i` and column `j > i` among all: those of the rows above come first.
    let place = |i: usize, j: usize| (i * (2 * size - i - 1) / 2 + j - i - 1) as i64;
    let cells = (0..size).flat_map(|i| (0..size).map(move |j| (i, j)));
    let (places, signs): (Vec<i64>, Vec<f32>) = cells
        .map(|(i, j)| match i.cmp(&j) {
            std::cmp::Ordering::Less => (place(i, j), 1.0),
            std::cmp::Ordering::Equal => (0, 0.0),
            std::cmp::Ordering::Greater => (place(j, i), -1.0),
        })
        .unzip();
    let places = Tensor::<1, Int>::from_data(&places[..], &device);
    let signs = Tensor::<1>::from_data(&signs[..], &device).unsqueeze::<2>();
    (entries.select(1, places) * signs).reshape([count, size, size])
}

/// `I + 2 Q + 2 Q^2 + .. + 2 Q^(k - 1) + Q^k` with `k = terms - 1`, as HF PEFT counts them: the last of
/// three terms or more is at least a cube.
///
/// # Shapes
/// `[n, b, b] -> [n, b, b]`.
pub fn series(skew: Tensor<3>, terms: usize) -> Tensor<3> {
    let mut sum = identity(&skew) + skew.clone() * 2.0;
    if terms == 2 {
        return sum;
    }
    let last = (terms - 1).max(3);
    let mut power = skew.clone();
    for exponent in 2..=last {
        power = power.matmul(skew.clone());
        let factor = if exponent == last { 1.0 } else { 2.0 };
        sum = sum + power.clone() * factor;
    }
    sum
}

/// Cayley's `(I - Q) (I + Q)^-1`.
///
/// # Shapes
/// `[n, b, b] -> [n, b, b]`.
pub fn exact(skew: Tensor<3>) -> Tensor<3> {
    let identity = identity(&skew);
    let sum = identity.clone() + skew.clone();
    // The step `X (2 I - M X)` of Newton doubles the correct digits of an inverse `X` of `M`. Once `X` is
    // a constant with all digits, it gives the inverse's gradient, too.
    let step = |matrix: &Tensor<3>, inverse: Tensor<3>, identity: Tensor<3>| {
        inverse
            .clone()
            .matmul(identity * 2.0 - matrix.clone().matmul(inverse))
    };
    let (constant, unit) = (
        sum.clone().without_autodiff(),
        identity.clone().without_autodiff(),
    );
    // The squared singular values of `I + Q` lie between 1 and `1 + |Q|^2`, so the steps converge from its
    // scaled transpose.
    let norm = skew.without_autodiff().square().sum_dim(2).sum_dim(1); // [n, 1, 1]
    let mut inverse = constant.clone().swap_dims(1, 2) * (norm + 2.0).recip() * 2.0;
    for _ in 0..STEPS {
        inverse = step(&constant, inverse, unit.clone());
    }
    if sum.is_autodiff() {
        inverse = Tensor::from_inner(inverse);
    }
    let inverse = step(&sum, inverse, identity.clone());
    (identity * 2.0 - sum).matmul(inverse)
}

/// Enough steps for rotations of up to 178 degrees.
const STEPS: usize = 16;

fn identity(like: &Tensor<3>) -> Tensor<3> {
    let [_, size, _] = like.dims();
    Tensor::<2>::eye(size, &like.device()).unsqueeze::<3>()
}
