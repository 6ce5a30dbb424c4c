//! The transform of inputs.

use std::ops::Range;

use super::tiles::{Block, LANES, Maps, POSITIONS, chunk, store};
use crate::buffer::{Scratch, Shared};
use crate::simd::multiversion;

multiversion! {
    /// Transforms some channels of a block.
    ///
    /// # Safety
    /// `out` has room for the block's inputs, and nobody else uses these channels of them meanwhile.
    pub(super) unsafe fn transform_inputs<S>(
        maps: &Maps,
        block: &Block,
        channels: Range<usize>,
        source: &[f32],
        lines: &mut Scratch,
        out: Shared,
    ) {
        let [down, across] = maps.tiles();
        let ([height, row], [above, before]) = (maps.source, maps.padding);
        // Whole vectors are written, so that lines end with what nobody reads.
        let padded = across.next_multiple_of(LANES) + LANES;
        let (long, width) = (2 * padded, block.width() + LANES);
        let lines = lines.take(row + 4 * long + 2 * padded + POSITIONS * width);
        lines.fill(0.0);
        let (zeros, lines) = lines.split_at_mut(row);
        let (vertical, lines) = lines.split_at_mut(4 * long);
        let (halves, lines) = lines.split_at_mut(2 * padded);
        let (even, odd) = halves.split_at_mut(padded);
        // The zeros beside the map stay zero.
        let inside = row.min(2 * across + 2 - before);
        for channel in channels {
            for (index, place) in block.rows.clone().enumerate() {
                let (image, y) = (place / down, 2 * (place % down));
                let map = &source[(image * block.depth + channel) * height * row..][..height * row];
                let rows: [&[f32]; 4] = std::array::from_fn(|i| {
                    match (y + i).checked_sub(above).filter(|y| *y < height) {
                        Some(y) => &map[y * row..][..inside],
                        None => &zeros[..inside],
                    }
                });
                let to = split(vertical, long).map(|line| &mut line[before..before + inside]);
                match inside {
                    LANES.. => combine_rows::<LANES>(rows, to),
                    4.. => combine_rows::<4>(rows, to),
                    _ => combine_rows::<1>(rows, to),
                }
                for (i, vertical) in vertical.chunks_exact(long).enumerate() {
                    for j in (0..padded).step_by(LANES) {
                        let pairs: &[f32; 2 * LANES] = chunk(&vertical[2 * j..]);
                        store::<LANES>(&mut even[j..], |l| pairs[2 * l]);
                        store::<LANES>(&mut odd[j..], |l| pairs[2 * l + 1]);
                    }
                    let positions = &mut lines[4 * i * width..4 * (i + 1) * width];
                    for j in (0..across).step_by(LANES) {
                        let columns = [&even[j..], &odd[j..], &even[j + 1..], &odd[j + 1..]];
                        let at = index * across + j;
                        let to = split(positions, width).map(|line| &mut line[at..]);
                        combine::<LANES>(columns.map(chunk), to);
                    }
                }
            }
            for (position, line) in lines.chunks_exact(width).enumerate() {
                for panel in block.panels() {
                    let start = position * block.position() + panel.start * block.depth;
                    // SAFETY: the channel's line of the panel lies inside the block's inputs and is lent to this
                    // call. It is as wide as the panel, which is a number of whole vectors.
                    unsafe {
                        let out = out.at(start + channel * panel.len(), panel.len());
                        for (index, line) in line[panel].as_chunks::<LANES>().0.iter().enumerate() {
                            *out.cast::<[f32; LANES]>().add(index) = *line;
                        }
                    }
                }
            }
        }
    }
}

/// [`combine`] for whole rows, `N` values at a time. The last `N` may overlap those before, so that nothing is
/// left to compute one by one.
#[inline(always)]
fn combine_rows<const N: usize>(rows: [&[f32]; 4], mut to: [&mut [f32]; 4]) {
    let length = to[0].len();
    let mut x = 0;
    while x < length {
        x = x.min(length - N);
        let [a, b, c, d] = &mut to;
        let to = [&mut a[x..], &mut b[x..], &mut c[x..], &mut d[x..]];
        combine::<N>(rows.map(|row| chunk(&row[x..])), to);
        x += N;
    }
}

/// The transform along one side of tiles: four values of each become four positions.
#[inline(always)]
fn combine<const N: usize>([a, b, c, d]: [&[f32; N]; 4], to: [&mut [f32]; 4]) {
    let [first, second, third, fourth] = to;
    store::<N>(first, |l| a[l] - c[l]);
    store::<N>(second, |l| b[l] + c[l]);
    store::<N>(third, |l| c[l] - b[l]);
    store::<N>(fourth, |l| b[l] - d[l]);
}

/// Four lines of `length` values.
#[inline(always)]
fn split(lines: &mut [f32], length: usize) -> [&mut [f32]; 4] {
    let (left, right) = lines.split_at_mut(2 * length);
    let ((a, b), (c, d)) = (left.split_at_mut(length), right.split_at_mut(length));
    [a, b, c, d]
}
