//! The inner loop of a convolution, a tile of a matrix product, and the packing of transposed weights.

use std::ops::Range;

use crate::buffer::Unset;
#[cfg(target_arch = "x86_64")]
use crate::level::{self, Level};
use crate::matmul::Kernels;

/// The tile of a level.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    pub(super) rows: usize,
    /// Columns of the widest panel.
    pub(super) columns: usize,
    /// Panels are a multiple of as many columns wide.
    lanes: usize,
    /// Those of a matrix product, whose tile all levels but AVX-512 have.
    kernels: &'static Kernels,
}

impl Kernel {
    /// That of the current level. AVX-512 has registers for a wider tile than that of a matrix product; the
    /// others have one tile for both.
    pub(super) fn current() -> Self {
        let kernels = Kernels::current();
        #[cfg(target_arch = "x86_64")]
        if level::current() == Level::Avx512 {
            return Self {
                rows: avx512::ROWS,
                columns: avx512::COLUMNS,
                lanes: avx512::LANES,
                kernels,
            };
        }
        Self {
            rows: kernels.rows,
            columns: kernels.columns,
            lanes: kernels.columns / 2,
            kernels,
        }
    }

    /// Columns of a panel that holds `count` columns.
    pub(super) fn width(self, count: usize) -> usize {
        count.next_multiple_of(self.lanes)
    }

    /// `out[i, j] = sum_k a[i, k] b[k, j]` in runs of `run` products, added to what is there if `add`.
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
        (run, add): (usize, bool),
    ) {
        assert!(b.len().is_multiple_of(width) && out.len() == self.rows * width);
        #[cfg(target_arch = "x86_64")]
        if self.lanes == avx512::LANES {
            // SAFETY: only the kernel of AVX-512 has vectors as wide, and it is that of the current level.
            // The caller vouches for `a`.
            return unsafe {
                match width / self.lanes {
                    1 => avx512::tile::<1>(a, strides, b, out, (run, add)),
                    2 => avx512::tile::<2>(a, strides, b, out, (run, add)),
                    _ => avx512::tile::<3>(a, strides, b, out, (run, add)),
                }
            };
        }
        // SAFETY: the panel has as many rows as are read of it, and `out` has room for the tile. The caller
        // vouches for `a`.
        unsafe { self.kernels.sums(width, (a, strides), b, out, (run, add)) }
    }
}

/// Tiles of a transposed weight, which are packed some lines at a time.
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
    /// Packs the lines of some channels from `first` on: for each tap that counts the values of all rows, times the
    /// channel's `scale`. Rows that the last tile lacks are zero.
    ///
    /// # Shapes
    /// `weight [channels, rows, all]`, `scale [channels]`.
    pub(super) fn pack(&mut self, first: usize, weight: &[f32], scale: Option<&[f32]>) {
        // Heights and steps that the compiler knows.
        match (self.tiles.height, self.all) {
            (4, _) => self.pack_tiles::<4>(first, weight, self.all, scale),
            (6, 1) => self.pack_tiles::<6>(first, weight, 1, scale),
            (6, 9) => self.pack_tiles::<6>(first, weight, 9, scale),
            (6, _) => self.pack_tiles::<6>(first, weight, self.all, scale),
            (8, 1) => self.pack_tiles::<8>(first, weight, 1, scale),
            _ => self.pack_tiles::<8>(first, weight, self.all, scale),
        }
    }

    #[inline(always)]
    fn pack_tiles<const H: usize>(
        &mut self,
        first: usize,
        weight: &[f32],
        all: usize,
        scale: Option<&[f32]>,
    ) {
        let (size, depth) = (self.tiles.size, self.taps.len() * H);
        let tiles = self.tiles.values.chunks_exact_mut(size);
        for (row, tile) in self.rows.clone().step_by(H).zip(tiles) {
            let channels = weight.chunks_exact(self.rows.end * all).enumerate();
            for (channel, weight) in channels {
                let scale = scale.map_or(1.0, |scale| scale[channel]);
                let lines = &mut tile[(first + channel) * depth..][..depth];
                for (&tap, line) in self.taps.iter().zip(lines.as_chunks_mut::<H>().0) {
                    pack_line(&weight[row * all + tap..], all, scale, line);
                }
            }
        }
    }
}

/// Packs every `step`th value times `scale`, and zeros where there are no more.
#[inline(always)]
fn pack_line<const H: usize>(values: &[f32], step: usize, scale: f32, line: &mut [Unset; H]) {
    match values.get(..(H - 1) * step + 1) {
        // Neighbours: by way of an array, or the compiler would move them one by one.
        Some(values) if step == 1 => {
            let scaled: [f32; H] = std::array::from_fn(|i| values[i] * scale);
            *line = scaled.map(Unset::new);
        }
        Some(values) => {
            for i in 0..H {
                line[i].write(values[i * step] * scale);
            }
        }
        None => {
            for (i, place) in line.iter_mut().enumerate() {
                place.write(values.get(i * step).map_or(0.0, |value| value * scale));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    pub(super) const ROWS: usize = 2 * PART;
    pub(super) const COLUMNS: usize = 3 * LANES;
    /// Values of a vector.
    pub(super) const LANES: usize = 16;

    /// Rows whose sums and totals fit into the 32 registers beside a row of the panel: 12 + 12 + 3 with
    /// three vectors across. A tile is computed in two parts.
    const PART: usize = 4;

    /// # Safety
    /// As for [`Kernel::tile`](super::Kernel::tile), with V vectors across.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile<const V: usize>(
        a: *const f32,
        strides: [usize; 2],
        b: &[f32],
        out: &mut [f32],
        (run, add): (usize, bool),
    ) {
        for (part, out) in out.chunks_exact_mut(PART * V * LANES).enumerate() {
            // SAFETY: the caller vouches for the rows of both parts.
            unsafe {
                self::part::<V>(a.add(part * PART * strides[0]), strides, b, out, (run, add))
            };
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
        (run, add): (usize, bool),
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
        for b in b.chunks(run * V * LANES) {
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
}
