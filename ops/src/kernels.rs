//! Element-wise and row kernels: plain loops, compiled again with AVX-512 and with AVX2 enabled and
//! picked at run time, so that LLVM vectorises them and every CPU runs them.

/// Functions compiled for each level; the best one that the CPU has is called.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) {
            #[inline(always)]
            fn portable($($arg: $ty),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) { portable($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) { portable($($arg),*) }
                let fma = is_x86_feature_detected!("fma");
                if fma
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features that the function was compiled for were just detected.
                    return unsafe { avx512($($arg),*) };
                }
                if fma && is_x86_feature_detected!("avx2") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    )*};
}

/// Partial sums of a reduction: `f32` addition is not associative, so LLVM keeps one lane unless
/// the lanes are written out.
const LANES: usize = 32;

#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest value that is a number.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
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
fn exp(x: f32) -> f32 {
    // Comparisons keep NaN and vectorise; `f32::clamp` does not.
    let bounded = if x < -87.0 { -87.0 } else { x };
    let bounded = if bounded > 88.0 { 88.0 } else { bounded };
    // Adding 1.5 * 2^23 rounds to an integer that then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = bounded.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with few bits so that n times it is exact.
    let r = n.mul_add(-0.693_359_4, bounded);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_2e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let power = (p * r).mul_add(r, r) + 1.0;
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x.is_nan() { x } else { power * two_to_n }
}

/// The error function within about one unit in the last place (N. Juffa's polynomials for two
/// ranges, both evaluated and one selected).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let (t, square) = (x.abs(), x * x);
    let high = (-1.728_534_7e-5_f32).mul_add(t, 3.831_971_3e-4);
    let low = (-3.883_964_4e-3_f32).mul_add(t, 2.425_462_2e-2);
    let p = high.mul_add(square, low);
    let p = p.mul_add(t, -1.067_778_8e-1);
    let p = p.mul_add(t, -6.348_467e-1);
    let p = p.mul_add(t, -1.287_175_1e-1);
    let far = (1.0 - exp(p.mul_add(t, -t))).copysign(x);
    let q = -5.967_617e-4_f32;
    let q = q.mul_add(square, 4.991_194_2e-3);
    let q = q.mul_add(square, -2.676_813_5e-2);
    let q = q.mul_add(square, 1.128_199_3e-1);
    let q = q.mul_add(square, -3.761_253_4e-1);
    let q = q.mul_add(square, 1.283_791_7e-1);
    let near = q.mul_add(x, x);
    if t > 0.927_734_4 { far } else { near }
}

/// The distribution function of the standard normal.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `sigmoid(1.702 x)` and `1 - sigmoid(1.702 x)`, each without cancellation.
#[inline(always)]
fn quick_gates(x: f32) -> (f32, f32) {
    let e = exp(-QUICK * x);
    let open = 1.0 / (1.0 + e);
    (open, e * open)
}

/// QuickGELU's factor.
const QUICK: f32 = 1.702;

multiversion! {
    /// `y = x cdf(x)`.
    pub(crate) fn gelu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let value = x * normal_cdf(x);
            // The limit, where the product would be `-inf * 0`.
            *y = if x == f32::NEG_INFINITY { 0.0 } else { value };
        }
    }

    /// `y = g (cdf(x) + x pdf(x))`.
    pub(crate) fn gelu_backward(x: &[f32], g: &[f32], y: &mut [f32]) {
        const PEAK: f32 = 0.398_942_3;
        for ((y, &x), &g) in y.iter_mut().zip(x).zip(g) {
            let slope = (x * PEAK).mul_add(exp(-0.5 * x * x), normal_cdf(x));
            // x pdf(x) vanishes far out, also where x^2 overflows.
            let slope = if x > 20.0 { 1.0 } else { slope };
            let slope = if x < -20.0 { 0.0 } else { slope };
            *y = g * slope;
        }
    }

    /// `y = x sigmoid(1.702 x)`.
    pub(crate) fn quick_gelu(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let value = x * quick_gates(x).0;
            // `exp` saturates: far out the product would not vanish.
            *y = if x < -50.0 { 0.0 } else { value };
        }
    }

    /// `y = g (s + 1.702 x s (1 - s))` with `s = sigmoid(1.702 x)`.
    pub(crate) fn quick_gelu_backward(x: &[f32], g: &[f32], y: &mut [f32]) {
        for ((y, &x), &g) in y.iter_mut().zip(x).zip(g) {
            let (open, shut) = quick_gates(x);
            let slope = (QUICK * x * shut).mul_add(open, open);
            let slope = if x > 50.0 { 1.0 } else { slope };
            let slope = if x < -50.0 { 0.0 } else { slope };
            *y = g * slope;
        }
    }

    /// Each row of `n` becomes `softmax(scale row)`; its log-sum-exp goes to `lse` if there is room.
    pub(crate) fn softmax_rows(rows: &mut [f32], n: usize, scale: f32, lse: &mut [f32]) {
        for (index, row) in rows.chunks_exact_mut(n).enumerate() {
            let offset = -largest(row) * scale;
            let mut lanes = [0.0; LANES];
            let mut chunks = row.chunks_exact_mut(LANES);
            for chunk in &mut chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *value = exp(value.mul_add(scale, offset));
                    *lane += *value;
                }
            }
            let remainder = chunks.into_remainder();
            for value in remainder.iter_mut() {
                *value = exp(value.mul_add(scale, offset));
            }
            // A sum in order is not vectorised: it has a loop of its own.
            let rest = remainder.iter().fold(0.0, |sum, value| sum + *value);
            let sum = total(lanes) + rest;
            if let Some(lse) = lse.get_mut(index) {
                *lse = sum.ln() - offset;
            }
            let inverse = 1.0 / sum;
            for value in row.iter_mut() {
                *value *= inverse;
            }
        }
    }

    /// `y <- scale y + x`.
    pub(crate) fn scale_add(y: &mut [f32], scale: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = y.mul_add(scale, *x);
        }
    }

    /// `y <- y + scale x`.
    pub(crate) fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x.mul_add(scale, *y);
        }
    }

    /// Scores become probabilities again from their log-sum-exp: `exp(scale s - lse)`.
    pub(crate) fn softmax_again(rows: &mut [f32], n: usize, scale: f32, lse: &[f32]) {
        for (row, &lse) in rows.chunks_exact_mut(n).zip(lse) {
            for value in row.iter_mut() {
                *value = exp(value.mul_add(scale, -lse));
            }
        }
    }

    /// `dp <- scale p (dp - <p, dp>)` row by row: the gradient of the scores.
    pub(crate) fn softmax_backward(p: &[f32], dp: &mut [f32], n: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(n).zip(dp.chunks_exact_mut(n)) {
            let mut lanes = [0.0; LANES];
            let whole = n / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let (p, dp) = (&p[at..at + LANES], &dp[at..at + LANES]);
                for (lane, (p, dp)) in lanes.iter_mut().zip(p.iter().zip(dp)) {
                    *lane = p.mul_add(*dp, *lane);
                }
            }
            let mut inner = total(lanes);
            for i in whole..n {
                inner = p[i].mul_add(dp[i], inner);
            }
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = scale * p * (*dp - inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in 0..200_000 {
            let x = -86.0 + 173.0 * i as f32 / 200_000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(
                error < 2.0 * f64::from(f32::EPSILON),
                "exp({x}) is off by {error:e}"
            );
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(-1e30) < 2e-38);
    }

    #[test]
    fn erf_is_odd_bounded_and_known_where_tables_have_it() {
        for (x, y) in [(0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)] {
            assert!((erf(x) - y).abs() < 1.2e-7, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
        assert_eq!(erf(10.0), 1.0);
        assert_eq!(erf(0.0), 0.0);
        assert!(erf(f32::NAN).is_nan());
    }
}
