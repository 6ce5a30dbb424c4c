//! Sums of matrix products of strided matrices.
//!
//! As in BLIS (Van Zee and van de Geijn 2015), columns of `b` are packed into panels, and a
//! micro-kernel keeps a tile of the result in registers while it runs along the inner dimension. Rows
//! of `a` are read where they lie if their values are neighbours, else packed too. A task is a block
//! of the result chosen by shape: a value is summed in one order whoever computes it.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::{LINE, Scratch, Shared, Unset, written};
use crate::level::{self, Level};
use crate::simd::{Portable, Simd};

/// A strided matrix that is read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    /// From a row to the next.
    row: usize,
    /// From a column to the next.
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows that begin `row` values apart.
    pub(crate) fn new(values: &'a [f32], row: usize) -> Self {
        Self {
            values,
            row,
            column: 1,
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }

    /// Whether so many rows and columns lie inside the values.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        rows * columns == 0 || last(rows, self.row) + last(columns, self.column) < self.values.len()
    }

    /// # Safety
    /// The matrix [holds](Self::holds) that place.
    unsafe fn at(&self, row: usize, column: usize) -> *const f32 {
        let values = self.values.as_ptr();
        // SAFETY: the caller's promise.
        unsafe { values.add(row * self.row + column * self.column) }
    }
}

/// `sum_t a_t b_t + bias + residual`.
pub(crate) struct Product<'a> {
    rows: usize,
    columns: usize,
    terms: Vec<Term<'a>>,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
}

/// One product of the sum.
struct Term<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    inner: usize,
    /// What is done to runs of `a` before they are multiplied.
    map: Option<Map>,
}

/// From values to as many others, each of its own.
pub(crate) type Map = fn(&[f32], &mut [Unset]);

impl<'a> Product<'a> {
    /// `a b` with `a [rows, inner]` and `b [inner, columns]`.
    pub(crate) fn new([rows, inner, columns]: [usize; 3], a: Matrix<'a>, b: Matrix<'a>) -> Self {
        let empty = Self {
            rows,
            columns,
            terms: Vec::with_capacity(2),
            bias: None,
            residual: None,
        };
        empty.plus(inner, a, b)
    }

    /// With another product, of `a [rows, inner]` and `b [inner, columns]`.
    pub(crate) fn plus(mut self, inner: usize, a: Matrix<'a>, b: Matrix<'a>) -> Self {
        assert!(a.holds(self.rows, inner) && b.holds(inner, self.columns));
        self.terms.push(Term {
            a,
            b,
            inner,
            map: None,
        });
        self
    }

    /// With `map(a)` in the place of `a` in the last product so far. Its rows lie side by side.
    pub(crate) fn mapped(mut self, map: Option<Map>) -> Self {
        if let Some(term) = self.terms.last_mut() {
            assert!(map.is_none() || term.a.column == 1);
            term.map = map;
        }
        self
    }

    /// With `bias [columns]` added to each row.
    pub(crate) fn with_bias(mut self, bias: Option<&'a [f32]>) -> Self {
        assert!(bias.is_none_or(|bias| bias.len() == self.columns));
        self.bias = bias;
        self
    }

    /// With `residual [rows, columns]`, contiguous, added.
    pub(crate) fn with_residual(mut self, residual: Option<&'a [f32]>) -> Self {
        assert!(residual.is_none_or(|residual| residual.len() == self.rows * self.columns));
        self.residual = residual;
        self
    }

    /// The result, contiguous, computed on all threads.
    pub(crate) fn run(&self) -> Vec<f32> {
        let plan = Plan::new(self, SHARE * rayon::current_num_threads());
        // One thread does all of a small product.
        let least = if plan.size() < SMALL { usize::MAX } else { 1 };
        // SAFETY: the panels fill the buffer, and each writes all of its own part.
        let packed = unsafe {
            written(plan.packed(), |packed| {
                let packed = Shared::unset(packed);
                let panels = (0..plan.panels()).into_par_iter().with_min_len(least);
                panels.for_each(|panel| self.pack(&plan, panel, packed));
            })
        };
        // SAFETY: the blocks of the tasks fill the result, and each writes all of its own.
        unsafe {
            written(self.rows * self.columns, |out| {
                let out = Shared::unset(out);
                let tasks = (0..plan.tasks()).into_par_iter().with_min_len(least);
                tasks.for_each(|task| {
                    ROWS.with_borrow_mut(|scratch| {
                        let scratch = scratch.take(plan.scratch());
                        self.block(&plan, task, &packed, scratch, (out, self.columns));
                    });
                });
            })
        }
    }

    /// The result on this thread, its rows `stride` values apart.
    ///
    /// # Safety
    /// The rows lie inside the buffer of `out`, and nobody else uses them meanwhile.
    pub(crate) unsafe fn run_here(&self, scratch: &mut Scratch, out: Shared, stride: usize) {
        let plan = Plan::new(self, 1);
        let scratch = scratch.take(plan.packed() + plan.scratch());
        let (packed, scratch) = scratch.split_at_mut(plan.packed());
        let place = Shared::new(packed);
        (0..plan.panels()).for_each(|panel| self.pack(&plan, panel, place));
        for task in 0..plan.tasks() {
            // SAFETY: the caller's promise.
            unsafe { self.block(&plan, task, packed, scratch, (out, stride)) };
        }
    }

    /// Packs the columns of a panel, of one term behind the other.
    fn pack(&self, plan: &Plan, panel: usize, packed: Shared) {
        let columns = plan.columns(panel..panel + 1);
        let (mut place, count) = (plan.panel(panel), columns.len());
        for Term { b, inner, .. } in &self.terms {
            // SAFETY: `plus` checked that `b` holds `inner` rows and all columns; here the panel
            // has `inner` rows of its width, which nobody else uses.
            unsafe {
                let (from, to) = (b.at(0, columns.start), packed.at(place));
                (plan.kernels.pack_columns)(from, [b.row, b.column], *inner, count, to);
            }
            place += inner * plan.kernels.width(count);
        }
    }

    /// Computes the block of a task.
    ///
    /// # Safety
    /// The rows of `out`, so many values apart, lie inside its buffer, and nobody else uses this block
    /// of them meanwhile.
    unsafe fn block(
        &self,
        plan: &Plan,
        task: usize,
        packed: &[f32],
        scratch: &mut [f32],
        (out, stride): (Shared, usize),
    ) {
        let (rows, panels) = plan.task(task);
        let height = plan.kernels.rows;
        let size = plan.kernels.rows * plan.kernels.columns;
        let (edge, scratch) = scratch.split_at_mut(size);
        let (partial, scratch) = scratch.split_at_mut(plan.partial());
        let (tiles, last) = (rows.len().div_ceil(height), plan.pieces.len() - 1);
        for (index, piece) in plan.pieces.iter().enumerate() {
            let Term { a, map, .. } = self.terms[piece.term];
            // Rows are read where they lie, unless the cache would not hold them side by side; what
            // the micro-kernel cannot read there is packed.
            let (lines, depth) = (a.column == 1, piece.depth);
            let apart = a.row > depth && a.row.is_multiple_of(ALIAS) && panels.len() >= SPAN;
            let apart = apart || map.is_some();
            let in_place = |row: usize| lines && !apart && row + height <= self.rows;
            let slot = |row: usize| (row - rows.start) * depth;
            let packed_as = if lines { [depth, 1] } else { [1, height] };
            for row in rows.clone().step_by(height).filter(|row| !in_place(*row)) {
                let count = height.min(self.rows - row);
                let to = &mut scratch[slot(row)..][..height * depth];
                if lines {
                    for (i, to) in to.chunks_exact_mut(depth.max(1)).take(count).enumerate() {
                        let from = (row + i) * a.row + piece.from;
                        let from = &a.values[from..from + depth];
                        match map {
                            None => to.copy_from_slice(from),
                            // SAFETY: these values are written only.
                            Some(map) => map(from, unsafe { Shared::new(to).unset_part(0, depth) }),
                        }
                    }
                    continue;
                }
                // SAFETY: `plus` checked that `a` holds these rows and columns; the slot has room
                // for as many rows as the micro-kernel takes.
                unsafe {
                    let (from, strides) = (a.at(row, piece.from), [a.column, a.row]);
                    (plan.kernels.pack_rows)(from, strides, depth, count, to.as_mut_ptr());
                }
            }
            // What is added comes last: sums are smaller and err less.
            let (first, last) = (index == 0, index == last);
            let (residual, bias) = match last {
                true => (self.residual, self.bias),
                false => (None, None),
            };
            for (across, panel) in panels.clone().enumerate() {
                let columns = plan.columns(panel..panel + 1);
                let width = plan.kernels.width(columns.len());
                let b = plan.panel(panel) + piece.above * width;
                // The next panel comes from afar: each run of each tile asks for a share of it.
                let (mut ahead, lines) = match packed.len() > NEAR {
                    true => {
                        let next = packed[b..].as_ptr().wrapping_add(plan.inner * width);
                        let runs = tiles * depth.div_ceil(RUN);
                        (next, (depth * width).div_ceil((runs * LINE).max(1)))
                    }
                    false => (packed.as_ptr(), 0),
                };
                let b = packed[b..][..depth * width].as_ptr();
                let bias = bias.map(|bias| bias[columns.clone()].as_ptr());
                for (down, row) in rows.clone().step_by(height).enumerate() {
                    let count = [height.min(self.rows - row), columns.len()];
                    // Nothing is put aside for another piece if there is none.
                    let aside = match first && last {
                        true => 0,
                        false => (across * tiles + down) * size,
                    };
                    let residual = residual.map(|residual| {
                        let start = row * self.columns + columns.start;
                        (residual[start..].as_ptr(), self.columns)
                    });
                    // SAFETY: as for packing; and `out` is as the caller promised.
                    let (a, strides, out) = unsafe {
                        let (a, strides) = match in_place(row) {
                            true => (a.at(row, piece.from), [a.row, 1]),
                            false => (scratch[slot(row)..].as_ptr(), packed_as),
                        };
                        (a, strides, out.at(row * stride + columns.start))
                    };
                    let tile = Tile {
                        depth,
                        a,
                        strides,
                        b,
                        ahead,
                        lines,
                        partial: partial[aside..aside + size].as_mut_ptr(),
                        first,
                        last,
                        residual,
                        bias,
                        out,
                        stride,
                    };
                    // SAFETY: `a` has `height` rows and `b` `width` columns of `depth` values; of
                    // `residual`, `bias` and `out` there are as many as `count` says.
                    unsafe { plan.kernels.tile(tile, width, count, edge) };
                    ahead = ahead.wrapping_add(depth.div_ceil(RUN) * lines * LINE);
                }
            }
        }
    }
}

/// Products of fewer multiplications are not worth a second thread.
const SMALL: usize = 1 << 16;

/// Blocks of a large product for each thread, or more: so many that none waits long for another.
const SHARE: usize = 8;

/// Panels that a block spans at least, where it does not have all: its rows are packed for so many.
const SPAN: usize = 4;

/// Most rows and columns of a block: its rows, and its sums while they are not whole, stay in the second
/// cache.
const BLOCK: [usize; 2] = [112, 768];

/// Most values of the inner dimension at once: a panel of so many stays in the first cache.
const INNER: usize = 192;

/// Values of packed panels that the second cache holds beside a block.
const NEAR: usize = 1 << 18;

/// Values that rows are apart from one another whose places in the first cache are the same.
const ALIAS: usize = 1024;

/// Products that are summed one after the other before they are added to the rest: rounding errors grow
/// with the length of a sum.
const RUN: usize = 16;

thread_local! {
    static ROWS: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
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

/// How a product is cut up.
struct Plan {
    kernels: &'static Kernels,
    rows: usize,
    columns: usize,
    /// All inner dimensions together.
    inner: usize,
    pieces: Vec<Piece>,
    /// Blocks below one another, as high as one another but for a tile.
    down: usize,
    /// Panels of a block.
    span: usize,
}

/// A part of a term's inner dimension.
struct Piece {
    term: usize,
    /// Where it begins in the term.
    from: usize,
    depth: usize,
    /// What lies above it in a packed panel.
    above: usize,
}

impl Plan {
    /// With about `tasks` blocks at least, where there are as many tiles.
    fn new(product: &Product, tasks: usize) -> Self {
        let kernels = Kernels::current();
        let tiles = product.rows.div_ceil(kernels.rows);
        let panels = product.columns.div_ceil(kernels.columns);
        // As many blocks down and across as the caches ask for, or the tasks.
        let least = product.rows.div_ceil(BLOCK[0]).max(1);
        // What is done to a row is done again for each block across, and blocks as high as can be
        // make up for it.
        let mapped = product.terms.iter().any(|term| term.map.is_some());
        let (tasks, wanted) = match mapped {
            true => (tasks.div_ceil(SPAN), 1),
            false => (
                tasks,
                (tasks / least).max(product.columns.div_ceil(BLOCK[1])),
            ),
        };
        let across = wanted.clamp(1, (panels / SPAN).max(1));
        let down = least.max(tasks / across).min(tiles);
        let (mut pieces, mut inner) = (Vec::new(), 0);
        for (term, values) in product.terms.iter().enumerate() {
            let depth = values.inner.div_ceil(values.inner.div_ceil(INNER).max(1));
            for from in (0..values.inner).step_by(depth.max(1)) {
                pieces.push(Piece {
                    term,
                    from,
                    depth: depth.min(values.inner - from),
                    above: inner + from,
                });
            }
            inner += values.inner;
        }
        if inner == 0 {
            // What nothing is added to is written all the same.
            pieces.push(Piece {
                term: 0,
                from: 0,
                depth: 0,
                above: 0,
            });
        }
        Self {
            kernels,
            rows: product.rows,
            columns: product.columns,
            inner,
            pieces,
            down,
            span: panels.div_ceil(across).max(1),
        }
    }

    /// Multiplications.
    fn size(&self) -> usize {
        self.rows * self.columns * self.inner
    }

    fn panels(&self) -> usize {
        self.columns.div_ceil(self.kernels.columns)
    }

    /// The columns of some panels.
    fn columns(&self, panels: Range<usize>) -> Range<usize> {
        let width = self.kernels.columns;
        panels.start * width..self.columns.min(panels.end * width)
    }

    /// Where a packed panel begins.
    fn panel(&self, panel: usize) -> usize {
        panel * self.kernels.columns * self.inner
    }

    /// Values of all packed panels, the last of which may be narrow.
    fn packed(&self) -> usize {
        let Some(last) = self.panels().checked_sub(1) else {
            return 0;
        };
        let width = self
            .kernels
            .width(self.columns - last * self.kernels.columns);
        self.panel(last) + width * self.inner
    }

    /// Values of an edge and of packed rows.
    fn scratch(&self) -> usize {
        let depth = self.pieces.iter().map(|piece| piece.depth).max();
        let edge = self.kernels.rows * self.kernels.columns;
        edge + self.partial() + self.tallest() * self.kernels.rows * depth.unwrap_or(0)
    }

    /// Values of the tiles of a block, of one if they are not put aside.
    fn partial(&self) -> usize {
        let tiles = match self.pieces.len() {
            1 => 1,
            _ => self.tallest() * self.span,
        };
        tiles * self.kernels.rows * self.kernels.columns
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.kernels.rows)
    }

    /// Tiles of the highest block, one below the other.
    fn tallest(&self) -> usize {
        self.tiles().div_ceil(self.down.max(1))
    }

    fn tasks(&self) -> usize {
        self.down * self.panels().div_ceil(self.span)
    }

    /// The rows and panels of a task.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let across = self.panels().div_ceil(self.span);
        let (block, panel) = (task / across, task % across * self.span);
        let row = |block: usize| block * self.tiles() / self.down * self.kernels.rows;
        let rows = row(block)..row(block + 1).min(self.rows);
        (rows, panel..self.panels().min(panel + self.span))
    }
}

/// What the micro-kernel computes: `out = a b + residual + bias`.
#[derive(Clone, Copy)]
struct Tile {
    depth: usize,
    a: *const f32,
    /// From a row of `a` to the next, and from a column.
    strides: [usize; 2],
    /// Rows without a gap.
    b: *const f32,
    /// What is asked for meanwhile, so many lines of the cache a run.
    ahead: *const f32,
    lines: usize,
    /// Where sums are put aside, row behind row.
    partial: *mut f32,
    /// Whether nothing was put aside yet.
    first: bool,
    /// Whether the sums are whole then, and go to `out`.
    last: bool,
    /// With the way from a row to the next.
    residual: Option<(*const f32, usize)>,
    /// For every row.
    bias: Option<*const f32>,
    out: *mut f32,
    /// From a row of `out` to the next.
    stride: usize,
}

/// The kernels of a level.
struct Kernels {
    /// Rows of a tile.
    rows: usize,
    /// Columns of a tile, and of a panel.
    columns: usize,
    wide: unsafe fn(Tile),
    /// For panels of half as many columns.
    narrow: unsafe fn(Tile),
    pack_columns: Pack,
    pack_rows: Pack,
}

/// From `depth` lines of `count` values, with strides from line to line and from value to value, to
/// lines without a gap, as wide as a tile and filled up with zeros.
type Pack = unsafe fn(*const f32, [usize; 2], depth: usize, count: usize, *mut f32);

impl Kernels {
    fn current() -> &'static Self {
        match level::current() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &avx2::KERNELS,
            _ => &baseline::KERNELS,
        }
    }

    /// Columns of a panel with `count` that count.
    fn width(&self, count: usize) -> usize {
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
    unsafe fn tile(&self, tile: Tile, width: usize, count: [usize; 2], edge: &mut [f32]) {
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

/// A register of neighbouring values. Arrays of plain values are not reliably kept in registers.
trait Register: Copy {
    /// How many.
    const LANES: usize;
    /// # Safety
    /// As with all of these, the level of the register is current; there are as many values.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn splat(value: f32) -> Self;
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn plus(self, other: Self) -> Self;
    /// `self + a b`.
    ///
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;
    /// As many rows of [`LANES`](Self::LANES) values, `row` values apart, become columns of lines that
    /// are `line` values apart.
    ///
    /// # Safety
    /// As for [`load`](Self::load), of every row and every line.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
        for j in 0..Self::LANES {
            for i in 0..Self::LANES {
                // SAFETY: the caller's promise.
                unsafe { *to.add(i * line + j) = *from.add(j * row + i) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! register {
    ($register:ident x $lanes:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $fma:ident
     $(, $transpose:ident)?) => {
        impl Register for std::arch::x86_64::$register {
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller's promise, here and below.
                unsafe { std::arch::x86_64::$load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$store(to, self) }
            }
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$splat(value) }
            }
            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$add(self, other) }
            }
            #[inline(always)]
            unsafe fn plus_product(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$fma(a, b, self) }
            }
            $(
                #[inline(always)]
                unsafe fn transpose(from: *const f32, row: usize, to: *mut f32, line: usize) {
                    // SAFETY: as above.
                    unsafe { $transpose(from, row, to, line) }
                }
            )?
        }
    };
}
#[cfg(target_arch = "x86_64")]
register!(__m512 x 16, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_fmadd_ps, transpose_16);
#[cfg(target_arch = "x86_64")]
register!(__m256 x 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_fmadd_ps);

/// [`Register::transpose`] of 16 by 16 values: pairs of rows within quarters of the registers, pairs of
/// pairs, then quarters.
///
/// # Safety
/// As for [`Register::transpose`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16(from: *const f32, row: usize, to: *mut f32, line: usize) {
    use std::arch::x86_64::*;

    let mut rows = [_mm512_setzero_ps(); 16];
    for (i, register) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
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
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to.add((4 * quarter + c) * line), column) };
        }
    }
}

/// What every architecture has a register for.
impl Register for [f32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { *from.cast() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
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
            for _ in 0..tile.lines {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    /// Against sums in `f64`; with a stride between the rows on this thread.
    fn check([m, n]: [usize; 2], inner: [usize; 2], transposed: [bool; 2], added: [bool; 2]) {
        let matrix = |values, [rows, columns]: [usize; 2], transposed| match transposed {
            true => Matrix::new(values, rows).transposed(),
            false => Matrix::new(values, columns),
        };
        let a = inner.map(|k| noise(m * k, 1 + k as u32));
        let b = inner.map(|k| noise(k * n, 2 + k as u32));
        let (bias, residual) = (noise(n, 3), noise(m * n, 4));
        let term = |t: usize| {
            let a = matrix(&a[t], [m, inner[t]], transposed[0]);
            (a, matrix(&b[t], [inner[t], n], transposed[1]))
        };
        let ((a0, b0), (a1, b1)) = (term(0), term(1));
        let product = Product::new([m, inner[0], n], a0, b0)
            .plus(inner[1], a1, b1)
            .with_bias(added[0].then_some(&bias[..]))
            .with_residual(added[1].then_some(&residual[..]));
        let got = product.run();
        let stride = n + 3;
        let mut here = vec![f32::NAN; m * stride];
        // SAFETY: there are `m` rows of `n` values, and nobody else uses them.
        unsafe { product.run_here(&mut Scratch::new(), Shared::new(&mut here), stride) };
        let value = |x: Matrix, i: usize, j: usize| f64::from(x.values[i * x.row + j * x.column]);
        for i in 0..m {
            for j in 0..n {
                let (mut sum, mut size) = (0.0, 1.0);
                for ((a, b), inner) in [(a0, b0), (a1, b1)].into_iter().zip(inner) {
                    for p in 0..inner {
                        let product = value(a, i, p) * value(b, p, j);
                        (sum, size) = (sum + product, size + product.abs());
                    }
                }
                sum += if added[0] { f64::from(bias[j]) } else { 0.0 };
                sum += if added[1] {
                    f64::from(residual[i * n + j])
                } else {
                    0.0
                };
                let got = got[i * n + j];
                let error = (f64::from(got) - sum).abs();
                assert!(
                    error <= 1e-6 * size,
                    "[{i}, {j}]: got {got}, expected {sum}"
                );
                assert_eq!(here[i * stride + j], got, "[{i}, {j}] on one thread");
            }
            assert!(here[i * stride + n..][..3].iter().all(|gap| gap.is_nan()));
        }
    }

    #[test]
    fn products_agree_with_f64() {
        let sizes = [
            [1, 1],
            [14, 32],
            [13, 16],
            [29, 70],
            [5, 33],
            [200, 9],
            [3, 130],
        ];
        for size in sizes {
            for inner in [[1, 0], [16, 8], [37, 3], [1700, 1]] {
                for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                    for added in [[false, false], [true, false], [false, true], [true, true]] {
                        check(size, inner, transposed, added);
                    }
                }
            }
        }
    }

    #[test]
    fn a_sum_of_nothing_is_zero_and_an_empty_result_is_empty() {
        check([3, 5], [0, 0], [false, false], [false, false]);
        check([3, 5], [0, 0], [false, false], [true, false]);
        check([0, 5], [4, 1], [false, false], [true, true]);
        check([3, 0], [4, 1], [false, false], [true, true]);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for (value, expected) in [(f32::NAN, f32::NAN), (f32::INFINITY, f32::INFINITY)] {
            let (mut a, b) = (vec![1.0; 20 * 40], vec![1.0; 40 * 50]);
            a[3 * 40 + 7] = value;
            let y = Product::new([20, 40, 50], Matrix::new(&a, 40), Matrix::new(&b, 50)).run();
            for (i, y) in y.into_iter().enumerate() {
                let expected = if i / 50 == 3 { expected } else { 40.0 };
                assert!(
                    y == expected || (y.is_nan() && expected.is_nan()),
                    "{i}: {y}"
                );
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (m, k, n) = (300, 900, 100);
        let (a, b) = (noise(m * k, 1), noise(k * n, 2));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let product = Product::new([m, k, n], Matrix::new(&a, k), Matrix::new(&b, n));
            pool.unwrap().install(|| product.run())
        };
        let one = run(1);
        assert!([2, 3, 7].into_iter().all(|threads| run(threads) == one));
    }
}
