//! The gradient of a convolution's weights: the dot products of every row of the output's gradient with
//! every row of the windows, along all positions of all images.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{self, DOTS, LANES};
use super::windows::{Plan, Windows};
use crate::buffer::Scratch;

/// Number of windows whose products are summed in registers. The 10 rows of a tile, 4 KiB each, are about
/// as much as a first cache holds.
const LENGTH: usize = 1024;
/// Rows of the output's gradient that a task packs: with [`LENGTH`], a part of the second cache.
const ROWS: usize = 256;
/// Rows of the windows that are packed at a time.
const COLUMNS: usize = 8 * DOTS[1];
/// Least number of tasks, if there is enough to do: enough for every processor, and not a function of
/// their number, because results must not be.
const TASKS: usize = 16;

/// What a task works in.
#[derive(Default)]
struct Space {
    plan: Plan,
    left: Scratch,
    right: Scratch,
}

thread_local! {
    // Kept from call to call: fresh memory costs page faults.
    static SPACE: RefCell<Space> = RefCell::default();
}

/// A part of the weights, and of the windows that its gradient is summed over.
struct Task {
    group: usize,
    rows: Range<usize>,
    chunks: Range<usize>,
}

/// The sum over all windows of `gradient[row] windows[column]`.
///
/// # Shapes
/// `gradient [images, channels, ..grid]`, `source [images, windows.channels, ..] ->
/// [channels, windows.channels / groups * taps]`.
pub(super) fn weight_gradient(
    windows: &Windows,
    [groups, channels]: [usize; 2],
    gradient: &[f32],
    source: &[f32],
    images: usize,
) -> Vec<f32> {
    let product = Product {
        windows,
        outputs: Windows::positions(channels, windows.grid),
        gradient,
        source,
        groups,
        rows: channels / groups,
        depth: windows.channels / groups * windows.taps.len(),
        count: images * windows.count(),
    };
    let size = channels * product.depth;
    if size == 0 {
        return Vec::new();
    }
    // Where the weights alone do not make enough tasks, the windows are divided too: into parts with sums
    // of their own, which are added in order.
    let chunks = product.count.div_ceil(LENGTH).max(1);
    let blocks = product.rows.div_ceil(ROWS);
    let parts = TASKS.div_ceil(blocks * groups).min(chunks);
    let mut sums = vec![0.0; parts * size];
    let tasks = product.tasks([parts, chunks], &mut sums);
    tasks.into_par_iter().for_each(|(task, sums)| {
        SPACE.with_borrow_mut(|space| {
            for chunk in task.chunks.clone() {
                product.add_chunk(&task, chunk, space, sums);
            }
        });
    });
    total(sums, size)
}

/// The two sides of the product, and its sizes.
struct Product<'a> {
    windows: &'a Windows,
    /// The positions of the output, as windows of one value.
    outputs: Windows,
    gradient: &'a [f32],
    source: &'a [f32],
    groups: usize,
    /// Output channels of a group.
    rows: usize,
    /// Input channels of a group, times taps.
    depth: usize,
    /// Windows of all images.
    count: usize,
}

impl Product<'_> {
    /// The tasks, each with the part of `sums [parts, channels, depth]` that it adds to.
    fn tasks<'a>(
        &self,
        [parts, chunks]: [usize; 2],
        sums: &'a mut [f32],
    ) -> Vec<(Task, &'a mut [f32])> {
        let per_part = chunks.div_ceil(parts);
        let mut tasks = Vec::new();
        let mut left = sums;
        for part in 0..parts {
            for group in 0..self.groups {
                for first in (0..self.rows).step_by(ROWS) {
                    let rows = first..(first + ROWS).min(self.rows);
                    let (own, others) = left.split_at_mut(rows.len() * self.depth);
                    left = others;
                    let chunks = part * per_part..(part * per_part + per_part).min(chunks);
                    let task = Task {
                        group,
                        rows,
                        chunks,
                    };
                    tasks.push((task, own));
                }
            }
        }
        tasks
    }

    /// Adds the products of a task along one chunk of the windows to `sums [rows, depth]`.
    fn add_chunk(&self, task: &Task, chunk: usize, space: &mut Space, sums: &mut [f32]) {
        let Space { plan, left, right } = space;
        let range = chunk * LENGTH..(chunk * LENGTH + LENGTH).min(self.count);
        let width = range.len().next_multiple_of(LANES);
        // A power of two between rows would crowd them into few places of the cache.
        let size = [width, width + LANES];
        plan.set(&self.outputs, range.clone(), size);
        let channels = (task.group * self.rows, task.rows.clone());
        let a = packed::<{ DOTS[0] }>(plan, &self.outputs, self.gradient, channels, size[1], left);
        plan.set(self.windows, range, size);
        let first = task.group * (self.windows.channels / self.groups);
        for column in (0..self.depth).step_by(COLUMNS) {
            let columns = column..(column + COLUMNS).min(self.depth);
            let channels = (first, columns.clone());
            let b =
                packed::<{ DOTS[1] }>(plan, self.windows, self.source, channels, size[1], right);
            add_products(size, [a, b], columns, self.depth, sums);
        }
    }
}

/// Packs rows of a matrix of windows, counted from the first tap of a channel, and adds rows of zeros up to
/// a multiple of `TILE`.
fn packed<'a, const TILE: usize>(
    plan: &Plan,
    windows: &Windows,
    source: &[f32],
    (channel, rows): (usize, Range<usize>),
    stride: usize,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    let padded = rows.len().next_multiple_of(TILE);
    let packed = scratch.take(padded * stride);
    let (own, beyond) = packed.split_at_mut(rows.len() * stride);
    plan.pack(windows, source, channel, rows, own);
    beyond.fill(0.0);
    packed
}

/// Adds the dot products of all rows of `a` and `b` to `columns` of `sums`, whose rows have `depth` values.
fn add_products(
    size: [usize; 2],
    [a, b]: [&[f32]; 2],
    columns: Range<usize>,
    depth: usize,
    sums: &mut [f32],
) {
    let stride = size[1];
    let tiles = b.chunks_exact(DOTS[1] * stride);
    for (b, column) in tiles.zip(columns.step_by(DOTS[1])) {
        let end = (column + DOTS[1]).min(depth);
        let tiles = a.chunks_exact(DOTS[0] * stride);
        for (a, sums) in tiles.zip(sums.chunks_mut(DOTS[0] * depth)) {
            let products = kernel::dots(size, a, b);
            for (products, sums) in products.iter().zip(sums.chunks_mut(depth)) {
                for (product, sum) in products.iter().zip(&mut sums[column..end]) {
                    *sum += product;
                }
            }
        }
    }
}

/// The sum of the parts, each of `size` values, in their order.
fn total(mut sums: Vec<f32>, size: usize) -> Vec<f32> {
    /// Values that one task adds: large enough to pay for it.
    const CHUNK: usize = 1 << 14;
    let (total, others) = sums.split_at_mut(size);
    for other in others.chunks_exact(size) {
        let chunks = total.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK));
        chunks.for_each(|(total, other)| {
            for (total, other) in total.iter_mut().zip(other) {
                *total += other;
            }
        });
    }
    sums.truncate(size);
    sums.shrink_to_fit();
    sums
}
