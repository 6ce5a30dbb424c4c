//! One task of a product: a block of the result, tile by tile.

use std::ops::Range;
use std::ptr::NonNull;

use super::kernel::{RUN, Tile};
use super::plan::{Piece, Plan, SPAN};
use super::{Matrix, Product};
use crate::buffer::{LINE, Shared, as_unset};
use crate::machine::caches;
use crate::math::Map;

/// Rows that begin a multiple of this many values apart fall on the same few places of the first cache.
const ALIAS: usize = 1024;

/// The rows and panels of a task, and where its result goes.
pub(super) struct Block<'a> {
    pub(super) product: &'a Product<'a>,
    pub(super) plan: &'a Plan,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    /// All panels, as [`Product::pack`] writes them.
    pub(super) packed: &'a [f32],
    pub(super) out: Shared<'a>,
    /// The row and the column of the product that `out` begins with.
    pub(super) origin: [usize; 2],
    /// From a row of `out` to the next.
    pub(super) stride: usize,
}

/// What a block works in.
struct Space<'a> {
    /// A tile of which only a part goes to `out`.
    edge: &'a mut [f32],
    /// The sums of all tiles between two pieces.
    partial: &'a mut [f32],
    /// Packed rows of `a`.
    rows: &'a mut [f32],
}

impl Block<'_> {
    /// Computes the block in `scratch`, of as many values as the plan says.
    ///
    /// The pieces of the inner dimension come one after the other, so that a panel of `b` and the rows of
    /// `a` that it meets stay in the caches. Between two pieces the sums are put aside.
    ///
    /// # Safety
    /// The rows of `out` lie inside its buffer, and nobody else uses this block of them meanwhile.
    pub(super) unsafe fn compute(&self, scratch: &mut [f32]) {
        let kernels = self.plan.kernels;
        let (edge, scratch) = scratch.split_at_mut(kernels.rows * kernels.columns);
        let (partial, rows) = scratch.split_at_mut(self.plan.partial());
        let mut space = Space {
            edge,
            partial,
            rows,
        };
        for (index, piece) in self.plan.pieces.iter().enumerate() {
            let left = Left::new(self, piece);
            left.pack(space.rows);
            for panel in self.panels.clone() {
                // SAFETY: the caller lends this block of `out` to this call.
                unsafe { self.multiply(index, &left, panel, &mut space) };
            }
        }
    }

    /// Multiplies the rows of the block with one panel, in one piece of the inner dimension.
    ///
    /// # Safety
    /// As for [`compute`](Self::compute).
    #[inline]
    unsafe fn multiply(&self, index: usize, left: &Left, panel: usize, space: &mut Space) {
        let (product, plan) = (self.product, self.plan);
        let (piece, height) = (&plan.pieces[index], plan.kernels.rows);
        let size = height * plan.kernels.columns;
        let tiles = self.rows.len().div_ceil(height);
        let (first, last) = (index == 0, index + 1 == plan.pieces.len());

        let columns = plan.columns(panel..panel + 1);
        let width = plan.kernels.width(columns.len());
        let start = plan.panel(panel) + piece.above * width;
        let b = self.packed[start..][..piece.depth * width].as_ptr();

        // The next panel comes from memory, or from a cache further away, and no processor foresees
        // that: each run of each tile asks for its share of it. If all panels are near anyway, asking
        // would only take the place of loads.
        let runs = piece.depth.div_ceil(RUN);
        let (mut ahead, share) = if size_of_val(self.packed) > caches().second {
            let next = b.wrapping_add(plan.inner * width);
            let lines = (tiles * runs * LINE).max(1);
            (next, (piece.depth * width).div_ceil(lines))
        } else {
            (self.packed.as_ptr(), 0)
        };

        // Bias and residual are added to the whole sum: smaller sums on the way round less.
        let bias = product.bias.filter(|_| last);
        let bias = bias.map(|bias| NonNull::from(&bias[columns.clone()]).cast());
        let residual = product.residual.filter(|_| last);

        for (down, row) in self.rows.clone().step_by(height).enumerate() {
            let count = [height.min(product.rows - row), columns.len()];
            // With one piece nothing is put aside, and the plan has room for a single tile.
            let aside = if first && last {
                0
            } else {
                ((panel - self.panels.start) * tiles + down) * size
            };
            let residual = residual.map(|residual| {
                let start = row * product.columns + columns.start;
                NonNull::from(&residual[start..]).cast()
            });
            let (a, strides) = left.tile(row, space.rows);
            // SAFETY: the caller lends the block, whose rows lie inside `out`, to this call. Of this
            // tile only the rows and columns that the product has are used.
            let out = unsafe {
                let span = (count[0] - 1) * self.stride + count[1];
                let [above, before] = self.origin;
                let place = (row - above) * self.stride + columns.start - before;
                self.out.at(place, span)
            };
            let tile = Tile {
                depth: piece.depth,
                run: RUN,
                a,
                strides,
                b,
                ahead,
                share,
                partial: space.partial[aside..aside + size].as_mut_ptr(),
                first,
                last,
                residual,
                residual_stride: product.columns,
                bias,
                out,
                stride: self.stride,
            };
            // SAFETY: `left` has `height` rows from `a` on, of `depth` values each, the last of them
            // zeros or leftovers where the product has fewer; the slice above has `depth` rows of
            // `width` columns from `b` on. `partial` has room for a tile. Residual, bias and `out` have
            // the rows and columns of `count`: the product checked the lengths of the first two, and
            // the caller lends the third. The plan's kernels are those of the current level.
            unsafe { plan.kernels.tile(tile, width, count, space.edge) };
            ahead = ahead.wrapping_add(runs * share * LINE);
        }
    }
}

/// The rows of `a` that a block reads in one piece.
struct Left<'a> {
    a: Matrix<'a>,
    map: Option<Map>,
    piece: &'a Piece,
    plan: &'a Plan,
    /// Rows of the block.
    rows: Range<usize>,
    /// Rows of the product.
    end: usize,
    /// Whether whole tiles are read where they lie.
    in_place: bool,
}

impl<'a> Left<'a> {
    fn new(block: &Block<'a>, piece: &'a Piece) -> Self {
        let term = &block.product.terms[piece.term];
        let a = term.a;
        // Rows that evict each other from the first cache are worth a copy, if it is read by more than a
        // few panels.
        let aliased = a.row > piece.depth && a.row.is_multiple_of(ALIAS);
        let aliased = aliased && block.panels.len() >= SPAN;
        Self {
            a,
            map: term.map,
            piece,
            plan: block.plan,
            rows: block.rows.clone(),
            end: block.product.rows,
            in_place: a.column == 1 && !aliased && term.map.is_none(),
        }
    }

    /// Whether the tile from `row` on is read where it lies. The micro-kernel reads a whole tile, so one
    /// that reaches beyond the last row is packed.
    #[inline]
    fn is_in_place(&self, row: usize) -> bool {
        self.in_place && row + self.plan.kernels.rows <= self.end
    }

    /// Where the tile from `row` on is packed.
    #[inline]
    fn slot(&self, row: usize) -> usize {
        (row - self.rows.start) * self.piece.depth
    }

    /// The first value of the tile from `row` on, and the way from a row to the next and from a column to
    /// the next.
    #[inline]
    fn tile(&self, row: usize, space: &[f32]) -> (*const f32, [usize; 2]) {
        if self.is_in_place(row) {
            return (self.a.at(row, self.piece.from), [self.a.row, 1]);
        }
        let strides = if self.a.column == 1 {
            [self.piece.depth, 1]
        } else {
            [1, self.plan.kernels.rows]
        };
        (space[self.slot(row)..].as_ptr(), strides)
    }

    /// Packs the tiles that cannot be read where they lie.
    fn pack(&self, space: &mut [f32]) {
        let (height, depth) = (self.plan.kernels.rows, self.piece.depth);
        let tiles = self.rows.clone().step_by(height);
        for row in tiles.filter(|row| !self.is_in_place(*row)) {
            let count = height.min(self.end - row);
            let to = &mut space[self.slot(row)..][..height * depth];
            if self.a.column == 1 {
                self.copy_rows(row, count, to);
            } else {
                // SAFETY: `Product::plus` checked that `a` holds these rows and columns, and `to` has
                // room for the `height` values of each of `depth` columns. The plan's kernels are those
                // of the current level.
                unsafe {
                    let (from, strides) =
                        (self.a.at(row, self.piece.from), [self.a.column, self.a.row]);
                    (self.plan.kernels.pack_rows)(from, strides, depth, count, to.as_mut_ptr());
                }
            }
        }
    }

    /// Copies rows whose values are neighbours, or their images under the map.
    fn copy_rows(&self, row: usize, count: usize, to: &mut [f32]) {
        let depth = self.piece.depth;
        for (i, to) in to.chunks_exact_mut(depth.max(1)).take(count).enumerate() {
            let from = (row + i) * self.a.row + self.piece.from;
            let from = &self.a.values[from..from + depth];
            match self.map {
                None => to.copy_from_slice(from),
                // SAFETY: a map writes nothing but values.
                Some(map) => map(from, unsafe { as_unset(to) }),
            }
        }
    }
}
