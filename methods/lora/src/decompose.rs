//! Decompositions of a weight from which the factors can start, in f64.

use burn::tensor::TensorData;
use peft_core::random::Generator;

/// A matrix by rows.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    rows: Vec<Vec<f64>>,
}

impl Matrix {
    pub(crate) fn new(rows: Vec<Vec<f64>>) -> Self {
        Self { rows }
    }

    fn columns(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    fn transposed(&self) -> Self {
        let column = |j: usize| self.rows.iter().map(|row| row[j]).collect();
        Self::new((0..self.columns()).map(column).collect())
    }

    fn data(&self) -> TensorData {
        let values: Vec<f32> = self
            .rows
            .iter()
            .flatten()
            .map(|value| *value as f32)
            .collect();
        TensorData::new(values, [self.rows.len(), self.columns()])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `A = R [r, in]` and `B = Q [out, r]`, the first columns of the QR decomposition `W = Q R`.
pub(crate) fn triangular(weight: &Matrix, rank: usize) -> [TensorData; 2] {
    let columns = weight.transposed().rows;
    let q = orthonormal(columns[..rank].to_vec());
    let row = |q: &Vec<f64>| columns.iter().map(|column| dot(q, column)).collect();
    let r = Matrix::new(q.iter().map(row).collect());
    [r.data(), Matrix::new(q).transposed().data()]
}

/// `A = sqrt(S / s) V^T` and `B = U sqrt(S / s)` of the `rank` largest singular values `S`, for a path that is
/// scaled by `s`.
pub(crate) fn singular(weight: &Matrix, rank: usize, scale: f64) -> [TensorData; 2] {
    // The eigenvectors of the smaller of `W W^T` and `W^T W` give one side, and `W` the other.
    let turned = weight.rows.len() > weight.columns();
    let long = if turned {
        weight.transposed()
    } else {
        weight.clone()
    };
    let gram = products(&long.rows, &long.rows);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (square, vector) in largest(&gram, rank) {
        // `W^T u` is `S v`, of which the other factor takes the root; it is zero where `S` is.
        let root = (square.max(0.0).sqrt() / scale.abs()).sqrt();
        let inverse = if root > 0.0 {
            (root * scale.abs()).recip()
        } else {
            0.0
        };
        let other = combined(&vector, &long.rows);
        right.push(other.into_iter().map(|value| value * inverse).collect());
        left.push(vector.into_iter().map(|value| value * root).collect());
    }
    let (left, right) = (Matrix::new(left), Matrix::new(right));
    let (a, b) = if turned { (left, right) } else { (right, left) };
    [a.data(), b.transposed().data()]
}

/// The scalar products of all pairs.
fn products(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let row = |x: &Vec<f64>| b.iter().map(|y| dot(x, y)).collect();
    a.iter().map(row).collect()
}

/// The sum of vectors, each times its weight.
fn combined(weights: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors.first().map_or(0, Vec::len)];
    for (weight, vector) in weights.iter().zip(vectors) {
        sum.iter_mut()
            .zip(vector)
            .for_each(|(sum, value)| *sum += weight * value);
    }
    sum
}

/// The largest eigenvalues of a symmetric matrix with their vectors, by subspace iteration.
fn largest(matrix: &[Vec<f64>], count: usize) -> Vec<(f64, Vec<f64>)> {
    // Vectors beyond those that are wanted speed up convergence. With as many as there are, the
    // result is exact at once.
    let (n, block) = (matrix.len(), (count + SPARE).min(matrix.len()));
    let mut generator = Generator::new(0, "decompose");
    let mut draw = |_| (0..n).map(|_| f64::from(generator.normal())).collect();
    let mut basis = orthonormal((0..block).map(&mut draw).collect());
    let rounds = if block == n { 0 } else { ROUNDS };
    for _ in 0..rounds {
        basis = orthonormal(products(&basis, matrix));
    }
    let inner = products(&products(&basis, matrix), &basis);
    let mut pairs = eigen(inner);
    pairs.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let outer = |(value, weights): (f64, Vec<f64>)| (value, combined(&weights, &basis));
    pairs.into_iter().take(count).map(outer).collect()
}

const SPARE: usize = 16;
const ROUNDS: usize = 100;

/// An orthonormal basis of these vectors, one after the other (Gram and Schmidt, twice for accuracy).
fn orthonormal(mut vectors: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    for i in 0..vectors.len() {
        let (done, rest) = vectors.split_at_mut(i);
        let own = &mut rest[0];
        for _ in 0..2 {
            for other in &*done {
                let share = dot(other, own);
                own.iter_mut()
                    .zip(other)
                    .for_each(|(own, other)| *own -= share * other);
            }
        }
        let norm = dot(own, own).sqrt();
        if norm > 0.0 {
            own.iter_mut().for_each(|value| *value /= norm);
        }
    }
    vectors
}

/// Eigenvalues and eigenvectors of a symmetric matrix: cyclic Jacobi rotations until what is off the
/// diagonal is rounding.
fn eigen(mut a: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = a.len();
    let mut vectors: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    let total: f64 = a.iter().map(|row| dot(row, row)).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n).map(|i| dot(&a[i][..i], &a[i][..i])).sum();
        if off <= 1e-24 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, &mut vectors, p, q);
            }
        }
    }
    let pair = |(i, vector): (usize, Vec<f64>)| (a[i][i], vector);
    vectors.into_iter().enumerate().map(pair).collect()
}

const SWEEPS: usize = 30;

/// One rotation that makes entry `(p, q)` zero. The eigenvectors are the rows of `vectors`.
fn rotate(a: &mut [Vec<f64>], vectors: &mut [Vec<f64>], p: usize, q: usize) {
    if a[p][q] == 0.0 {
        return;
    }
    let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = t.hypot(1.0).recip();
    let sine = t * cosine;
    let turn = |x: &mut f64, y: &mut f64| {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    };
    let both = |rows: &mut [Vec<f64>]| {
        let (upper, lower) = rows.split_at_mut(q);
        upper[p]
            .iter_mut()
            .zip(&mut lower[0])
            .for_each(|(x, y)| turn(x, y));
    };
    for row in a.iter_mut() {
        let (left, right) = row.split_at_mut(q);
        turn(&mut left[p], &mut right[0]);
    }
    both(a);
    both(vectors);
}

#[cfg(test)]
mod tests {
    use peft_core::params::floats;

    use super::*;

    fn weight(rows: usize, columns: usize) -> Matrix {
        let entry = |i: usize, j: usize| ((i * 7 + j * 3 + i * j) % 11) as f64 / 4.0 - 1.0;
        let row = |i: usize| (0..columns).map(|j| entry(i, j)).collect();
        Matrix::new((0..rows).map(row).collect())
    }

    /// `B A`, and the scalar products of the rows of `A` and of the columns of `B`.
    fn product([a, b]: [TensorData; 2]) -> (Vec<f32>, [Vec<Vec<f64>>; 2]) {
        let (rank, columns) = (a.shape()[0], a.shape()[1]);
        let (a, b) = (floats(a), floats(b));
        let entry = |i: usize, j: usize| {
            (0..rank)
                .map(|k| b[i * rank + k] * a[k * columns + j])
                .sum()
        };
        let rows = b.len() / rank;
        let all = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
        let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
        let down: Vec<Vec<f64>> = a.chunks(columns).map(wide).collect();
        let up = Matrix::new(b.chunks(rank).map(wide).collect())
            .transposed()
            .rows;
        let gram = |v: &[Vec<f64>]| {
            v.iter()
                .map(|x| v.iter().map(|y| dot(x, y)).collect())
                .collect()
        };
        (
            all.map(|(i, j)| entry(i, j)).collect(),
            [gram(&down), gram(&up)],
        )
    }

    #[test]
    fn all_singular_values_make_up_the_weight_and_both_factors_share_them() {
        for (rows, columns) in [(5, 8), (8, 5)] {
            let weight = weight(rows, columns);
            let (got, [down, up]) = product(singular(&weight, 5, 1.0));
            let expected = floats(weight.data());
            for (a, b) in got.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
            for i in 0..5 {
                for (j, value) in down[i].iter().enumerate() {
                    let same = if i == j { up[i][i] } else { 0.0 };
                    assert!((value - same).abs() < 1e-5, "{i} {j}");
                }
                assert!(i == 0 || down[i][i] <= down[i - 1][i - 1] + 1e-5);
            }
        }
    }

    #[test]
    fn the_first_columns_of_q_are_orthonormal_and_r_is_triangular() {
        let weight = weight(6, 4);
        let [a, b] = triangular(&weight, 3);
        let r = floats(a.clone());
        assert!([r[4], r[8], r[9]].iter().all(|v| v.abs() < 1e-6), "{r:?}");
        let (_, [_, up]) = product([a, b]);
        for (i, row) in up.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                assert!((value - f64::from(u8::from(i == j))).abs() < 1e-6);
            }
        }
    }
}
