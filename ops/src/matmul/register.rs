//! Registers of neighbouring values.

#[cfg(not(target_arch = "aarch64"))]
use crate::simd::{Portable, Simd};

/// A register of neighbouring values. Vectors of the architecture rather than arrays, which the compiler
/// does not reliably keep in registers.
///
/// # Safety
/// Every function asks that the level of the register is current: its instructions do not exist otherwise.
pub(crate) trait Register: Copy {
    /// Values in a register.
    const LANES: usize;

    /// Whether there are registers for the totals of a tile beside the sums of a run.
    const SPACIOUS: bool;

    /// # Safety
    /// The level is current, and `LANES` values from `from` on may be read.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// The level is current, and `LANES` values from `to` on may be written.
    unsafe fn store(self, to: *mut f32);

    /// # Safety
    /// The level is current.
    unsafe fn splat(value: f32) -> Self;

    /// # Safety
    /// The level is current.
    unsafe fn plus(self, other: Self) -> Self;

    /// `self + a b`.
    ///
    /// # Safety
    /// The level is current.
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;

    /// The sums of `count` products each, for a tile.
    ///
    /// # Safety
    /// The level is current. `a` has `ROWS` rows and `b` has `ACROSS` registers to read in each of `count`
    /// columns and rows, at the strides of `a` and without a gap in `b`.
    #[inline(always)]
    unsafe fn run<const ROWS: usize, const ACROSS: usize>(
        a: *const f32,
        strides: [usize; 2],
        b: *const f32,
        count: usize,
    ) -> [[Self; ACROSS]; ROWS] {
        // SAFETY: what the caller vouches for.
        unsafe { run(a, strides, b, count) }
    }

    /// Transposes a square: [`LANES`](Self::LANES) rows of as many values, `row` values apart, become the
    /// columns of lines that are `line` values apart.
    ///
    /// # Safety
    /// The level is current. `LANES` values of each row may be read, and of each line may be written.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
        for j in 0..Self::LANES {
            for i in 0..Self::LANES {
                // SAFETY: both indices are below `LANES`, and the caller vouches for as many values of as
                // many rows and lines.
                unsafe { *to.add(i * line + j) = *from.add(j * row + i) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! register {
    ($register:ident x $lanes:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $fma:ident,
     { $($better:item)* }) => {
        impl Register for std::arch::x86_64::$register {
            const LANES: usize = $lanes;
            const SPACIOUS: bool = $lanes == 16;

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller vouches for the level and for the values; any alignment will do.
                unsafe { std::arch::x86_64::$load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller vouches for the level and for the room; any alignment will do.
                unsafe { std::arch::x86_64::$store(to, self) }
            }

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the caller vouches for the level.
                unsafe { std::arch::x86_64::$splat(value) }
            }

            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the level.
                unsafe { std::arch::x86_64::$add(self, other) }
            }

            #[inline(always)]
            unsafe fn plus_product(self, a: Self, b: Self) -> Self {
                // SAFETY: the caller vouches for the level.
                unsafe { std::arch::x86_64::$fma(a, b, self) }
            }

            $($better)*
        }
    };
}
#[cfg(target_arch = "x86_64")]
register!(__m512 x 16, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_fmadd_ps, {
    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
        // SAFETY: the caller vouches for the level, the rows and the lines.
        unsafe { transpose_16(from, row, to, line) }
    }
});
#[cfg(target_arch = "x86_64")]
register!(__m256 x 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_fmadd_ps, {
    #[inline(always)]
    unsafe fn run<const ROWS: usize, const ACROSS: usize>(
        a: *const f32,
        strides: [usize; 2],
        b: *const f32,
        count: usize,
    ) -> [[Self; ACROSS]; ROWS] {
        if ROWS == super::avx2::ROWS && ACROSS == 2 {
            // SAFETY: what the caller vouches for; the two arrays have one type.
            unsafe { std::mem::transmute_copy(&super::avx2::run(a, strides, b, count)) }
        } else {
            // SAFETY: what the caller vouches for.
            unsafe { run(a, strides, b, count) }
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
        // SAFETY: the caller vouches for the level, the rows and the lines.
        unsafe { super::avx2::transpose(from, row, to, line) }
    }
});

/// Pairs of bf16 values, or sums of their products in `f32`: both as many as the register of AVX-512 has values.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) struct Pairs(std::arch::x86_64::__m512);

#[cfg(target_arch = "x86_64")]
impl Register for Pairs {
    const LANES: usize = 16;
    const SPACIOUS: bool = true;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: what the caller vouches for.
        Self(unsafe { Register::load(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: what the caller vouches for.
        unsafe { self.0.store(to) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: what the caller vouches for.
        Self(unsafe { Register::splat(value) })
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: what the caller vouches for.
        Self(unsafe { self.0.plus(other.0) })
    }

    /// `self + a_1 b_1 + a_2 b_2`, of the two values of a pair.
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};

        // SAFETY: the caller vouches for the level. Both types are 64 bytes, any of which are a value.
        Self(unsafe {
            let pairs = |x: Self| std::mem::transmute::<__m512, __m512bh>(x.0);
            _mm512_dpbf16_ps(self.0, pairs(a), pairs(b))
        })
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
        // SAFETY: what the caller vouches for.
        unsafe { <std::arch::x86_64::__m512 as Register>::transpose(from, row, to, line) }
    }
}

/// [`Register::transpose`] of 16 by 16 values: pairs of rows within quarters of the registers, pairs of
/// pairs, then quarters. One by one, their 256 values would take longer than the product that they are
/// packed for.
///
/// # Safety
/// The CPU has AVX-512 F. 16 values of each of 16 rows may be read, and of each of 16 lines be written.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16(from: *const f32, row: usize, to: *mut f32, line: usize) {
    use std::arch::x86_64::*;

    let mut rows = [_mm512_setzero_ps(); 16];
    for (i, register) in rows.iter_mut().enumerate() {
        // SAFETY: `i` is one of the 16 rows of 16 values that the caller vouches for.
        *register = unsafe { _mm512_loadu_ps(from.add(i * row)) };
    }
    let mut fours = [_mm512_setzero_ps(); 16]; // Column `4 q + c` of rows `4 i..` in quarter q of `4 i + c`.
    for i in (0..16).step_by(4) {
        let pair = |a: usize, b: usize| {
            let (low, high) = (
                _mm512_unpacklo_ps(rows[a], rows[b]),
                _mm512_unpackhi_ps(rows[a], rows[b]),
            );
            (_mm512_castps_pd(low), _mm512_castps_pd(high))
        };
        let ((low, high), (low_2, high_2)) = (pair(i, i + 1), pair(i + 2, i + 3));
        fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low_2));
        fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low_2));
        fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high_2));
        fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high_2));
    }
    const EVEN: i32 = 0x88;
    const ODD: i32 = 0xdd;
    for c in 0..4 {
        let [a, b, p, q] = [0, 4, 8, 12].map(|i| fours[i + c]);
        let (left, right) = (
            _mm512_shuffle_f32x4::<EVEN>(a, b),
            _mm512_shuffle_f32x4::<EVEN>(p, q),
        );
        let (left_odd, right_odd) = (
            _mm512_shuffle_f32x4::<ODD>(a, b),
            _mm512_shuffle_f32x4::<ODD>(p, q),
        );
        let columns = [
            _mm512_shuffle_f32x4::<EVEN>(left, right),
            _mm512_shuffle_f32x4::<EVEN>(left_odd, right_odd),
            _mm512_shuffle_f32x4::<ODD>(left, right),
            _mm512_shuffle_f32x4::<ODD>(left_odd, right_odd),
        ];
        for (quarter, column) in columns.into_iter().enumerate() {
            // SAFETY: `4 quarter + c` is one of the 16 lines of 16 values that the caller vouches for.
            unsafe { _mm512_storeu_ps(to.add((4 * quarter + c) * line), column) };
        }
    }
}

/// Registers that every CPU of the architecture has.
#[cfg(target_arch = "aarch64")]
pub(crate) type Baseline = std::arch::aarch64::float32x4_t;
/// Registers that every CPU of the architecture has. Four values: those of most architectures hold as many.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) type Baseline = [f32; 4];

#[cfg(not(target_arch = "aarch64"))]
impl Register for [f32; 4] {
    const LANES: usize = 4;
    const SPACIOUS: bool = false;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for four values; an array of `f32` is aligned as one of them.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for room for four values, aligned as one of them.
        unsafe { *to.cast() = self }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| Portable::fma(a[i], b[i], self[i]))
    }
}

/// [`Register::run`] where nothing better is known.
///
/// # Safety
/// The caller keeps the conditions of [`Register::run`].
#[inline(always)]
pub(super) unsafe fn run<R: Register, const ROWS: usize, const ACROSS: usize>(
    a: *const f32,
    strides: [usize; 2],
    b: *const f32,
    count: usize,
) -> [[R; ACROSS]; ROWS] {
    // SAFETY: the loops read what the caller vouches for, at the level that it vouches for.
    unsafe {
        let mut sums = [[R::splat(0.0); ACROSS]; ROWS];
        for k in 0..count {
            let a = a.wrapping_add(k * strides[1]);
            let b = b.add(k * ACROSS * R::LANES);
            let row: [R; ACROSS] = std::array::from_fn(|j| R::load(b.add(j * R::LANES)));
            for i in 0..ROWS {
                let value = R::splat(*a.add(i * strides[0]));
                for j in 0..ACROSS {
                    sums[i][j] = sums[i][j].plus_product(value, row[j]);
                }
            }
        }
        sums
    }
}
