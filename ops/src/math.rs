//! Functions and sums that kernels share.

use std::ops::{Add, Range};

use rayon::prelude::*;

use crate::buffer::{Unset, Value, written};
use crate::simd::{Simd, multiversion};

/// Number of partial sums of a reduction. Addition of floats is not associative, so LLVM keeps a single
/// sum unless several are written out. With 32, two vectors of 16 or four of 8 hide each other's latency;
/// and the order of the sum is the same at every level.
pub(crate) const LANES: usize = 32;
/// Number of partial sums for the rest of a row.
const FEW: usize = 8;

/// The type of a sum: `f32`, or `f64` where rounding would show.
pub(crate) trait Sum: Copy + Default + From<f32> + Add<Output = Self> {}
impl Sum for f32 {}
impl Sum for f64 {}

/// Joins lanes, a power of two of them, by halves.
#[inline(always)]
pub(crate) fn halved<T: Copy, const N: usize>(mut lanes: [T; N], join: impl Fn(T, T) -> T) -> T {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Reduces rows of one length, place by place: `add(sum, values)` is `sum` with the values at one more
/// place, and `join` makes one sum of two. [`LANES`] sums run side by side, then [`FEW`] for the rest, then
/// one.
#[inline(always)]
fn reduce<T: Copy, const N: usize>(
    rows: [&[f32]; N],
    start: T,
    add: impl Fn(T, [f32; N]) -> T,
    join: impl Fn(T, T) -> T,
) -> T {
    let count = rows[0].len();
    let [whole, most] = [LANES, FEW].map(|lanes| count / lanes * lanes);
    let lanes = in_lanes::<T, N, LANES>(rows, 0..whole, start, &add);
    let few = in_lanes::<T, N, FEW>(rows, whole..most, start, &add);
    // The last few places one by one, in a loop of their own: within the others they would keep them from
    // being vectorised.
    let rest = (most..count).fold(start, |sum, i| add(sum, rows.map(|row| row[i])));
    join(join(rest, halved(few, &join)), halved(lanes, &join))
}

#[inline(always)]
fn in_lanes<T: Copy, const N: usize, const COUNT: usize>(
    rows: [&[f32]; N],
    places: Range<usize>,
    start: T,
    add: impl Fn(T, [f32; N]) -> T,
) -> [T; COUNT] {
    let mut lanes = [start; COUNT];
    for place in places.step_by(COUNT) {
        let rows = rows.map(|row| &row[place..place + COUNT]);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = add(*lane, rows.map(|row| row[i]));
        }
    }
    lanes
}

/// A sum along rows of one length: `add(sum, values)` is the sum with the values at one more place.
#[inline(always)]
pub(crate) fn sum_of<T: Sum, const N: usize>(rows: [&[f32]; N], add: impl Fn(T, [T; N]) -> T) -> T {
    let add = |sum, values: [f32; N]| add(sum, values.map(T::from));
    reduce(rows, T::default(), add, |a, b| a + b)
}

/// The largest value; NaNs are skipped.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let of_two = |a: f32, b: f32| if b > a { b } else { a };
    reduce(
        [row],
        f32::NEG_INFINITY,
        |m, [value]| of_two(m, value),
        of_two,
    )
}

/// `e^x` within two units in the last place: `2^n e^r` with `|r| <= ln 2 / 2` and Cephes' polynomial
/// for `e^r` (S. Moshier). Below -87 it is about 1e-38, above 88 it saturates; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    // Comparisons, because they keep NaN and are vectorised, which `f32::clamp` is not.
    let bounded = if x < -87.0 { -87.0 } else { x };
    let bounded = if bounded > 88.0 { 88.0 } else { bounded };
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let shifted = S::fma(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few bits, so that n times it is exact.
    let r = S::fma(n, -0.693_359_4, bounded);
    let r = S::fma(n, 2.121_944_4e-4, r);
    let p = 1.987_569_2e-4_f32;
    let p = S::fma(p, r, 1.398_2e-3);
    let p = S::fma(p, r, 8.333_452e-3);
    let p = S::fma(p, r, 4.166_579_6e-2);
    let p = S::fma(p, r, 1.666_666_5e-1);
    let p = S::fma(p, r, 0.5);
    let power = S::fma(p * r, r, r) + 1.0;
    // The exponent's bits, from the low bits of the sum above.
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x.is_nan() { x } else { power * two_to_n }
}

/// `e^(-x^2 / 2)`, and the distribution function of the standard normal within 1.3e-7.
///
/// Below zero, that function is the exponential times Mills' ratio over `sqrt(2 pi)`, here a minimax
/// quotient of polynomials within 1.2e-8, so that small results have small errors. Above zero, it is one
/// minus the function of `-x`.
#[inline(always)]
pub(crate) fn normal<S: Simd>(x: f32) -> (f32, f32) {
    /// Beyond this the tail is below the least normal number.
    const END: f32 = 13.0;
    let t = x.abs();
    let bell = exp::<S>(-0.5 * x * x);
    let p = S::fma(1.255_996_3e-2_f32, t, 9.966_389e-2);
    let p = S::fma(p, t, 3.257_729_7e-1);
    let p = S::fma(p, t, 0.5);
    let q = S::fma(3.150_796_5e-2_f32, t, 2.491_588_7e-1);
    let q = S::fma(q, t, 8.558_159e-1);
    let q = S::fma(q, t, 1.449_429_6);
    let q = S::fma(q, t, 1.0);
    let tail = if t > END { 0.0 } else { bell * (p / q) };
    (bell, if x > 0.0 { 1.0 - tail } else { tail })
}

/// Number of rows that one task adds up: fixed, so that sums do not depend on the number of threads.
pub(crate) const ROWS: usize = 64;

/// Number of values of a task, where each value is computed on its own: large enough to pay for a task,
/// small enough for the first cache.
pub(crate) const CHUNK: usize = 8 * 1024;

/// Writes the image of each value; all of the second slice, which is as long as the first.
pub(crate) type Map<T = f32> = fn(&[T], &mut [Unset<T>]);

/// The images of all values.
pub(crate) fn images<T: Value>(map: Map<T>, values: &[T]) -> Vec<T> {
    // SAFETY: the chunks cover the output, those of the input are as long, and a map writes each value of a
    // chunk.
    unsafe {
        written(values.len(), |images| {
            let chunks = images.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
            chunks.for_each(|(images, values)| map(values, images));
        })
    }
}

/// From values, and the gradient of their images to that of the values, in place. Both slices have one length.
pub(crate) type Slopes<T = f32> = fn(&[T], &mut [T]);

/// Makes the gradient of all values from that of their images, in place.
pub(crate) fn chain<T: Value>(slopes: Slopes<T>, values: &[T], gradient: &mut [T]) {
    let chunks = gradient.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    chunks.for_each(|(gradient, values)| slopes(values, gradient));
}

multiversion! {
    /// `y <- y + scale x`.
    pub(crate) fn add_scaled<S>(y: &mut [f32], x: &[f32], scale: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = S::fma(*x, scale, *y);
        }
    }

    /// Adds the rows, as long as `sums`, to `sums`.
    pub(crate) fn add_rows<S>(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }

    /// [`add_rows`] in `f64`.
    fn add_exactly<S>(rows: &[f32], sums: &mut [f64]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
    }
}

/// The sum of each of `columns` columns.
pub(crate) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let part = (ROWS * columns).max(1);
    partial_sums(values.len().div_ceil(part), columns, |task, sums| {
        let values = &values[task * part..];
        add_exactly(&values[..part.min(values.len())], sums);
    })
}

/// The transpose of rows of `columns` values.
pub(crate) fn transposed<T: Copy + Default>(values: &[T], columns: usize) -> Vec<T> {
    /// Side of the squares that are transposed one by one. The lines of the cache that a square reads and
    /// writes stay in the first cache until it is done; along whole rows each written line would be evicted
    /// before its next value comes.
    const SIDE: usize = 32;
    let rows = values.len() / columns.max(1);
    let mut out = vec![T::default(); values.len()];
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            let to = row..rows.min(row + SIDE);
            for j in column..columns.min(column + SIDE) {
                for i in to.clone() {
                    out[j * rows + i] = values[i * columns + j];
                }
            }
        }
    }
    out
}

/// `count` sums, each of the partial sums of `tasks` tasks: `f` adds those of one task to zeros. They are
/// added in the order of the tasks.
pub(crate) fn partial_sums(
    tasks: usize,
    count: usize,
    f: impl Fn(usize, &mut [f64]) + Sync,
) -> Vec<f32> {
    let mut sums = vec![0.0; tasks.max(1) * count];
    if count == 0 {
        return Vec::new();
    }
    let partial = sums.par_chunks_exact_mut(count).take(tasks).enumerate();
    partial.for_each(|(task, sums)| f(task, sums));
    let (first, others) = sums.split_at_mut(count);
    for others in others.chunks_exact(count) {
        first
            .iter_mut()
            .zip(others)
            .for_each(|(sum, other)| *sum += other);
    }
    first.iter().map(|sum| *sum as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Fused, Portable};

    fn exp_is_close<S: Simd>() {
        let count = if crate::testing::short() {
            5_000
        } else {
            200_000
        };
        for i in 0..count {
            let x = -86.0 + 173.0 * i as f32 / count as f32;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp::<S>(x)) - expected).abs() / expected;
            assert!(
                error < 2.0 * f64::from(f32::EPSILON),
                "exp({x}) is off by {error:e}"
            );
        }
        assert!(exp::<S>(f32::NAN).is_nan());
        assert!(exp::<S>(f32::NEG_INFINITY) < 2e-38 && exp::<S>(-1e30) < 2e-38);
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        exp_is_close::<Fused>();
        exp_is_close::<Portable>();
    }

    fn normal_is_close<S: Simd>() {
        // By mpmath's `ncdf`, to more digits than f32 holds.
        let known = [
            (0.0, 0.5),
            (0.5, 0.691_462_461_274_013),
            (1.0, 0.841_344_746_068_543),
            (-2.0, 2.275_013_194_817_92e-2),
            (-4.0, 3.167_124_183_311_99e-5),
            (-6.0, 9.865_876_450_376_98e-10),
        ];
        for (x, expected) in known {
            for (x, expected) in [(x, expected), (-x, 1.0 - expected)] {
                let got = f64::from(normal::<S>(x).1);
                let error = (got - expected).abs();
                assert!(error <= 1.3e-7, "at {x}: {got}");
                // The tail's relative error is that of the exponential's argument.
                assert!(error <= 4e-6 * expected, "at {x}: {got}");
            }
        }
        for far in [13.5, 1e4, f32::MAX, f32::INFINITY] {
            assert_eq!((normal::<S>(far).1, normal::<S>(-far).1), (1.0, 0.0));
        }
        assert!(normal::<S>(f32::NAN).1.is_nan());
    }

    #[test]
    fn the_normal_distribution_is_as_tables_have_it() {
        normal_is_close::<Fused>();
        normal_is_close::<Portable>();
    }

    #[test]
    fn sums_count_every_value_once() {
        for count in [0, 1, 31, 32, 33, 1000] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let sum = sum_of([&values, &values], |sum: f32, [a, b]| sum + a + b);
            assert_eq!(sum, (0..count).sum::<u32>() as f32 * 2.0);
        }
        let rows = crate::testing::noise(150 * 7, 1);
        for (j, sum) in column_sums(&rows, 7).into_iter().enumerate() {
            let expected: f32 = rows.iter().skip(j).step_by(7).sum();
            assert!((sum - expected).abs() < 1e-4, "{sum}, {expected}");
        }
        assert_eq!(column_sums(&[], 3), [0.0; 3]);
        let turned = transposed(&rows, 7);
        assert!((0..150 * 7).all(|i| turned[i % 7 * 150 + i / 7] == rows[i]));
    }
}
