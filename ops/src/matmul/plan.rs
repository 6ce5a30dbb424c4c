//! How a product is cut up.

use std::ops::Range;

use super::Product;
use super::kernel::Kernels;

/// Panels that a block spans at least, where it does not have all: its rows are packed for so many.
pub(super) const SPAN: usize = 4;

/// Most rows and columns of a block: its rows, and its sums while they are not whole, stay in the second
/// cache.
const BLOCK: [usize; 2] = [112, 768];

/// Most values of the inner dimension at once: a panel of so many stays in the first cache.
const INNER: usize = 192;

/// How a product is cut up.
pub(super) struct Plan {
    pub(super) kernels: &'static Kernels,
    rows: usize,
    columns: usize,
    /// All inner dimensions together.
    pub(super) inner: usize,
    pub(super) pieces: Vec<Piece>,
    /// Blocks below one another, as high as one another but for a tile.
    down: usize,
    /// Panels of a block.
    span: usize,
}

/// A part of a term's inner dimension.
pub(super) struct Piece {
    pub(super) term: usize,
    /// Where it begins in the term.
    pub(super) from: usize,
    pub(super) depth: usize,
    /// What lies above it in a packed panel.
    pub(super) above: usize,
}

impl Plan {
    /// With about `tasks` blocks at least, where there are as many tiles.
    pub(super) fn new(product: &Product, tasks: usize) -> Self {
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
    pub(super) fn size(&self) -> usize {
        self.rows * self.columns * self.inner
    }

    pub(super) fn panels(&self) -> usize {
        self.columns.div_ceil(self.kernels.columns)
    }

    /// The columns of some panels.
    pub(super) fn columns(&self, panels: Range<usize>) -> Range<usize> {
        let width = self.kernels.columns;
        panels.start * width..self.columns.min(panels.end * width)
    }

    /// Where a packed panel begins.
    pub(super) fn panel(&self, panel: usize) -> usize {
        panel * self.kernels.columns * self.inner
    }

    /// Values of all packed panels, the last of which may be narrow.
    pub(super) fn packed(&self) -> usize {
        let Some(last) = self.panels().checked_sub(1) else {
            return 0;
        };
        let width = self
            .kernels
            .width(self.columns - last * self.kernels.columns);
        self.panel(last) + width * self.inner
    }

    /// Values of an edge and of packed rows.
    pub(super) fn scratch(&self) -> usize {
        let depth = self.pieces.iter().map(|piece| piece.depth).max();
        let edge = self.kernels.rows * self.kernels.columns;
        edge + self.partial() + self.tallest() * self.kernels.rows * depth.unwrap_or(0)
    }

    /// Values of the tiles of a block, of one if they are not put aside.
    pub(super) fn partial(&self) -> usize {
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

    pub(super) fn tasks(&self) -> usize {
        self.down * self.panels().div_ceil(self.span)
    }

    /// The rows and panels of a task.
    pub(super) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let across = self.panels().div_ceil(self.span);
        let (block, panel) = (task / across, task % across * self.span);
        let row = |block: usize| block * self.tiles() / self.down * self.kernels.rows;
        let rows = row(block)..row(block + 1).min(self.rows);
        (rows, panel..self.panels().min(panel + self.span))
    }
}
