//! The micro-kernel, which computes a tile of the result from a panel of `b` and as many rows of `a`.

use std::ptr::NonNull;

use super::pack::pack;
#[cfg(target_arch = "x86_64")]
use super::register::Pairs;
use super::register::{Baseline, Register};
use crate::buffer::LINE;
#[cfg(target_arch = "x86_64")]
use crate::level::{self, Level};

/// Number of products that are summed one after the other before they are added to the total. Rounding
/// errors grow with the length of a sum: in two levels, that of 1024 products has the error of about 80.
/// Shorter runs would cost AVX2 more, where the totals of a tile wait in memory. It is the same at every
/// level, and pieces are whole runs, so that neither the registers nor the caches of a machine change a
/// result.
pub(crate) const RUN: usize = 64;

/// What the micro-kernel computes: `out = a b + residual + bias`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) depth: usize,
    /// Products that are summed before they are added to the total.
    pub(super) run: usize,
    pub(super) a: *const f32,
    /// From a row of `a` to the next, and from a column to the next.
    pub(super) strides: [usize; 2],
    /// Rows without a gap.
    pub(super) b: *const f32,
    /// Memory that will be read soon; it is prefetched meanwhile.
    pub(super) ahead: *const f32,
    /// Cache lines of it to prefetch in each run.
    pub(super) share: usize,
    /// Where the sums of one piece wait for the next, row after row.
    pub(super) partial: *mut f32,
    /// Whether this is the first piece: no sums are waiting.
    pub(super) first: bool,
    /// Whether this is the last piece: the sums are whole and go to `out`.
    pub(super) last: bool,
    /// The residual of the tile. The compiler may read an address before it knows whether there is one. An
    /// `Option` of this type always has one that is initialised, null for none; else valgrind would complain.
    pub(super) residual: Option<NonNull<f32>>,
    /// From a row of the residual to the next.
    pub(super) residual_stride: usize,
    /// Added to every row.
    pub(super) bias: Option<NonNull<f32>>,
    pub(super) out: *mut f32,
    /// From a row of `out` to the next.
    pub(super) stride: usize,
}

/// The kernels of a level.
pub(crate) struct Kernels {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Columns of a tile, and of a panel.
    pub(crate) columns: usize,
    wide: Compute,
    /// For panels of half as many columns.
    narrow: Compute,
    pub(super) pack_columns: Pack,
    pub(super) pack_rows: Pack,
}

/// Computes a whole tile.
///
/// # Safety
/// The kernel's level is current. `a` has as many rows and `b` as many columns as the kernel, of `depth`
/// values each, to read at the strides of the [`Tile`]. `partial` has room for a tile and holds sums
/// unless this is the first piece. If it is the last one, `residual` and `bias` have a whole tile to read
/// and `out` has one to write. Nobody else uses `partial` and that part of `out` meanwhile.
type Compute = unsafe fn(Tile);

/// Packs `depth` lines of `count` values, with strides from line to line and from value to value, into
/// lines without a gap, as wide as a tile and filled up with zeros.
///
/// # Safety
/// The kernel's level is current. The values may be read, and there is room for `depth` whole lines, which
/// nobody else uses meanwhile. `count` is at most the width of a tile: the kernel's columns for
/// `pack_columns`, which uses half of them where they suffice, and its rows for `pack_rows`.
pub(super) type Pack = unsafe fn(*const f32, [usize; 2], depth: usize, count: usize, *mut f32);

impl Kernels {
    pub(crate) fn current() -> &'static Self {
        #[cfg(target_arch = "x86_64")]
        match level::current() {
            Level::Avx512 => return &avx512::KERNELS,
            Level::Avx2 => return &avx2::KERNELS,
            _ => {}
        }
        &baseline::KERNELS
    }

    /// Those that multiply pairs of bf16 values, where [`level::multiplies_bf16`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_pairs() -> &'static Self {
        assert!(level::multiplies_bf16());
        &avx512_bf16::KERNELS
    }

    /// Columns of a panel that holds `count` of the product's columns.
    pub(crate) fn width(&self, count: usize) -> usize {
        if count <= self.columns / 2 {
            self.columns / 2
        } else {
            self.columns
        }
    }

    /// Packs the transpose of `count` rows, `stride` values apart, of which the first `depth` count: a panel
    /// of the product's right side, `depth` lines of [`width`](Self::width) values.
    pub(crate) fn pack_transposed(
        &self,
        rows: &[f32],
        [stride, count]: [usize; 2],
        depth: usize,
        panel: &mut [f32],
    ) {
        assert!(count > 0 && count <= self.columns && depth <= stride);
        assert!(rows.len() >= (count - 1) * stride + depth);
        assert!(panel.len() == depth * self.width(count));
        // SAFETY: the rows have the values that are read, and the panel has room for the lines. These kernels
        // are those of the current level.
        unsafe {
            (self.pack_columns)(rows.as_ptr(), [1, stride], depth, count, panel.as_mut_ptr())
        };
    }

    /// `sums[i, j] = sum_k a[i, k] b[k, j]` in runs of `run` products, added to what is there if `add`.
    ///
    /// # Shapes
    /// `b [k, width]` with one of the two widths, `sums [rows, width]`.
    ///
    /// # Safety
    /// The kernels are those of the current level. `a` has as many rows as a tile, of as many values as `b`
    /// has rows, at the strides from row to row and from value to value.
    pub(crate) unsafe fn sums(
        &self,
        width: usize,
        (a, strides): (*const f32, [usize; 2]),
        b: &[f32],
        sums: &mut [f32],
        (run, add): (usize, bool),
    ) {
        debug_assert!(sums.len() == self.rows * width && b.len().is_multiple_of(width));
        let compute = if width == self.columns {
            self.wide
        } else {
            self.narrow
        };
        let tile = Tile {
            depth: b.len() / width,
            run,
            a,
            strides,
            b: b.as_ptr(),
            ahead: b.as_ptr(),
            share: 0,
            partial: sums.as_mut_ptr(),
            first: !add,
            last: false,
            residual: None,
            residual_stride: 0,
            bias: None,
            out: std::ptr::null_mut(),
            stride: 0,
        };
        // SAFETY: as a piece that is not the last, the tile goes to `sums` alone, which has room for it. The
        // rest is what the caller vouches for.
        unsafe { compute(tile) }
    }

    /// Computes a tile, of which only `count` rows and columns are in `residual`, `bias` and `out`. A tile
    /// that is cut off is computed whole, in `edge`, because the micro-kernel has no other size.
    ///
    /// # Safety
    /// As for [`Compute`] with `width` columns, one of the two widths; but `residual`, `bias` and `out`
    /// need no more than `count` rows and columns. `edge` has room for a tile.
    pub(super) unsafe fn tile(
        &self,
        tile: Tile,
        width: usize,
        count: [usize; 2],
        edge: &mut [f32],
    ) {
        debug_assert!(
            edge.len() >= self.rows * width && count[0] <= self.rows && count[1] <= width
        );
        let compute = if width == self.columns {
            self.wide
        } else {
            self.narrow
        };
        if !tile.last || count == [self.rows, width] {
            // SAFETY: `out` is not touched before the last piece, and has a whole tile in it. The rest is
            // what the caller vouches for.
            return unsafe { compute(tile) };
        }
        let whole = Tile {
            residual: None,
            bias: None,
            out: edge.as_mut_ptr(),
            stride: width,
            ..tile
        };
        // SAFETY: there is nothing to add, and the edge has room for a tile. The rest is what the caller
        // vouches for.
        unsafe { compute(whole) };
        for i in 0..count[0] {
            for j in 0..count[1] {
                // SAFETY: the residual has `count` rows and columns.
                let residual = tile
                    .residual
                    .map(|at| unsafe { at.add(i * tile.residual_stride + j).read() });
                // SAFETY: the bias has `count[1]` values.
                let bias = tile.bias.map(|at| unsafe { at.add(j).read() });
                let sum = edge[i * width + j];
                // In the order of `add_to`, so that a row is the same to the bit in any tile.
                let sum = match (residual, bias) {
                    (Some(residual), Some(bias)) => sum + (residual + bias),
                    (residual, bias) => residual.or(bias).map_or(sum, |added| sum + added),
                };
                // SAFETY: `out` has `count` rows and columns, which are lent to this call.
                unsafe { *tile.out.add(i * tile.stride + j) = sum };
            }
        }
    }
}

/// The kernels compiled for a level, with tiles of that many rows by two registers.
macro_rules! kernels {
    ($level:ident, $register:ty, $rows:literal x 2 $(, $features:literal)?) => {
        mod $level {
            use super::*;

            const LANES: usize = <$register as Register>::LANES;

            pub(super) static KERNELS: Kernels = Kernels {
                rows: $rows,
                columns: 2 * LANES,
                wide,
                narrow,
                pack_columns,
                pack_rows,
            };

            /// # Safety
            /// As for [`Compute`].
            $(#[target_feature(enable = $features)])?
            unsafe fn wide(tile: Tile) {
                // SAFETY: the caller vouches for a tile of this size and for the level, which is that of
                // the register.
                unsafe { compute::<$register, $rows, 2>(tile) }
            }

            /// # Safety
            /// As for [`Compute`], with half as many columns.
            $(#[target_feature(enable = $features)])?
            unsafe fn narrow(tile: Tile) {
                // SAFETY: the caller vouches for a tile of this size and for the level, which is that of
                // the register.
                unsafe { compute::<$register, $rows, 1>(tile) }
            }

            /// # Safety
            /// As for [`Pack`].
            $(#[target_feature(enable = $features)])?
            unsafe fn pack_columns(
                from: *const f32,
                strides: [usize; 2],
                depth: usize,
                count: usize,
                to: *mut f32,
            ) {
                // SAFETY: a line is as wide as the panel, half a tile if that suffices for `count`. The
                // caller vouches for the values, the room and the level, that of the register.
                unsafe {
                    if count <= LANES {
                        pack::<$register, LANES>(from, strides, depth, count, to)
                    } else {
                        pack::<$register, { 2 * LANES }>(from, strides, depth, count, to)
                    }
                }
            }

            /// # Safety
            /// As for [`Pack`].
            $(#[target_feature(enable = $features)])?
            unsafe fn pack_rows(
                from: *const f32,
                strides: [usize; 2],
                depth: usize,
                count: usize,
                to: *mut f32,
            ) {
                // SAFETY: a line has a value for each row of a tile. The caller vouches for the values, the
                // room and the level, that of the register.
                unsafe { pack::<$register, $rows>(from, strides, depth, count, to) }
            }
        }
    };
}

// The shapes fill the registers. With 32 of them there is room for the sums of a run, for the totals and
// for a row of `b`: 14 + 14 + 2. With 16 there is room for the sums of a run and a row of `b`, 12 + 2 and
// 8 + 2; the totals wait in memory, where they are needed once in a run. Each column of `a` is one
// broadcast from memory for each row, which two registers across pay for. AArch64 multiplies with a lane of a
// register instead, which leaves room for 16 sums.
#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, 7 x 2, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(
    avx512_bf16,
    Pairs,
    7 x 2,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"
);
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, 6 x 2, "avx2,fma");
#[cfg(target_arch = "aarch64")]
kernels!(baseline, Baseline, 8 x 2);
#[cfg(not(target_arch = "aarch64"))]
kernels!(baseline, Baseline, 4 x 2);

/// A tile of `ROWS` by `ACROSS` registers.
///
/// # Safety
/// As for [`Compute`]; the level is that of the register.
#[inline(always)]
unsafe fn compute<R: Register, const ROWS: usize, const ACROSS: usize>(tile: Tile) {
    // SAFETY: the loops read `depth` columns of `ROWS` values of `a` and `depth` rows of `ACROSS` registers
    // of `b`. They read and write `ROWS` by `ACROSS` registers of `partial`, and of `out` in the last
    // piece. The caller vouches for all of these and for the level.
    unsafe {
        let Tile {
            mut a,
            mut b,
            mut ahead,
            ..
        } = tile;
        let partial = |i: usize, j: usize| tile.partial.add((i * ACROSS + j) * R::LANES);
        let mut totals = [[R::splat(0.0); ACROSS]; ROWS];
        if !tile.first && R::SPACIOUS {
            for i in 0..ROWS {
                for j in 0..ACROSS {
                    totals[i][j] = R::load(partial(i, j));
                }
            }
        }
        if tile.last {
            // Both come from far away, the result too before it can be written. Waiting for them in the end
            // would take as long as the products.
            for i in 0..ROWS {
                for j in (0..ACROSS * R::LANES).step_by(LINE) {
                    prefetch_near(tile.out.wrapping_add(i * tile.stride + j));
                    if let Some(residual) = tile.residual {
                        let at = i * tile.residual_stride + j;
                        prefetch_near(residual.as_ptr().wrapping_add(at));
                    }
                }
            }
        }
        let mut waiting = !tile.first;
        let mut left = tile.depth;
        while left > 0 {
            let run = left.min(tile.run);
            for _ in 0..tile.share {
                // Spread over the runs: many at once would wait for the few buffers of open misses.
                prefetch(ahead);
                ahead = ahead.wrapping_add(LINE);
            }
            let mut sums = R::run::<ROWS, ACROSS>(a, tile.strides, b, run);
            // Wrapping, since the last step of a strided `a` may lead beyond its end.
            a = a.wrapping_add(run * tile.strides[1]);
            b = b.add(run * ACROSS * R::LANES);
            left -= run;
            if R::SPACIOUS {
                for i in 0..ROWS {
                    for j in 0..ACROSS {
                        totals[i][j] = totals[i][j].plus(sums[i][j]);
                    }
                }
                continue;
            }
            if waiting {
                for i in 0..ROWS {
                    for j in 0..ACROSS {
                        sums[i][j] = R::load(partial(i, j)).plus(sums[i][j]);
                    }
                }
            }
            waiting = true;
            if left == 0 && tile.last {
                totals = sums;
            } else {
                for i in 0..ROWS {
                    for j in 0..ACROSS {
                        sums[i][j].store(partial(i, j));
                    }
                }
            }
        }
        if tile.last {
            add_to(&mut totals, tile);
            for i in 0..ROWS {
                for j in 0..ACROSS {
                    totals[i][j].store(tile.out.add(i * tile.stride + j * R::LANES));
                }
            }
        } else if R::SPACIOUS {
            for i in 0..ROWS {
                for j in 0..ACROSS {
                    totals[i][j].store(partial(i, j));
                }
            }
        }
    }
}

/// Adds residual and bias, in the order in which [`Kernels::tile`] does at an edge, so that a row is the
/// same to the bit whatever rows stand beside it.
///
/// # Safety
/// As for [`compute`], in the last piece.
#[inline(always)]
unsafe fn add_to<R: Register, const ROWS: usize, const ACROSS: usize>(
    sums: &mut [[R; ACROSS]; ROWS],
    tile: Tile,
) {
    for (i, sums) in sums.iter_mut().enumerate() {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = j * R::LANES;
            // SAFETY: the caller vouches for a whole tile of the residual and the bias, and for the level.
            unsafe {
                let load = |from: NonNull<f32>, at: usize| R::load(from.add(at).as_ptr());
                let bias = tile.bias.map(|bias| load(bias, at));
                let place = i * tile.residual_stride + at;
                let residual = tile.residual.map(|residual| load(residual, place));
                let added = match (residual, bias) {
                    (Some(residual), Some(bias)) => Some(residual.plus(bias)),
                    (residual, bias) => residual.or(bias),
                };
                *sum = added.map_or(*sum, |added| sum.plus(added));
            }
        }
    }
}

/// Asks for a cache line that is used or written next.
#[inline(always)]
fn prefetch_near(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of an address that cannot be read does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Asks for a cache line before it is used: into the second cache, because the first is full of what is
/// used now.
#[inline(always)]
fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch of an address that cannot be read does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
