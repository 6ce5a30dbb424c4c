//! Sums of matrix products of strided matrices.
//!
//! As in BLIS (Van Zee and van de Geijn 2015), columns of `b` are packed into panels, and a
//! micro-kernel keeps a tile of the result in registers while it runs along the inner dimension. Rows
//! of `a` are read where they lie if their values are neighbours, and packed otherwise. How a value is
//! summed follows from the shapes alone, so that it is the same to the bit whichever thread computes it,
//! and whatever rows stand beside it.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod block;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod narrow;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod plan;
mod register;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use self::block::Block;
pub(crate) use self::kernel::{Kernels, RUN};
pub(crate) use self::plan::Blocking;
use self::plan::Plan;
pub(crate) use self::register::{Baseline, Register};
use crate::buffer::{Aligned, Scratch, Shared, written};
use crate::math::Map;

/// A strided matrix to read.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T = f32> {
    values: &'a [T],
    /// From a row to the next.
    row: usize,
    /// From a column to the next.
    column: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows that begin `row` values apart.
    pub(crate) fn new(values: &'a [T], row: usize) -> Self {
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

    /// Whether that many rows and columns lie inside the values.
    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |count: usize, stride: usize| count.saturating_sub(1) * stride;
        rows * columns == 0 || last(rows, self.row) + last(columns, self.column) < self.values.len()
    }

    /// The address of a place. It may be read if the matrix [holds](Self::holds) it.
    fn at(&self, row: usize, column: usize) -> *const T {
        // Wrapping, because an empty matrix has no place: nothing is read there.
        let values = self.values.as_ptr();
        values.wrapping_add(row * self.row + column * self.column)
    }
}

/// `sum_t a_t b_t + bias + residual`.
pub(crate) struct Product<'a, T = f32> {
    rows: usize,
    columns: usize,
    terms: Vec<Term<'a, T>>,
    bias: Option<&'a [T]>,
    residual: Option<&'a [T]>,
}

/// One product of the sum.
struct Term<'a, T = f32> {
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    inner: usize,
    /// Applied to runs of `a` before they are multiplied.
    map: Option<Map<T>>,
}

impl Term<'_> {
    /// Packs the lines of all panels.
    ///
    /// # Safety
    /// As for [`pack`](Self::pack), for these lines of all panels.
    unsafe fn pack_all(&self, plan: &Plan, above: usize, packed: Shared) {
        let shares = |count: usize| (0..count).into_par_iter().with_min_len(plan.least());
        if self.b.column == 1 {
            // Lines that are read from end to end come from memory twice as fast as pieces of them, which are
            // all that a panel needs.
            shares(self.inner.div_ceil(TOGETHER)).for_each(|share| {
                let first = share * TOGETHER;
                let lines = first..(first + TOGETHER).min(self.inner);
                for panel in 0..plan.panels() {
                    // SAFETY: the caller lends all panels, and these lines of them are this share's.
                    unsafe { self.pack(plan, panel, above, lines.clone(), packed) };
                }
            });
        } else {
            shares(plan.panels()).for_each(|panel| {
                // SAFETY: the caller lends all panels, and this one is this share's.
                unsafe { self.pack(plan, panel, above, 0..self.inner, packed) };
            });
        }
    }

    /// Packs some lines of a panel, whose other terms have `above` lines before them.
    ///
    /// # Safety
    /// `packed` has room for the panels of `plan`, and nobody else uses these lines of this one meanwhile.
    unsafe fn pack(
        &self,
        plan: &Plan,
        panel: usize,
        above: usize,
        lines: Range<usize>,
        packed: Shared,
    ) {
        let columns = plan.columns(panel..panel + 1);
        let width = plan.kernels.width(columns.len());
        let place = plan.panel(panel) + (above + lines.start) * width;
        // SAFETY: `plus` checked that `b` holds all lines and columns. The caller lends the lines of the panel,
        // of `width` values each. The plan's kernels are those of the current level.
        unsafe {
            let from = self.b.at(lines.start, columns.start);
            let to = packed.at(place, lines.len() * width);
            let strides = [self.b.row, self.b.column];
            (plan.kernels.pack_columns)(from, strides, lines.len(), columns.len(), to);
        }
    }
}

impl<'a, T> Product<'a, T> {
    /// `a b` with `a [rows, inner]` and `b [inner, columns]`.
    pub(crate) fn new(
        [rows, inner, columns]: [usize; 3],
        a: Matrix<'a, T>,
        b: Matrix<'a, T>,
    ) -> Self {
        Self::empty(rows, columns).plus(inner, a, b)
    }

    /// A sum of no products.
    fn empty(rows: usize, columns: usize) -> Self {
        Self {
            rows,
            columns,
            terms: Vec::with_capacity(2),
            bias: None,
            residual: None,
        }
    }

    /// Plus another product, of `a [rows, inner]` and `b [inner, columns]`.
    pub(crate) fn plus(mut self, inner: usize, a: Matrix<'a, T>, b: Matrix<'a, T>) -> Self {
        assert!(a.holds(self.rows, inner) && b.holds(inner, self.columns));
        self.terms.push(Term {
            a,
            b,
            inner,
            map: None,
        });
        self
    }

    /// With `map(a)` in place of `a` in the last product so far. The values of a row must be neighbours.
    pub(crate) fn mapped(mut self, map: Option<Map<T>>) -> Self {
        if let Some(term) = self.terms.last_mut() {
            assert!(map.is_none() || term.a.column == 1);
            term.map = map;
        }
        self
    }

    /// With `bias [columns]` added to each row.
    pub(crate) fn with_bias(mut self, bias: Option<&'a [T]>) -> Self {
        assert!(bias.is_none_or(|bias| bias.len() == self.columns));
        self.bias = bias;
        self
    }

    /// With `residual [rows, columns]`, contiguous, added.
    pub(crate) fn with_residual(mut self, residual: Option<&'a [T]>) -> Self {
        assert!(residual.is_none_or(|residual| residual.len() == self.rows * self.columns));
        self.residual = residual;
        self
    }
}

impl Product<'_> {
    /// The result, contiguous, computed on all threads.
    pub(crate) fn run(&self) -> Vec<f32> {
        self.run_as(&self.plan(Kernels::current()))
    }

    /// The plan for all threads.
    fn plan(&self, kernels: &'static Kernels) -> Plan {
        // The number of threads decides how the result is cut into blocks, but not how a value is summed.
        Plan::new(kernels, self, SHARE * rayon::current_num_threads())
    }

    /// The panels of all terms.
    fn pack(&self, plan: &Plan) -> Aligned {
        // SAFETY: the panels fill the buffer, and each term's part of them is packed by one task.
        unsafe {
            Aligned::written(plan.packed(), |packed| {
                let packed = Shared::unset(packed);
                let mut above = 0;
                for term in &self.terms {
                    term.pack_all(plan, above, packed);
                    above += term.inner;
                }
            })
        }
    }

    fn run_as(&self, plan: &Plan) -> Vec<f32> {
        let packed = self.pack(plan);
        // SAFETY: the blocks of the tasks fill the result, no two of them overlap, and each task writes
        // all of its own.
        unsafe {
            written(self.rows * self.columns, |out| {
                let out = Shared::unset(out);
                let tasks = (0..plan.tasks()).into_par_iter().with_min_len(plan.least());
                tasks.for_each(|task| {
                    SCRATCH.with_borrow_mut(|scratch| {
                        let scratch = scratch.take(plan.scratch());
                        let block = self.block(plan, task, &packed, out, self.columns);
                        block.compute(scratch);
                    });
                });
            })
        }
    }

    /// Writes the result to `out`, its rows `stride` values apart, on this thread.
    ///
    /// # Safety
    /// The rows lie inside the buffer of `out`, and nobody else uses them meanwhile.
    pub(crate) unsafe fn run_here(&self, scratch: &mut Scratch, out: Shared, stride: usize) {
        let plan = Plan::new(Kernels::current(), self, 1);
        let scratch = scratch.take(plan.packed() + plan.scratch());
        let (packed, scratch) = scratch.split_at_mut(plan.packed());
        let place = Shared::new(packed);
        let mut above = 0;
        for term in &self.terms {
            for panel in 0..plan.panels() {
                // SAFETY: `place` has room for all panels, and they are packed one after the other.
                unsafe { term.pack(&plan, panel, above, 0..term.inner, place) };
            }
            above += term.inner;
        }
        for task in 0..plan.tasks() {
            let block = self.block(&plan, task, packed, out, stride);
            // SAFETY: the caller lends the rows of `out` to this call.
            unsafe { block.compute(scratch) };
        }
    }

    /// The block of a task.
    fn block<'b>(
        &'b self,
        plan: &'b Plan,
        task: usize,
        packed: &'b [f32],
        out: Shared<'b>,
        stride: usize,
    ) -> Block<'b> {
        let (rows, panels) = plan.task(task);
        Block {
            product: self,
            plan,
            rows,
            panels,
            packed,
            out,
            origin: [0, 0],
            stride,
        }
    }
}

/// Lines of `b` that are packed together, for all panels: few enough that their memory is read from end to
/// end.
const TOGETHER: usize = 16;

/// Least number of blocks of a large product for each thread: enough that threads which are done find
/// another while the slowest finishes.
const SHARE: usize = 8;

thread_local! {
    // Kept from call to call: fresh memory costs page faults.
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}
