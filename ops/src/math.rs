//! Functions and sums that kernels share.

use rayon::prelude::*;

use crate::simd::{Simd, multiversion};

/// Partial sums of a reduction: `f32` addition is not associative, so LLVM keeps one lane unless
/// the lanes are written out.
pub(crate) const LANES: usize = 32;

/// What is summed in: `f32`, or `f64` where rounding would show.
pub(crate) trait Sum: Copy + Default + From<f32> + std::ops::AddAssign {}
impl Sum for f32 {}
impl Sum for f64 {}

#[inline(always)]
pub(crate) fn total<T: Sum>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let other = lanes[i + width];
            lanes[i] += other;
        }
        width /= 2;
    }
    lanes[0]
}

/// A sum along rows of one length, in lanes: `add(sum, values)` is the sum with one place more.
#[inline(always)]
pub(crate) fn sum_of<T: Sum, const N: usize>(rows: [&[f32]; N], add: impl Fn(T, [T; N]) -> T) -> T {
    let count = rows[0].len();
    let whole = count / LANES * LANES;
    let mut lanes = [T::default(); LANES];
    for start in (0..whole).step_by(LANES) {
        let rows = rows.map(|row| &row[start..start + LANES]);
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = add(*lane, rows.map(|row| row[i].into()));
        }
    }
    // A sum in order is not vectorised: it has a loop of its own.
    let place = |i: usize| rows.map(|row| row[i].into());
    let mut sum = (whole..count).fold(T::default(), |sum, i| add(sum, place(i)));
    sum += total(lanes);
    sum
}

/// The largest value that is a number.
#[inline(always)]
pub(crate) fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in row.chunks(LANES) {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let of_two = |a: f32, b: f32| if b > a { b } else { a };
    lanes.into_iter().fold(f32::NEG_INFINITY, of_two)
}

/// `e^x` within two units in the last place: `2^n e^r` with `|r| <= ln 2 / 2` and Cephes' polynomial
/// for `e^r` (S. Moshier). Below -87 it is about 1e-38, above 88 it saturates; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    // Comparisons keep NaN and vectorise; `f32::clamp` does not.
    let bounded = if x < -87.0 { -87.0 } else { x };
    let bounded = if bounded > 88.0 { 88.0 } else { bounded };
    // Adding 1.5 * 2^23 rounds to an integer that then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = S::fma(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few bits so that n times it is exact.
    let r = S::fma(n, -0.693_359_4, bounded);
    let r = S::fma(n, 2.121_944_4e-4, r);
    let p = 1.987_569_2e-4_f32;
    let p = S::fma(p, r, 1.398_2e-3);
    let p = S::fma(p, r, 8.333_452e-3);
    let p = S::fma(p, r, 4.166_579_6e-2);
    let p = S::fma(p, r, 1.666_666_5e-1);
    let p = S::fma(p, r, 0.5);
    let power = S::fma(p * r, r, r) + 1.0;
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x.is_nan() { x } else { power * two_to_n }
}

/// The error function within about one unit in the last place (N. Juffa's polynomials for two
/// ranges, both evaluated and one selected).
#[inline(always)]
pub(crate) fn erf<S: Simd>(x: f32) -> f32 {
    let (t, square) = (x.abs(), x * x);
    let high = S::fma(-1.728_534_7e-5_f32, t, 3.831_971_3e-4);
    let low = S::fma(-3.883_964_4e-3_f32, t, 2.425_462_2e-2);
    let p = S::fma(high, square, low);
    let p = S::fma(p, t, -1.067_778_8e-1);
    let p = S::fma(p, t, -6.348_467e-1);
    let p = S::fma(p, t, -1.287_175_1e-1);
    let far = (1.0 - exp::<S>(S::fma(p, t, -t))).copysign(x);
    let q = -5.967_617e-4_f32;
    let q = S::fma(q, square, 4.991_194_2e-3);
    let q = S::fma(q, square, -2.676_813_5e-2);
    let q = S::fma(q, square, 1.128_199_3e-1);
    let q = S::fma(q, square, -3.761_253_4e-1);
    let q = S::fma(q, square, 1.283_791_7e-1);
    let near = S::fma(q, x, x);
    if t > 0.927_734_4 { far } else { near }
}

/// The distribution function of the standard normal.
#[inline(always)]
pub(crate) fn normal_cdf<S: Simd>(x: f32) -> f32 {
    0.5 * (1.0 + erf::<S>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Rows whose sums one task adds up: fixed, so that sums do not depend on the number of threads.
pub(crate) const ROWS: usize = 64;

/// Values that one task handles where each is computed alone: large enough to pay for it, small
/// enough for the first cache.
pub(crate) const CHUNK: usize = 8 * 1024;

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

    /// The same in `f64`.
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
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    /// Rows and columns at once: what is read and written of them stays in the first cache.
    const SIDE: usize = 32;
    let rows = values.len() / columns.max(1);
    let mut out = vec![0.0; values.len()];
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

/// `count` sums of `tasks` partial ones, which `f` adds to zeros.
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
        for i in 0..200_000 {
            let x = -86.0 + 173.0 * i as f32 / 200_000.0;
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

    fn erf_is_close<S: Simd>() {
        for (x, y) in [(0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)] {
            let got = erf::<S>(x);
            assert!((got - y).abs() < 1.2e-7, "erf({x}) = {got}");
            assert_eq!(erf::<S>(-x), -got);
        }
        assert_eq!(erf::<S>(10.0), 1.0);
        assert_eq!(erf::<S>(0.0), 0.0);
        assert!(erf::<S>(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_odd_bounded_and_known_where_tables_have_it() {
        erf_is_close::<Fused>();
        erf_is_close::<Portable>();
    }

    #[test]
    fn sums_have_every_value_once() {
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
