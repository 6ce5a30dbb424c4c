//! The left side of a convolution's product: its weights, read where they lie or packed in tiles.

use rayon::prelude::*;

use super::kernel::{Kernel, Tiles};
use crate::buffer::{LINE, Unset};
use crate::machine::{Caches, caches};

/// Values of a line of the source that are packed together. Tiles take a few of them each, and lines lie
/// far apart, so that reading a few at a time would fetch the same memory again and again.
const TOGETHER: usize = 256;

/// The left side of the product, one matrix per group, in tiles of the kernel's rows.
pub(super) struct Left<'a> {
    pub(super) kernel: Kernel,
    /// The caches that the product is cut into blocks for.
    pub(super) caches: Caches,
    /// The rows where they lie, `[groups, rows, depth]`; empty if all tiles are packed.
    plain: &'a [f32],
    /// `[groups, tiles, depth, kernel.rows]`, with a gap behind each tile: all tiles, or the last of each
    /// group if that is not a whole one. Rows that a tile lacks are zero.
    packed: Box<[Unset]>,
    pub(super) groups: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
}

impl<'a> Left<'a> {
    /// Reads `plain [groups, rows, depth]` where it lies.
    pub(super) fn plain([groups, rows, depth]: [usize; 3], plain: &'a [f32]) -> Self {
        let kernel = Kernel::current();
        // A tile reads all of its rows, so that one which reaches beyond the last row is packed.
        let whole = rows / kernel.rows * kernel.rows;
        let edges = if whole < rows { groups } else { 0 };
        let size = tile_size(kernel, depth);
        let mut packed = Box::new_uninit_slice(edges * size);
        for (group, tile) in packed.chunks_exact_mut(size).enumerate() {
            let edge = &plain[(group * rows + whole) * depth..(group + 1) * rows * depth];
            for (k, line) in tile.chunks_exact_mut(kernel.rows).take(depth).enumerate() {
                for (i, value) in line.iter_mut().enumerate() {
                    value.write(edge.get(i * depth + k).copied().unwrap_or(0.0));
                }
            }
        }
        Self {
            kernel,
            caches: caches(),
            plain,
            packed,
            groups,
            rows,
            depth,
        }
    }

    /// Packs some tiles at a time: `fill` gets the group, the first row and the tiles, and writes all of
    /// each. A line of the source has `taps` values for each row.
    pub(super) fn pack(
        [groups, rows, depth]: [usize; 3],
        taps: usize,
        fill: impl Fn(usize, usize, Tiles) + Sync,
    ) -> Self {
        let kernel = Kernel::current();
        let (tiles, size) = (rows.div_ceil(kernel.rows), tile_size(kernel, depth));
        let some = if groups == 1 {
            (TOGETHER / (kernel.rows * taps)).max(1)
        } else {
            1
        };
        let mut packed = Box::new_uninit_slice(groups * tiles * size);
        let chunks = packed.par_chunks_mut(some * size).enumerate();
        chunks.for_each(|(chunk, values)| {
            let tile = chunk * some;
            let own = Tiles {
                values,
                height: kernel.rows,
                size,
            };
            fill(tile / tiles, tile % tiles * kernel.rows, own);
        });
        Self {
            kernel,
            caches: caches(),
            plain: &[],
            packed,
            groups,
            rows,
            depth,
        }
    }

    /// Rows of all groups.
    pub(super) fn channels(&self) -> usize {
        self.groups * self.rows
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.kernel.rows)
    }

    /// Where part of a tile of a group begins, `depth` values of each row from `first` on, and the way from
    /// row to row and from value to value.
    pub(super) fn tile(
        &self,
        group: usize,
        tile: usize,
        first: usize,
        depth: usize,
    ) -> (*const f32, [usize; 2]) {
        let height = self.kernel.rows;
        let own = if self.plain.is_empty() {
            group * self.tiles() + tile
        } else if (tile + 1) * height > self.rows {
            group
        } else {
            let start = (group * self.rows + tile * height) * self.depth + first;
            let span = (height - 1) * self.depth + depth;
            return (self.plain[start..start + span].as_ptr(), [self.depth, 1]);
        };
        let start = own * tile_size(self.kernel, self.depth) + first * height;
        let values = &self.packed[start..start + depth * height];
        (values.as_ptr().cast(), [1, height])
    }
}

/// From a packed tile to the next: an odd number of cache lines, since tiles that begin a power of two
/// apart would be written to the same few places of the first cache.
fn tile_size(kernel: Kernel, depth: usize) -> usize {
    ((depth * kernel.rows).div_ceil(LINE) | 1) * LINE
}
