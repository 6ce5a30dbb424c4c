//! The two inner loops of every convolution: a tile of a matrix product, and dot
//! products of a few long rows with a few others.

use std::ops::Range;

use crate::buffer::Unset;
use crate::level::{self, Level};
use crate::matmul::Kernels;

/// Values of the widest vector; rows of [`dots`] are a multiple of it long.
pub(super) const LANES: usize = 16;

/// Rows of the left and of the right side of [`dots`]: their 24 sums, four vectors of the left side and one
/// of the right fill 29 of 32 registers.
pub(super) const DOTS: [usize; 2] = [4, 6];

/// The tile of a level.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) rows: usize,
    /// Columns of the widest panel.
    pub(super) columns: usize,
    /// Panels are a multiple of as many columns wide.
    lanes: usize,
}

impl Kernel {
    /// That of the current level. AVX-512 has registers for a wider tile than that of a matrix product; the
    /// others have one tile for both.
    pub(super) fn current() -> Self {
        #[cfg(target_arch = "x86_64")]
        if level::current() == Level::Avx512 {
            return avx512::KERNEL;
        }
        let kernels = Kernels::current();
        Self {
            rows: kernels.rows,
            columns: kernels.columns,
            lanes: kernels.columns / 2,
        }
    }

    /// Columns of a panel that holds `count` columns.
    pub(super) fn width(self, count: usize) -> usize {
        count.next_multiple_of(self.lanes)
    }

    /// `out[i, j] = sum_k a[i, k] b[k, j]`, added to what is there if `add`.
    ///
    /// # Shapes
    /// `b [k, width]`, `out [rows, width]`.
    ///
    /// # Safety
    /// `a` has as many rows as the kernel, of as many values as `b` has rows, at the strides from row to
    /// row and from value to value.
    pub(super) unsafe fn tile(
        self,
        width: usize,
        (a, strides): (*const f32, [usize; 2]),
        b: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        assert!(b.len().is_multiple_of(width) && out.len() == self.rows * width);
        #[cfg(target_arch = "x86_64")]
        if self.lanes == LANES {
            // SAFETY: only the kernel of AVX-512 has vectors as wide, and it is that of the current level.
            // The caller vouches for `a`.
            return unsafe {
                match width / LANES {
                    1 => avx512::tile::<1>(a, strides, b, out, add),
                    2 => avx512::tile::<2>(a, strides, b, out, add),
                    _ => avx512::tile::<3>(a, strides, b, out, add),
                }
            };
        }
        // SAFETY: the panel has as many rows as are read of it, and `out` has room for the tile. The caller
        // vouches for `a`.
        unsafe { Kernels::current().sums(width, (a, strides), b, out, add) }
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

/// Tiles of a transposed weight, which are packed line by line.
pub(super) struct Lines<'a> {
    /// The taps that count.
    pub(super) taps: &'a [usize],
    /// Number of all taps of the weight.
    pub(super) all: usize,
    /// The rows of the tiles, and those that are left.
    pub(super) rows: Range<usize>,
    pub(super) tiles: Tiles<'a>,
}

/// Some tiles, `[.., depth, height]`, each with a gap behind it.
pub(super) struct Tiles<'a> {
    pub(super) values: &'a mut [Unset],
    pub(super) height: usize,
    /// From a tile to the next.
    pub(super) size: usize,
}

impl Lines<'_> {
    /// Packs the lines of a channel: for each tap that counts the values of all rows, times `scale`. Rows
    /// that the last tile lacks are zero.
    ///
    /// # Shapes
    /// `weight [rows, all]`.
    pub(super) fn pack(&mut self, channel: usize, weight: &[f32], scale: f32) {
        // Heights and steps that the compiler knows.
        match (self.tiles.height, self.all) {
            (4, _) => self.pack_tiles::<4>(channel, weight, self.all, scale),
            (6, 1) => self.pack_tiles::<6>(channel, weight, 1, scale),
            (6, 9) => self.pack_tiles::<6>(channel, weight, 9, scale),
            (6, _) => self.pack_tiles::<6>(channel, weight, self.all, scale),
            (8, 1) => self.pack_tiles::<8>(channel, weight, 1, scale),
            _ => self.pack_tiles::<8>(channel, weight, self.all, scale),
        }
    }

    #[inline(always)]
    fn pack_tiles<const H: usize>(
        &mut self,
        channel: usize,
        weight: &[f32],
        all: usize,
        scale: f32,
    ) {
        let start = channel * self.taps.len() * H;
        for (first, tile) in self
            .rows
            .clone()
            .step_by(H)
            .zip(self.tiles.values.chunks_exact_mut(self.tiles.size))
        {
            let lines = tile[start..][..self.taps.len() * H].as_chunks_mut::<H>().0;
            let weight = &weight[first * all..];
            for (&tap, line) in self.taps.iter().zip(lines) {
                match weight.get(tap..tap + (H - 1) * all + 1) {
                    Some(weight) => {
                        for i in 0..H {
                            line[i].write(weight[i * all] * scale);
                        }
                    }
                    None => {
                        for (i, value) in line.iter_mut().enumerate() {
                            let weight = weight.get(tap + i * all);
                            value.write(weight.map_or(0.0, |weight| weight * scale));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{DOTS, Kernel, LANES};
    use crate::matmul::RUN;

    pub(super) const KERNEL: Kernel = Kernel {
        rows: 2 * PART,
        columns: 3 * LANES,
        lanes: LANES,
    };

    /// Rows whose sums and totals fit into the 32 registers beside a row of the panel: 12 + 12 + 3 with
    /// three vectors across. A tile is computed in two parts.
    const PART: usize = 4;

    /// # Safety
    /// As for [`Kernel::tile`], with V vectors across.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile<const V: usize>(
        a: *const f32,
        strides: [usize; 2],
        b: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        for (part, out) in out.chunks_exact_mut(PART * V * LANES).enumerate() {
            // SAFETY: the caller vouches for the rows of both parts.
            unsafe { self::part::<V>(a.add(part * PART * strides[0]), strides, b, out, add) };
        }
    }

    /// Half of a tile.
    ///
    /// # Safety
    /// As for [`tile`], with half of its rows.
    #[target_feature(enable = "avx512f")]
    unsafe fn part<const V: usize>(
        mut a: *const f32,
        [row, value]: [usize; 2],
        b: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        let mut totals = [[_mm512_setzero_ps(); V]; PART];
        if add {
            for (totals, out) in totals.iter_mut().zip(out.chunks_exact(V * LANES)) {
                for v in 0..V {
                    // SAFETY: the chunk has V vectors of LANES values, and v is below V.
                    totals[v] = unsafe { _mm512_loadu_ps(out.as_ptr().add(v * LANES)) };
                }
            }
        }
        for b in b.chunks(RUN * V * LANES) {
            // Up to 12 sums that do not wait for each other hide the latency of a product.
            let mut sums = [[_mm512_setzero_ps(); V]; PART];
            for b in b.chunks_exact(V * LANES) {
                let mut right = [_mm512_setzero_ps(); V];
                for v in 0..V {
                    // SAFETY: the chunk has V vectors of LANES values, and v is below V.
                    right[v] = unsafe { _mm512_loadu_ps(b.as_ptr().add(v * LANES)) };
                }
                for i in 0..PART {
                    // SAFETY: `a` has a value in each of its rows for each row of `b`.
                    let left = unsafe { _mm512_set1_ps(*a.add(i * row)) };
                    for v in 0..V {
                        sums[i][v] = _mm512_fmadd_ps(left, right[v], sums[i][v]);
                    }
                }
                // Wrapping, since the last step may lead beyond the end.
                a = a.wrapping_add(value);
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

    use super::{DOTS, LANES};
    use crate::math::halved;

    /// Values of a vector of this level.
    const HALF: usize = LANES / 2;

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
    use super::{DOTS, LANES};
    use crate::math::halved;

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
