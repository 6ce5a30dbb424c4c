//! Transformed weights.

use std::ops::Range;

use rayon::prelude::*;

use super::tiles::{LANES, POSITIONS, apart};
use crate::buffer::Unset;
use crate::conv::kernel::Kernel;
use crate::machine::{Caches, caches};
use crate::simd::multiversion;

/// Filters of nine taps, one for each row and each value of the inner dimension.
#[derive(Clone, Copy)]
pub(in crate::conv) struct Taps<'a> {
    pub(in crate::conv) values: &'a [f32],
    /// From a row to the next, and from a value of the inner dimension to the next.
    pub(in crate::conv) strides: [usize; 2],
    /// Whether the taps are read from the last to the first, as the gradient of the input does.
    pub(in crate::conv) reversed: bool,
    /// A factor for each value of the inner dimension.
    pub(in crate::conv) scale: Option<&'a [f32]>,
}

/// Transformed weights in tiles of the kernel's rows, `[tiles, POSITIONS, depth, kernel.rows]`. Rows that the
/// last tile lacks are zero.
pub(in crate::conv) struct Weights {
    pub(super) kernel: Kernel,
    /// The caches that the product is cut into parts for.
    pub(in crate::conv) caches: Caches,
    pub(super) rows: usize,
    pub(super) depth: usize,
    values: Box<[Unset]>,
}

impl Weights {
    pub(in crate::conv) fn new([rows, depth]: [usize; 2], taps: Taps) -> Self {
        let kernel = Kernel::current();
        let position = apart(depth * kernel.rows);
        let mut values = Box::new_uninit_slice(rows.div_ceil(kernel.rows) * POSITIONS * position);
        let tiles = values.par_chunks_mut(POSITIONS * position).enumerate();
        tiles.for_each(|(tile, values)| {
            let first = tile * kernel.rows;
            let rows = first..(first + kernel.rows).min(rows);
            transform_weights(taps, rows, depth, kernel.rows, values);
        });
        Self {
            kernel,
            caches: caches(),
            rows,
            depth,
            values,
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.kernel.rows)
    }

    /// The address of a tile's weights at a position, from the start of a part of the inner dimension.
    pub(super) fn tile(&self, tile: usize, position: usize, depth: Range<usize>) -> *const f32 {
        let height = self.kernel.rows;
        let start = (tile * POSITIONS + position) * apart(self.depth * height);
        let values = &self.values[start + depth.start * height..start + depth.end * height];
        values.as_ptr().cast()
    }
}

multiversion! {
    /// Writes a tile of transformed weights, `[POSITIONS, depth, height]`.
    fn transform_weights<S>(
        taps: Taps, rows: Range<usize>, depth: usize, height: usize, out: &mut [Unset],
    ) {
        // Heights that the compiler knows.
        match height {
            4 => transform_rows::<4>(taps, rows, depth, out),
            6 => transform_rows::<6>(taps, rows, depth, out),
            _ => transform_rows::<8>(taps, rows, depth, out),
        }
    }
}

#[inline(always)]
fn transform_rows<const H: usize>(taps: Taps, rows: Range<usize>, depth: usize, out: &mut [Unset]) {
    let ([row, value], position) = (taps.strides, apart(depth * H));
    let first = taps.values.get(rows.start * row..).unwrap_or_default();
    for k in 0..depth {
        let mut filter = [[0.0; LANES]; 9];
        for i in 0..H.min(rows.len()) {
            let values: &[f32; 9] = first[i * row + k * value..]
                .first_chunk()
                .expect("nine taps");
            for t in 0..9 {
                filter[t][i] = values[t];
            }
        }
        if taps.reversed {
            filter.reverse();
        }
        if let Some(scale) = taps.scale {
            filter = filter.map(|values| values.map(|value| value * scale[k]));
        }
        // Down each column, then across each row.
        let column = |j: usize| spread([filter[j], filter[3 + j], filter[6 + j]]);
        let columns = [column(0), column(1), column(2)];
        for i in 0..4 {
            let across = spread([columns[0][i], columns[1][i], columns[2][i]]);
            for (j, values) in across.into_iter().enumerate() {
                let out = &mut out[(4 * i + j) * position + k * H..];
                let out: &mut [Unset; H] = out.first_chunk_mut().expect("a line");
                *out = std::array::from_fn(|i| Unset::new(values[i]));
            }
        }
    }
}

/// Three taps as four positions.
#[inline(always)]
fn spread([first, second, third]: [[f32; LANES]; 3]) -> [[f32; LANES]; 4] {
    let outer: [f32; LANES] = std::array::from_fn(|i| 0.5 * (first[i] + third[i]));
    let inner = second.map(|value| 0.5 * value);
    let sum = std::array::from_fn(|i| outer[i] + inner[i]);
    let difference = std::array::from_fn(|i| outer[i] - inner[i]);
    [first, sum, difference, third]
}
