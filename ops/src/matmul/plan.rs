//! How a product is cut into pieces, panels and blocks.

use std::ops::Range;

use super::Product;
use super::kernel::{Kernels, RUN};
use crate::machine::{Caches, caches};

/// Least number of panels of a block that does not have all of them: packing its rows should be worth it.
pub(super) const SPAN: usize = 4;

/// Least depth of a piece. Putting the sums of a tile aside and taking them up again costs as much as some columns of
/// products.
const LEAST: usize = 4 * RUN;

/// Rows of a block of a product, about: whole tiles at each level, and enough that fetching a panel from a cache further
/// away takes no time beside multiplying it.
const TALL: usize = 84;

/// Products of fewer multiplications are not worth a second thread.
const SMALL: usize = 1 << 16;

/// Sizes of blocks that suit the caches. They decide when a part of a sum is computed, but not in which order
/// its products are added, so that results are the same on every machine of a level.
pub(crate) struct Blocking {
    /// Values of the inner dimension in a piece.
    pub(crate) depth: usize,
    /// Rows of a block: a piece of them stays in the second cache while all panels pass by.
    pub(crate) rows: usize,
    /// Columns of a block, whose sums wait in the second cache between two pieces.
    columns: usize,
}

/// Bytes of a value.
const VALUE: usize = size_of::<f32>();

impl Blocking {
    /// For a product. A piece is as deep as a quarter of the second cache allows for the rows of a block. Its panels
    /// may be larger than the first cache, so that each tile reads them from the second one; but what is read once is
    /// multiplied with all rows of the tile, and that takes longer.
    fn of_product(caches: Caches) -> Self {
        let quarter = caches.second / 4 / VALUE;
        // Whole runs: a run that a piece cuts off would be added up otherwise.
        let depth = (quarter / TALL).max(LEAST) / RUN * RUN;
        Self::with_depth(caches, depth, quarter / depth)
    }

    /// For panels of `columns` columns that stay in the first cache, of which they may take `share`, while all rows of
    /// the block pass by.
    pub(crate) fn of_near_panels(caches: Caches, columns: usize, share: f64) -> Self {
        let panel = (caches.first as f64 * share) as usize / (columns * VALUE);
        let depth = panel.max(LEAST) / RUN * RUN;
        // A twelfth of the second cache: panels and results pass through it too.
        Self::with_depth(caches, depth, caches.second / 12 / (depth * VALUE))
    }

    fn with_depth(caches: Caches, depth: usize, rows: usize) -> Self {
        let rows = rows.max(1);
        // A third of the second cache for the sums.
        let columns = caches.second / 3 / (rows * VALUE);
        Self {
            depth,
            rows,
            columns: columns.max(1),
        }
    }
}

/// A product, cut into tasks. Pieces and blocks depend on the caches, and blocks on the number of tasks.
pub(super) struct Plan {
    pub(super) kernels: &'static Kernels,
    rows: usize,
    columns: usize,
    /// The sum of the inner dimensions of all terms.
    pub(super) inner: usize,
    pub(super) pieces: Vec<Piece>,
    /// Blocks below one another, whose heights differ by a tile at most.
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
    /// Rows above it in a packed panel.
    pub(super) above: usize,
}

impl Plan {
    /// With about `tasks` blocks or more, if there are that many tiles.
    pub(super) fn new(kernels: &'static Kernels, product: &Product, tasks: usize) -> Self {
        Self::for_caches(caches(), kernels, product, tasks)
    }

    /// For the caches of any machine.
    pub(super) fn for_caches(
        caches: Caches,
        kernels: &'static Kernels,
        product: &Product,
        tasks: usize,
    ) -> Self {
        let blocking = Blocking::of_product(caches);
        let tiles = product.rows.div_ceil(kernels.rows);
        let panels = product.columns.div_ceil(kernels.columns);
        // As many blocks down and across as the caches ask for, or the tasks if those are more.
        let least = product.rows.div_ceil(blocking.rows).max(1);
        // A map is applied to a row again for each block across, so there is one, which spans all panels,
        // and tasks are made of rows alone.
        let mapped = product.terms.iter().any(|term| term.map.is_some());
        let (tasks, wanted) = if mapped {
            (tasks.div_ceil(SPAN), 1)
        } else {
            let least_across = product.columns.div_ceil(blocking.columns);
            (tasks, (tasks / least).max(least_across))
        };
        let across = wanted.clamp(1, (panels / SPAN).max(1));
        let down = least.max(tasks / across).min(tiles);
        let (mut pieces, mut inner) = (Vec::new(), 0);
        for (term, values) in product.terms.iter().enumerate() {
            // Pieces of about equal depth, rather than full ones and a short rest.
            let count = values.inner.div_ceil(blocking.depth).max(1);
            let depth = values.inner.div_ceil(count).next_multiple_of(RUN);
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
            // An empty sum has to be written too.
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

    /// Least number of shares or blocks for a thread: all of them if the product is small.
    pub(super) fn least(&self) -> usize {
        if self.rows * self.columns * self.inner < SMALL {
            usize::MAX
        } else {
            1
        }
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

    /// Number of values of all packed panels, the last of which may be narrow.
    pub(super) fn packed(&self) -> usize {
        let Some(last) = self.panels().checked_sub(1) else {
            return 0;
        };
        let width = self
            .kernels
            .width(self.columns - last * self.kernels.columns);
        self.panel(last) + width * self.inner
    }

    /// Number of values of a block's work space: an edge, the sums between pieces, and packed rows.
    pub(super) fn scratch(&self) -> usize {
        let depth = self.pieces.iter().map(|piece| piece.depth).max();
        let edge = self.kernels.rows * self.kernels.columns;
        edge + self.partial() + self.tallest() * self.kernels.rows * depth.unwrap_or(0)
    }

    /// Number of values of the tiles of a block, or of a single tile if there is only one piece.
    pub(super) fn partial(&self) -> usize {
        let tiles = if self.pieces.len() == 1 {
            1
        } else {
            self.tallest() * self.span
        };
        tiles * self.kernels.rows * self.kernels.columns
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.kernels.rows)
    }

    /// Number of tiles below one another in the highest block.
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
