//! Sums of matrix products of strided matrices.
//!
//! As in BLIS (Van Zee and van de Geijn 2015), columns of `b` are packed into panels, and a
//! micro-kernel keeps a tile of the result in registers while it runs along the inner dimension. Rows
//! of `a` are read where they lie if their values are neighbours, else packed too. A task is a block
//! of the result chosen by shape: a value is summed in one order whoever computes it.

mod kernel;
mod plan;
mod register;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use rayon::prelude::*;

use self::kernel::{RUN, Tile};
use self::plan::{Plan, SPAN};
use crate::buffer::{LINE, Scratch, Shared, Unset, written};

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
            let runs = depth.div_ceil(RUN);
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
                let (mut ahead, share) = match packed.len() > NEAR {
                    true => {
                        let next = packed[b..].as_ptr().wrapping_add(plan.inner * width);
                        (next, (depth * width).div_ceil((tiles * runs * LINE).max(1)))
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
                        share,
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
                    ahead = ahead.wrapping_add(runs * share * LINE);
                }
            }
        }
    }
}

/// Products of fewer multiplications are not worth a second thread.
const SMALL: usize = 1 << 16;

/// Blocks of a large product for each thread, or more: so many that none waits long for another.
const SHARE: usize = 8;

/// Values of packed panels that the second cache holds beside a block.
const NEAR: usize = 1 << 18;

/// Values that rows are apart from one another whose places in the first cache are the same.
const ALIAS: usize = 1024;

thread_local! {
    static ROWS: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}
