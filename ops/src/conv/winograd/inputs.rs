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
                    LANES.. => combine::<LANES>(rows, to),
                    4.. => combine::<4>(rows, to),
                    _ => combine::<1>(rows, to),
                }
                for (i, vertical) in vertical.chunks_exact(long).enumerate() {
                    for j in (0..padded).step_by(LANES) {
                        let pairs: &[f32; 2 * LANES] = chunk(&vertical[2 * j..]);
                        store::<LANES>(&mut even[j..], |l| pairs[2 * l]);
                        store::<LANES>(&mut odd[j..], |l| pairs[2 * l + 1]);
                    }
                    let positions = &mut lines[4 * i * width..];
                    for j in (0..across).step_by(LANES) {
                        let [a, b]: [&[f32; LANES]; 2] = [chunk(&even[j..]), chunk(&odd[j..])];
                        let [c, d]: [&[f32; LANES]; 2] = [chunk(&even[j + 1..]), chunk(&odd[j + 1..])];
                        let at = index * across + j;
                        let to = |position: usize| position * width + at;
                        store::<LANES>(&mut positions[to(0)..], |l| a[l] - c[l]);
                        store::<LANES>(&mut positions[to(1)..], |l| b[l] + c[l]);
                        store::<LANES>(&mut positions[to(2)..], |l| c[l] - b[l]);
                        store::<LANES>(&mut positions[to(3)..], |l| b[l] - d[l]);
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

/// The sums and differences of four rows of a tile, `N` columns at a time. The last `N` may overlap those
/// before, so that nothing is left to compute one by one.
#[inline(always)]
fn combine<const N: usize>(rows: [&[f32]; 4], [first, second, third, fourth]: [&mut [f32]; 4]) {
    let length = first.len();
    let mut x = 0;
    while x < length {
        x = x.min(length - N);
        let [a, b, c, d]: [&[f32; N]; 4] = rows.map(|row| chunk(&row[x..]));
        store::<N>(&mut first[x..], |l: usize| a[l] - c[l]);
        store::<N>(&mut second[x..], |l: usize| b[l] + c[l]);
        store::<N>(&mut third[x..], |l: usize| c[l] - b[l]);
        store::<N>(&mut fourth[x..], |l: usize| b[l] - d[l]);
        x += N;
    }
}

/// Four lines of `length` values.
#[inline(always)]
fn split(lines: &mut [f32], length: usize) -> [&mut [f32]; 4] {
    let (left, right) = lines.split_at_mut(2 * length);
    let ((a, b), (c, d)) = (left.split_at_mut(length), right.split_at_mut(length));
    [a, b, c, d]
}
