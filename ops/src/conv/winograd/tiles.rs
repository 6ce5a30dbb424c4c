//! Tiles of maps, and how their transformed values lie.

use std::ops::Range;

use crate::buffer::LINE;
use crate::conv::kernel::Kernel;

/// Positions of a transformed tile.
pub(super) const POSITIONS: usize = 16;
/// Values that the transforms compute at a time.
pub(super) const LANES: usize = 8;

/// The maps that are read and written.
pub(in crate::conv) struct Maps {
    /// Rows and columns of a map that is read.
    pub(in crate::conv) source: [usize; 2],
    /// Rows and columns of a map that is written.
    pub(in crate::conv) grid: [usize; 2],
    /// Zeros before the first row and column of a map that is read.
    pub(in crate::conv) padding: [usize; 2],
}

impl Maps {
    /// Number of tiles down and across a map.
    pub(super) fn tiles(&self) -> [usize; 2] {
        self.grid.map(|size| size.div_ceil(2))
    }
}

/// Some rows of tiles.
pub(super) struct Block {
    pub(super) kernel: Kernel,
    /// Counted over all images.
    pub(super) rows: Range<usize>,
    /// Tiles of a row.
    pub(super) across: usize,
    /// Channels of an image.
    pub(super) depth: usize,
}

impl Block {
    /// Number of tiles.
    pub(super) fn columns(&self) -> usize {
        self.rows.len() * self.across
    }

    /// Columns of all panels, the last of which may be narrower than the others.
    pub(super) fn width(&self) -> usize {
        let columns = self.columns().next_multiple_of(LANES);
        let whole = columns / self.kernel.columns * self.kernel.columns;
        whole + self.kernel.width(columns - whole)
    }

    /// Values of its transformed inputs, `[POSITIONS, panels, depth, columns of the panel]`.
    pub(super) fn inputs(&self) -> usize {
        POSITIONS * self.position()
    }

    /// The distance from a position's inputs to the next position's.
    pub(super) fn position(&self) -> usize {
        apart(self.depth * self.width())
    }

    /// The columns of each panel.
    pub(super) fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (width, across) = (self.width(), self.kernel.columns);
        (0..width)
            .step_by(across)
            .map(move |first| first..(first + across).min(width))
    }
}

/// The distance between neighbouring groups of `count` values. It is an odd number of cache lines, because groups
/// a power of two apart would share a few places of the first cache.
pub(super) fn apart(count: usize) -> usize {
    (count.div_ceil(LINE) | 1) * LINE
}

/// The first `N` values.
#[inline(always)]
pub(super) fn chunk<const N: usize>(values: &[f32]) -> &[f32; N] {
    values.first_chunk().expect("lines have room for a vector")
}

/// Writes the first `N` values.
#[inline(always)]
pub(super) fn store<const N: usize>(values: &mut [f32], of: impl Fn(usize) -> f32) {
    let values: &mut [f32; N] = values
        .first_chunk_mut()
        .expect("lines have room for a vector");
    *values = std::array::from_fn(of);
}
