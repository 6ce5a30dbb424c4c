//! The micro-kernel: a tile of the result from a panel and as many rows; and how both are packed.

use super::register::Register;
use crate::buffer::LINE;
use crate::level::{self, Level};

/// Products that are summed one after the other before they are added to the rest: rounding errors grow
/// with the length of a sum.
pub(super) const RUN: usize = 16;

/// What the micro-kernel computes: `out = a b + residual + bias`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) depth: usize,
    pub(super) a: *const f32,
    /// From a row of `a` to the next, and from a column.
    pub(super) strides: [usize; 2],
    /// Rows without a gap.
    pub(super) b: *const f32,
    /// What is asked for meanwhile.
    pub(super) ahead: *const f32,
    /// So many lines of the cache in a run.
    pub(super) share: usize,
    /// Where sums are put aside, row behind row.
    pub(super) partial: *mut f32,
    /// Whether nothing was put aside yet.
    pub(super) first: bool,
    /// Whether the sums are whole then, and go to `out`.
    pub(super) last: bool,
    /// With the way from a row to the next.
    pub(super) residual: Option<(*const f32, usize)>,
    /// For every row.
    pub(super) bias: Option<*const f32>,
    pub(super) out: *mut f32,
    /// From a row of `out` to the next.
    pub(super) stride: usize,
}

/// The kernels of a level.
pub(super) struct Kernels {
    /// Rows of a tile.
    pub(super) rows: usize,
    /// Columns of a tile, and of a panel.
    pub(super) columns: usize,
    wide: unsafe fn(Tile),
    /// For panels of half as many columns.
    narrow: unsafe fn(Tile),
    pub(super) pack_columns: Pack,
    pub(super) pack_rows: Pack,
}

/// From `depth` lines of `count` values, with strides from line to line and from value to value, to
/// lines without a gap, as wide as a tile and filled up with zeros.
pub(super) type Pack = unsafe fn(*const f32, [usize; 2], depth: usize, count: usize, *mut f32);

impl Kernels {
    pub(super) fn current() -> &'static Self {
        match level::current() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &avx2::KERNELS,
            _ => &baseline::KERNELS,
        }
    }

    /// Columns of a panel with `count` that count.
    pub(super) fn width(&self, count: usize) -> usize {
        match count <= self.columns / 2 {
            true => self.columns / 2,
            false => self.columns,
        }
    }

    /// Computes a tile, of which only `count` rows and columns are in `residual`, `bias` and `out`.
    ///
    /// # Safety
    /// `a` has as many rows and `b` has `width` columns as the micro-kernel takes, `depth` values
    /// each; the level is current.
    pub(super) unsafe fn tile(
        &self,
        tile: Tile,
        width: usize,
        count: [usize; 2],
        edge: &mut [f32],
    ) {
        let compute = match width == self.columns {
            true => self.wide,
            false => self.narrow,
        };
        if !tile.last || count == [self.rows, width] {
            // SAFETY: the caller's promise.
            return unsafe { compute(tile) };
        }
        let places = || (0..count[0]).flat_map(|i| (0..count[1]).map(move |j| [i, j]));
        let whole = Tile {
            residual: None,
            bias: None,
            out: edge.as_mut_ptr(),
            stride: width,
            ..tile
        };
        // SAFETY: the caller's promise, and the edge has room for a tile.
        unsafe { compute(whole) };
        for [i, j] in places() {
            // SAFETY: the caller's promise.
            let residual = tile
                .residual
                .map(|(at, stride)| unsafe { *at.add(i * stride + j) });
            // SAFETY: as above.
            let bias = tile.bias.map(|at| unsafe { *at.add(j) });
            let sum = edge[i * width + j];
            let sum = match (residual, bias) {
                (Some(residual), Some(bias)) => sum + (residual + bias),
                (residual, bias) => residual.or(bias).map_or(sum, |added| sum + added),
            };
            // SAFETY: as above.
            unsafe { *tile.out.add(i * tile.stride + j) = sum };
        }
    }
}

/// The kernels compiled for a level, with tiles of so many rows by two registers.
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

            $(#[target_feature(enable = $features)])?
            unsafe fn wide(tile: Tile) {
                // SAFETY: the caller's promise.
                unsafe { compute::<$register, $rows, 2>(tile) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn narrow(tile: Tile) {
                // SAFETY: the caller's promise.
                unsafe { compute::<$register, $rows, 1>(tile) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn pack_columns(
                from: *const f32,
                strides: [usize; 2],
                depth: usize,
                count: usize,
                to: *mut f32,
            ) {
                // SAFETY: the caller's promise.
                unsafe {
                    match count <= LANES {
                        true => pack::<$register, LANES>(from, strides, depth, count, to),
                        false => pack::<$register, { 2 * LANES }>(from, strides, depth, count, to),
                    }
                }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn pack_rows(
                from: *const f32,
                strides: [usize; 2],
                depth: usize,
                count: usize,
                to: *mut f32,
            ) {
                // SAFETY: the caller's promise.
                unsafe { pack::<$register, $rows>(from, strides, depth, count, to) }
            }
        }
    };
}

// Sums of a run and of all, and a row of `b`, fill the registers: 14 + 14 + 2 of 32. Of 16, 12 + 2 and
// 8 + 2 hold the sums of a run only.
#[cfg(target_arch = "x86_64")]
kernels!(avx512, std::arch::x86_64::__m512, 7 x 2, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
#[cfg(target_arch = "x86_64")]
kernels!(avx2, std::arch::x86_64::__m256, 6 x 2, "avx2,fma");
kernels!(baseline, [f32; 4], 4 x 2);

/// A tile of `ROWS` by `ACROSS` registers.
///
/// # Safety
/// As for [`Kernels::tile`], with a whole tile of `residual`, `bias` and `out`.
#[inline(always)]
unsafe fn compute<R: Register, const ROWS: usize, const ACROSS: usize>(tile: Tile) {
    // SAFETY: the caller's promise: rows of `b` and columns of `a` are among the `depth` of them.
    unsafe {
        let Tile {
            mut a,
            mut b,
            mut ahead,
            ..
        } = tile;
        let partial = |i: usize, j: usize| tile.partial.add((i * ACROSS + j) * R::LANES);
        let mut totals = [[R::splat(0.0); ACROSS]; ROWS];
        if !tile.first {
            for i in 0..ROWS {
                for j in 0..ACROSS {
                    totals[i][j] = R::load(partial(i, j));
                }
            }
        }
        let mut left = tile.depth;
        while left > 0 {
            let run = left.min(RUN);
            for _ in 0..tile.share {
                prefetch(ahead);
                ahead = ahead.wrapping_add(LINE);
            }
            let mut sums = [[R::splat(0.0); ACROSS]; ROWS];
            for _ in 0..run {
                let mut row = [R::splat(0.0); ACROSS];
                for j in 0..ACROSS {
                    row[j] = R::load(b.add(j * R::LANES));
                }
                for i in 0..ROWS {
                    let value = R::splat(*a.add(i * tile.strides[0]));
                    for j in 0..ACROSS {
                        sums[i][j] = sums[i][j].plus_product(value, row[j]);
                    }
                }
                (a, b) = (a.wrapping_add(tile.strides[1]), b.add(ACROSS * R::LANES));
            }
            for i in 0..ROWS {
                for j in 0..ACROSS {
                    totals[i][j] = totals[i][j].plus(sums[i][j]);
                }
            }
            left -= run;
        }
        if tile.last {
            add_to(&mut totals, tile);
        }
        for i in 0..ROWS {
            for j in 0..ACROSS {
                let place = match tile.last {
                    true => tile.out.add(i * tile.stride + j * R::LANES),
                    false => partial(i, j),
                };
                totals[i][j].store(place);
            }
        }
    }
}

/// Adds residual and bias; in the order in which an edge does, so that a row is the same to the bit
/// whatever rows stand beside it.
///
/// # Safety
/// As for [`compute`].
#[inline(always)]
unsafe fn add_to<R: Register, const ROWS: usize, const ACROSS: usize>(
    sums: &mut [[R; ACROSS]; ROWS],
    tile: Tile,
) {
    for (i, sums) in sums.iter_mut().enumerate() {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = j * R::LANES;
            // SAFETY: the caller's promise.
            unsafe {
                let bias = tile.bias.map(|bias| R::load(bias.add(at)));
                let residual = tile.residual;
                let residual =
                    residual.map(|(residual, stride)| R::load(residual.add(i * stride + at)));
                let added = match (residual, bias) {
                    (Some(residual), Some(bias)) => Some(residual.plus(bias)),
                    (residual, bias) => residual.or(bias),
                };
                *sum = added.map_or(*sum, |added| sum.plus(added));
            }
        }
    }
}

/// # Safety
/// As [`Pack`] says; `to` has `depth * WIDTH` values, and the level of the register is current.
#[inline(always)]
unsafe fn pack<R: Register, const WIDTH: usize>(
    from: *const f32,
    [line, value]: [usize; 2],
    depth: usize,
    count: usize,
    to: *mut f32,
) {
    let mut start = 0;
    if count == WIDTH && value == 1 {
        for i in 0..depth {
            // SAFETY: a line has `WIDTH` neighbouring values.
            unsafe { *to.add(i * WIDTH).cast::<[f32; WIDTH]>() = *from.add(i * line).cast() };
        }
        return;
    }
    if count == WIDTH && WIDTH.is_multiple_of(R::LANES) && line == 1 {
        while start + R::LANES <= depth {
            for j in (0..WIDTH).step_by(R::LANES) {
                // SAFETY: of each value there are `depth` neighbours, one a line.
                unsafe {
                    let to = to.add(start * WIDTH + j);
                    R::transpose(from.add(j * value + start), value, to, WIDTH);
                }
            }
            start += R::LANES;
        }
    }
    for i in start..depth {
        for j in 0..WIDTH {
            // SAFETY: `from` is read where it has values only.
            unsafe {
                let place = to.add(i * WIDTH + j);
                *place = if j < count {
                    *from.add(i * line + j * value)
                } else {
                    0.0
                };
            }
        }
    }
}

/// Asks for a line of the cache before it is used.
#[inline(always)]
fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: an address that is not used is no access.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
