//! The transform of sums to outputs.

use std::ops::Range;

use super::tiles::{Block, LANES, Maps, chunk, store};
use crate::buffer::Shared;
use crate::conv::finish::Finish;
use crate::simd::multiversion;

/// How the sums of a part lie, and the maps that its outputs go to.
pub(super) struct Writer<'a> {
    pub(super) maps: &'a Maps,
    pub(super) block: &'a Block,
    /// Maps that an image has in the result.
    pub(super) channels: usize,
    /// Rows of the sums.
    pub(super) height: usize,
}

impl Writer<'_> {
    /// Number of values of its work space: four outputs of each tile, and the rows that they make up.
    pub(super) fn room(&self) -> usize {
        4 * (self.block.width() + LANES) + 4 * self.block.columns() + 2 * LANES
    }
}

multiversion! {
    /// Turns sums into outputs and finishes them, row by row.
    ///
    /// # Shapes
    /// `sums [POSITIONS, panels, height, columns of the panel]`.
    ///
    /// # Safety
    /// `out` has `channels` maps for each image, and nobody else uses these rows and tiles of them meanwhile.
    pub(super) unsafe fn write<S>(
        writer: &Writer,
        rows: Range<usize>,
        finish: Finish,
        sums: &[f32],
        space: &mut [f32],
        out: Shared,
    ) {
        let (maps, block) = (writer.maps, writer.block);
        let ([down, across], [tall, wide]) = (maps.tiles(), maps.grid);
        let size = writer.height * block.width();
        let long = block.width() + LANES;
        let (outputs, line) = space.split_at_mut(4 * long);
        outputs.fill(0.0);
        for (index, channel) in rows.enumerate() {
            for panel in block.panels() {
                let start = panel.start * writer.height + index * panel.len();
                for j in (0..panel.len()).step_by(LANES) {
                    let of = |position: usize| -> &[f32; LANES] {
                        chunk(&sums[position * size + start + j..])
                    };
                    let (mut upper, mut lower) = ([[0.0; LANES]; 4], [[0.0; LANES]; 4]);
                    for i in 0..4 {
                        let [a, b, c, d] = [of(i), of(4 + i), of(8 + i), of(12 + i)];
                        upper[i] = std::array::from_fn(|l| a[l] + b[l] + c[l]);
                        lower[i] = std::array::from_fn(|l| b[l] - c[l] - d[l]);
                    }
                    for (i, [a, b, c, d]) in [upper, lower].into_iter().enumerate() {
                        let at = 2 * i * long + panel.start + j;
                        let (left, right) = outputs[at..].split_at_mut(long);
                        store::<LANES>(left, |l| a[l] + b[l] + c[l]);
                        store::<LANES>(right, |l| b[l] - c[l] - d[l]);
                    }
                }
            }
            // Rows of tiles of one image make up one run of its map.
            let steps = finish.line(channel);
            let mut first = block.rows.start;
            while first < block.rows.end {
                let (image, top) = (first / down, first % down);
                let last = (first - top + down).min(block.rows.end);
                let mut written = 0;
                for row in first..last {
                    let at = (row - block.rows.start) * across;
                    for half in 0..2.min(tall - 2 * (row - first + top)) {
                        let [left, right] = [2 * half, 2 * half + 1].map(|i| &outputs[i * long + at..]);
                        // What a row is too long by, the next one overwrites.
                        for j in (0..across).step_by(LANES) {
                            let [left, right]: [&[f32; LANES]; 2] = [chunk(&left[j..]), chunk(&right[j..])];
                            let pairs = &mut line[written + 2 * j..][..2 * LANES];
                            for l in 0..LANES {
                                (pairs[2 * l], pairs[2 * l + 1]) = (left[l], right[l]);
                            }
                        }
                        written += wide;
                    }
                }
                let start = ((image * writer.channels + channel) * tall + 2 * top) * wide;
                // SAFETY: the rows lie inside the map of this channel, and are lent to this call.
                let to = unsafe { out.unset_part(start, written) };
                steps.write::<S>(&line[..written], finish.residual(start, written), to);
                first = last;
            }
        }
    }
}
