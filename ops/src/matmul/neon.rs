//! The registers of AArch64 and the run of a tile in them.
//!
//! A product takes one of its factors from a lane of a register, so that four values of `a` are one load
//! instead of four. Of 32 registers a tile of eight rows of eight uses 16 for sums, 8 for four columns of `a`
//! and 2 for a row of `b`. As many sums as that keep four multipliers busy whose results take four cycles.

use std::arch::aarch64::*;

use super::register::{self, Register};

/// Rows of the tile.
const ROWS: usize = 8;

impl Register for float32x4_t {
    const LANES: usize = 4;
    const SPACIOUS: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the values; any alignment of `f32` will do.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the room; any alignment of `f32` will do.
        unsafe { vst1q_f32(to, self) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: every CPU of the architecture has NEON.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: every CPU of the architecture has NEON.
        unsafe { vaddq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        // SAFETY: every CPU of the architecture has NEON.
        unsafe { vfmaq_f32(self, a, b) }
    }

    #[inline(always)]
    unsafe fn run<const HEIGHT: usize, const ACROSS: usize>(
        a: *const f32,
        strides: [usize; 2],
        b: *const f32,
        count: usize,
    ) -> [[Self; ACROSS]; HEIGHT] {
        if HEIGHT != ROWS {
            // SAFETY: what the caller vouches for.
            return unsafe { register::run(a, strides, b, count) };
        }
        // SAFETY: what the caller vouches for; the two arrays have one type, since `HEIGHT` is `ROWS`.
        unsafe { std::mem::transmute_copy(&run::<ACROSS>(a, strides, b, count)) }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
        // SAFETY: the caller vouches for four values of each of four rows and for room in as many lines.
        unsafe {
            let rows: [_; 4] = std::array::from_fn(|i| vld1q_f32(from.add(i * row)));
            // Even and odd columns of two rows, as pairs of values that move together in the second step.
            let pairs = |i: usize| {
                let (even, odd) = (
                    vtrn1q_f32(rows[i], rows[i + 1]),
                    vtrn2q_f32(rows[i], rows[i + 1]),
                );
                (vreinterpretq_f64_f32(even), vreinterpretq_f64_f32(odd))
            };
            let ((even, odd), (even_2, odd_2)) = (pairs(0), pairs(2));
            let columns = [
                vtrn1q_f64(even, even_2),
                vtrn1q_f64(odd, odd_2),
                vtrn2q_f64(even, even_2),
                vtrn2q_f64(odd, odd_2),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.add(i * line), vreinterpretq_f32_f64(column));
            }
        }
    }
}

/// Adds the products of one column of `a`, whose value for each row is in the given lane of a register, with
/// the row of `b` at `$b`.
macro_rules! column {
    ($sums:ident, $b:expr, |$row:ident| $values:expr, $lane:expr) => {
        for j in 0..ACROSS {
            let b = vld1q_f32($b.add(4 * j));
            for $row in 0..ROWS {
                $sums[$row][j] = vfmaq_laneq_f32::<{ $lane }>($sums[$row][j], b, $values);
            }
        }
    };
}

/// [`Register::run`] for a tile of [`ROWS`] rows.
///
/// # Safety
/// The caller keeps the conditions of [`Register::run`].
#[inline(always)]
unsafe fn run<const ACROSS: usize>(
    a: *const f32,
    strides: [usize; 2],
    b: *const f32,
    count: usize,
) -> [[float32x4_t; ACROSS]; ROWS] {
    // SAFETY: the loops read four columns of all rows of `a` at a time while there are four, or all rows of
    // one column, and as many rows of `b`. The caller vouches for all of these.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); ACROSS]; ROWS];
        let line = 4 * ACROSS;
        let mut k = 0;
        match strides {
            [row, 1] => {
                while k + 4 <= count {
                    let four: [_; ROWS] = std::array::from_fn(|i| vld1q_f32(a.add(i * row + k)));
                    column!(sums, b.add(k * line), |i| four[i], 0);
                    column!(sums, b.add((k + 1) * line), |i| four[i], 1);
                    column!(sums, b.add((k + 2) * line), |i| four[i], 2);
                    column!(sums, b.add((k + 3) * line), |i| four[i], 3);
                    k += 4;
                }
            }
            [1, column] => {
                while k < count {
                    let half = |i: usize| vld1q_f32(a.add(k * column + 4 * i));
                    let (upper, lower) = (half(0), half(1));
                    for j in 0..ACROSS {
                        let b = vld1q_f32(b.add(k * line + 4 * j));
                        sums[0][j] = vfmaq_laneq_f32::<0>(sums[0][j], b, upper);
                        sums[1][j] = vfmaq_laneq_f32::<1>(sums[1][j], b, upper);
                        sums[2][j] = vfmaq_laneq_f32::<2>(sums[2][j], b, upper);
                        sums[3][j] = vfmaq_laneq_f32::<3>(sums[3][j], b, upper);
                        sums[4][j] = vfmaq_laneq_f32::<0>(sums[4][j], b, lower);
                        sums[5][j] = vfmaq_laneq_f32::<1>(sums[5][j], b, lower);
                        sums[6][j] = vfmaq_laneq_f32::<2>(sums[6][j], b, lower);
                        sums[7][j] = vfmaq_laneq_f32::<3>(sums[7][j], b, lower);
                    }
                    k += 1;
                }
            }
            _ => {}
        }
        while k < count {
            for j in 0..ACROSS {
                let b = vld1q_f32(b.add(k * line + 4 * j));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let value = *a.add(i * strides[0] + k * strides[1]);
                    sums[j] = vfmaq_n_f32(sums[j], b, value);
                }
            }
            k += 1;
        }
        sums
    }
}
