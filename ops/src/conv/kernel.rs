//! The two inner loops of every convolution: a tile of a matrix product from packed panels, and dot
//! products of a few long rows with a few others.

use crate::level::{self, Level};
use crate::simd::multiversion;

/// Rows of a tile.
pub(super) const ROWS: usize = 8;
/// Values of the widest vector; panels are a multiple of it wide.
pub(super) const LANES: usize = 16;
/// Columns of the widest panel.
pub(super) const COLUMNS: usize = 3 * LANES;

/// Number of products that [`tile`] sums one after the other before it adds them to the total. Rounding
/// errors grow with the length of a sum, and two levels of sums are short ones.
const SHORT: usize = 16;

/// Rows of the left and of the right side of [`dots`]: their 24 sums, four vectors of the left side and one
/// of the right fill 29 of 32 registers.
pub(super) const DOTS: [usize; 2] = [4, 6];

/// `out[i, j] = sum_k a[k, i] b[k, j]`, added to what is there if `add`.
///
/// # Shapes
/// `a [k, ROWS]`, `b [k, columns]`, `out [ROWS, columns]` with 16, 32 or 48 columns.
pub(super) fn tile(columns: usize, a: &[[f32; ROWS]], b: &[f32], out: &mut [f32], add: bool) {
    assert!(b.len() == a.len() * columns && out.len() == ROWS * columns);
    match (level::current(), columns / LANES) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this level is current only where the CPU has AVX-512 F.
        (Level::Avx512, vectors) => unsafe {
            match vectors {
                1 => avx512::tile::<1>(a, b, out, add),
                2 => avx512::tile::<2>(a, b, out, add),
                _ => avx512::tile::<3>(a, b, out, add),
            }
        },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this level is current only where the CPU has AVX2 and FMA.
        (Level::Avx2, vectors) => unsafe {
            match vectors {
                1 => avx2::tile::<1>(a, b, out, add),
                2 => avx2::tile::<2>(a, b, out, add),
                _ => avx2::tile::<3>(a, b, out, add),
            }
        },
        _ => portable::tile(columns, a, b, out, add),
    }
}

/// `sum_k a[i, k] b[j, k]` of four rows with six.
///
/// # Shapes
/// `a [4, stride]`, `b [6, stride]`, of which the first `length`, a multiple of [`LANES`], count.
pub(super) fn dots(
    [length, stride]: [usize; 2],
    a: &[f32],
    b: &[f32],
) -> [[f32; DOTS[1]]; DOTS[0]] {
    assert!(length.is_multiple_of(LANES) && length <= stride);
    assert!(a.len() == DOTS[0] * stride && b.len() == DOTS[1] * stride);
    match level::current() {
        // SAFETY: this level is current only where the CPU has AVX-512 F and DQ.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::dots([length, stride], a, b) },
        // SAFETY: this level is current only where the CPU has AVX2 and FMA.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::dots([length, stride], a, b) },
        _ => portable::dots([length, stride], a, b),
    }
}

multiversion! {
    /// Interleaves rows: `panel[k][i] = rows[i][k]`. Values of a panel beyond the rows stay as they are.
    ///
    /// # Shapes
    /// `rows [<= ROWS, k]`, `panel [k, ROWS]`.
    pub(super) fn interleave<S>(rows: &[f32], panel: &mut [[f32; ROWS]]) {
        let depth = panel.len();
        // With all rows there, their number is known to the compiler, and it vectorises.
        if rows.len() == ROWS * depth {
            let rows: [&[f32]; ROWS] = std::array::from_fn(|i| &rows[i * depth..][..depth]);
            for (k, panel) in panel.iter_mut().enumerate() {
                for i in 0..ROWS {
                    panel[i] = rows[i][k];
                }
            }
        } else {
            for (i, row) in rows.chunks_exact(depth.max(1)).enumerate() {
                for (value, panel) in row.iter().zip(panel.iter_mut()) {
                    panel[i] = *value;
                }
            }
        }
    }
}

/// `column[i] = scale values[i step]`.
#[inline]
pub(super) fn column(values: &[f32], step: usize, scale: f32, column: &mut [f32]) {
    // A whole column needs one check of the bounds instead of one for each value.
    if let (Ok(column), true) = (
        <&mut [f32; ROWS]>::try_from(&mut *column),
        values.len() > (ROWS - 1) * step,
    ) {
        for i in 0..ROWS {
            column[i] = values[i * step] * scale;
        }
        return;
    }
    for (i, column) in column.iter_mut().enumerate() {
        *column = values[i * step] * scale;
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{DOTS, LANES, ROWS, SHORT};

    /// Rows whose sums and totals fit into the 32 registers beside a row of the panel: 12 + 12 + 3 with
    /// three vectors across. A tile is computed in two parts.
    const PART: usize = ROWS / 2;

    #[target_feature(enable = "avx512f")]
    pub(super) fn tile<const V: usize>(a: &[[f32; ROWS]], b: &[f32], out: &mut [f32], add: bool) {
        for (row, out) in [0, PART]
            .into_iter()
            .zip(out.chunks_exact_mut(PART * V * LANES))
        {
            part::<V>(a, b, row, out, add);
        }
    }

    /// Half of a tile, from `row` on.
    #[target_feature(enable = "avx512f")]
    fn part<const V: usize>(a: &[[f32; ROWS]], b: &[f32], row: usize, out: &mut [f32], add: bool) {
        assert!(row + PART <= ROWS);
        let mut totals = [[_mm512_setzero_ps(); V]; PART];
        if add {
            for (totals, out) in totals.iter_mut().zip(out.chunks_exact(V * LANES)) {
                for v in 0..V {
                    // SAFETY: the chunk has V vectors of LANES values, and v is below V.
                    totals[v] = unsafe { _mm512_loadu_ps(out.as_ptr().add(v * LANES)) };
                }
            }
        }
        for (a, b) in a.chunks(SHORT).zip(b.chunks(SHORT * V * LANES)) {
            // Up to 12 sums that do not wait for each other hide the latency of a product.
            let mut sums = [[_mm512_setzero_ps(); V]; PART];
            for (a, b) in a.iter().zip(b.chunks_exact(V * LANES)) {
                let mut right = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    // SAFETY: the chunk has V vectors of LANES values, and v is below V.
                    right[v] = unsafe { _mm512_loadu_ps(b.as_ptr().add(v * LANES)) };
                }
                for i in 0..PART {
                    let left = _mm512_set1_ps(a[row + i]);
                    for v in 0..V {
                        sums[i][v] = _mm512_fmadd_ps(left, right[v], sums[i][v]);
                    }
                }
            }
            for i in 0..PART {
                for v in 0..V {
                    totals[i][v] = _mm512_add_ps(totals[i][v], sums[i][v]);
                }
            }
        }
        for (totals, out) in totals.iter().zip(out.chunks_exact_mut(V * LANES)) {
            for v in 0..V {
                // SAFETY: the chunk has V vectors of LANES values, and v is below V.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(v * LANES), totals[v]) };
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) fn dots(
        [length, stride]: [usize; 2],
        a: &[f32],
        b: &[f32],
    ) -> [[f32; DOTS[1]]; DOTS[0]] {
        let mut sums = [[_mm512_setzero_ps(); DOTS[1]]; DOTS[0]];
        for k in (0..length).step_by(LANES) {
            let mut left = [_mm512_setzero_ps(); DOTS[0]];
            for i in 0..DOTS[0] {
                // SAFETY: `super::dots` checked that `a` has 4 rows of `stride` values, at least `length`,
                // a multiple of LANES, so that a whole vector from k on lies in row i.
                left[i] = unsafe { _mm512_loadu_ps(a.as_ptr().add(i * stride + k)) };
            }
            for j in 0..DOTS[1] {
                // SAFETY: `super::dots` checked that `b` has 6 rows of `stride` values, at least `length`,
                // a multiple of LANES, so that a whole vector from k on lies in row j.
                let right = unsafe { _mm512_loadu_ps(b.as_ptr().add(j * stride + k)) };
                for i in 0..DOTS[0] {
                    sums[i][j] = _mm512_fmadd_ps(left[i], right, sums[i][j]);
                }
            }
        }
        let mut totals = [[0.0; DOTS[1]]; DOTS[0]];
        let sums = sums.as_flattened().chunks_exact(4);
        for (sums, totals) in sums.zip(totals.as_flattened_mut().chunks_exact_mut(4)) {
            // Four sums at once, within quarters of the vectors first and then across them: each step adds
            // vectors of which every lane counts.
            let pair = |a, b| _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let ab = _mm512_castps_pd(pair(sums[0], sums[1]));
            let cd = _mm512_castps_pd(pair(sums[2], sums[3]));
            let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
            let quarters = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            let (low, high) = (
                _mm512_castps512_ps256(quarters),
                _mm512_extractf32x8_ps::<1>(quarters),
            );
            let halves = _mm256_add_ps(low, high);
            let (low, high) = (
                _mm256_castps256_ps128(halves),
                _mm256_extractf128_ps::<1>(halves),
            );
            // SAFETY: `chunks_exact_mut(4)` gives four values.
            unsafe { _mm_storeu_ps(totals.as_mut_ptr(), _mm_add_ps(low, high)) };
        }
        totals
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{DOTS, LANES, ROWS, SHORT};
    use crate::math::halved;

    /// Values of a vector of this level.
    const HALF: usize = LANES / 2;
    /// Rows whose sums fit into the 16 registers beside half a row of the panel: 12 + 3 with three vectors
    /// across. There is no room for totals, which are in memory: a tile is computed in quarters.
    const PART: usize = ROWS / 2;

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn tile<const V: usize>(a: &[[f32; ROWS]], b: &[f32], out: &mut [f32], add: bool) {
        // Run by run outside of the quarters: the 16 rows of a run stay in the first cache for all four.
        let blocks = a.chunks(SHORT).zip(b.chunks(SHORT * V * LANES));
        for (block, (a, b)) in blocks.enumerate() {
            for row in [0, PART] {
                for column in [0, V * HALF] {
                    let out = &mut out[row * V * LANES..];
                    part::<V>(a, b, [row, column], out, add || block > 0);
                }
            }
        }
    }

    /// A quarter of a tile, from `row` and `column` on.
    #[target_feature(enable = "avx2,fma")]
    fn part<const V: usize>(
        a: &[[f32; ROWS]],
        b: &[f32],
        [row, column]: [usize; 2],
        out: &mut [f32],
        add: bool,
    ) {
        assert!(column <= V * HALF);
        let mut sums = [[_mm256_setzero_ps(); V]; PART];
        for (a, b) in a.iter().zip(b.chunks_exact(V * LANES)) {
            let mut right = [_mm256_setzero_ps(); V];
            for v in 0..V {
                // SAFETY: the chunk has twice V vectors of HALF values. `column` leaves V of them, and v is
                // below V.
                right[v] = unsafe { _mm256_loadu_ps(b.as_ptr().add(column + v * HALF)) };
            }
            for i in 0..PART {
                let left = _mm256_set1_ps(a[row + i]);
                for v in 0..V {
                    sums[i][v] = _mm256_fmadd_ps(left, right[v], sums[i][v]);
                }
            }
        }
        for (sums, out) in sums.iter().zip(out.chunks_exact_mut(V * LANES)) {
            for v in 0..V {
                // SAFETY: the chunk has twice V vectors of HALF values. `column` leaves V of them, and v is
                // below V.
                unsafe {
                    let place = out.as_mut_ptr().add(column + v * HALF);
                    let sum = if add {
                        _mm256_add_ps(_mm256_loadu_ps(place), sums[v])
                    } else {
                        sums[v]
                    };
                    _mm256_storeu_ps(place, sum);
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn dots(
        [length, stride]: [usize; 2],
        a: &[f32],
        b: &[f32],
    ) -> [[f32; DOTS[1]]; DOTS[0]] {
        // Half of the right rows at a time: 4 by 3 sums, the three of them and one of the left fill the 16
        // registers.
        const WIDE: usize = DOTS[1] / 2;
        let mut totals = [[0.0; DOTS[1]]; DOTS[0]];
        for first in [0, WIDE] {
            let mut sums = [[_mm256_setzero_ps(); WIDE]; DOTS[0]];
            for k in (0..length).step_by(HALF) {
                let mut right = [_mm256_setzero_ps(); WIDE];
                for j in 0..WIDE {
                    let row = first + j;
                    // SAFETY: `super::dots` checked that `b` has 6 rows of `stride` values, at least
                    // `length`, a multiple of HALF, so that a whole vector from k on lies in this row.
                    right[j] = unsafe { _mm256_loadu_ps(b.as_ptr().add(row * stride + k)) };
                }
                for i in 0..DOTS[0] {
                    // SAFETY: `super::dots` checked that `a` has 4 rows of `stride` values, at least
                    // `length`, a multiple of HALF, so that a whole vector from k on lies in row i.
                    let left = unsafe { _mm256_loadu_ps(a.as_ptr().add(i * stride + k)) };
                    for j in 0..WIDE {
                        sums[i][j] = _mm256_fmadd_ps(left, right[j], sums[i][j]);
                    }
                }
            }
            for i in 0..DOTS[0] {
                for j in 0..WIDE {
                    let mut lanes = [0.0; HALF];
                    // SAFETY: the array has the HALF values of a vector.
                    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sums[i][j]) };
                    totals[i][first + j] = halved(lanes, |a, b| a + b);
                }
            }
        }
        totals
    }
}

/// For every other processor. The compiler vectorises it as far as the processor has vectors.
mod portable {
    use super::{DOTS, LANES, ROWS, SHORT};
    use crate::math::halved;

    /// Columns at a time: with two rows, the sums stay in the 16 registers that SSE2 has.
    const NARROW: usize = 8;

    pub(super) fn tile(columns: usize, a: &[[f32; ROWS]], b: &[f32], out: &mut [f32], add: bool) {
        let blocks = a.chunks(SHORT).zip(b.chunks(SHORT * columns));
        for (block, (a, b)) in blocks.enumerate() {
            for column in (0..columns).step_by(NARROW) {
                for row in (0..ROWS).step_by(2) {
                    let mut sums = [[0.0; NARROW]; 2];
                    for (a, b) in a.iter().zip(b.chunks_exact(columns)) {
                        let b = &b[column..column + NARROW];
                        for i in 0..2 {
                            for j in 0..NARROW {
                                sums[i][j] += a[row + i] * b[j];
                            }
                        }
                    }
                    for i in 0..2 {
                        let out = &mut out[(row + i) * columns + column..][..NARROW];
                        for j in 0..NARROW {
                            let before = if add || block > 0 { out[j] } else { 0.0 };
                            out[j] = before + sums[i][j];
                        }
                    }
                }
            }
        }
    }

    pub(super) fn dots(
        [length, stride]: [usize; 2],
        a: &[f32],
        b: &[f32],
    ) -> [[f32; DOTS[1]]; DOTS[0]] {
        let mut totals = [[0.0; DOTS[1]]; DOTS[0]];
        for (i, a) in a.chunks_exact(stride).enumerate() {
            for (j, b) in b.chunks_exact(stride).enumerate() {
                let mut sums = [0.0; LANES];
                for (a, b) in a[..length]
                    .chunks_exact(LANES)
                    .zip(b[..length].chunks_exact(LANES))
                {
                    for k in 0..LANES {
                        sums[k] += a[k] * b[k];
                    }
                }
                totals[i][j] = halved(sums, |a, b| a + b);
            }
        }
        totals
    }
}
