//! The gradient of a convolution's weights: every row of the output's gradient with every row of the
//! windows, summed over all positions.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::kernel::{self, DOTS, LANES};
use super::windows::{Plan, Windows};
use crate::buffer::Scratch;

/// Windows whose products are summed in registers: the rows of a tile fit the first cache.
const LENGTH: usize = 1024;
/// Rows of the output's gradient that a task takes: with [`LENGTH`], a part of the second cache.
const ROWS: usize = 256;
/// Rows of the windows that are packed at a time.
const COLUMNS: usize = 8 * DOTS[1];
/// Tasks, or more: enough for every processor, whatever their number.
const TASKS: usize = 16;

/// What a task works in.
#[derive(Default)]
struct Space {
    plan: Plan,
    left: Scratch,
    right: Scratch,
}

thread_local! {
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
    let count = images * windows.count();
    let (rows, depth) = (
        channels / groups,
        windows.channels / groups * windows.taps.len(),
    );
    let size = channels * depth;
    if size == 0 {
        return Vec::new();
    }
    let outputs = Windows::positions(channels, windows.grid);
    let chunks = count.div_ceil(LENGTH).max(1);
    let blocks = rows.div_ceil(ROWS);
    // Sums over a fixed part of the windows, added in order: the same on any number of threads.
    let parts = TASKS.div_ceil(blocks * groups).min(chunks);
    let per_part = chunks.div_ceil(parts);
    let mut sums = vec![0.0; parts * size];
    let mut tasks = Vec::with_capacity(parts * groups * blocks);
    let mut left = &mut sums[..];
    for part in 0..parts {
        for group in 0..groups {
            for block in 0..blocks {
                let rows = block * ROWS..(block * ROWS + ROWS).min(rows);
                let (own, others) = left.split_at_mut(rows.len() * depth);
                left = others;
                let chunks = part * per_part..(part * per_part + per_part).min(chunks);
                tasks.push((
                    Task {
                        group,
                        rows,
                        chunks,
                    },
                    own,
                ));
            }
        }
    }
    tasks.into_par_iter().for_each(|(task, sums)| {
        SPACE.with_borrow_mut(|space| {
            for chunk in task.chunks.clone() {
                let range = chunk * LENGTH..(chunk * LENGTH + LENGTH).min(count);
                let width = range.len().next_multiple_of(LANES);
                // Rows a power of two apart would crowd into few places of the cache.
                let stride = width + LANES;
                let padded = task.rows.len().next_multiple_of(DOTS[0]);
                space.plan.set(&outputs, range.clone());
                let a = space.left.take(padded * stride);
                let (own, beyond) = a.split_at_mut(task.rows.len() * stride);
                let first = task.group * rows;
                space.plan.pack(
                    &outputs,
                    gradient,
                    first,
                    task.rows.clone(),
                    [width, stride],
                    own,
                );
                beyond.fill(0.0);
                space.plan.set(windows, range);
                for column in (0..depth).step_by(COLUMNS) {
                    let columns = column..(column + COLUMNS).min(depth);
                    let padded = columns.len().next_multiple_of(DOTS[1]);
                    let b = space.right.take(padded * stride);
                    let (own, beyond) = b.split_at_mut(columns.len() * stride);
                    let first = task.group * (windows.channels / groups);
                    let size = [width, stride];
                    space
                        .plan
                        .pack(windows, source, first, columns.clone(), size, own);
                    beyond.fill(0.0);
                    for (b, column) in b
                        .chunks_exact(DOTS[1] * stride)
                        .zip(columns.step_by(DOTS[1]))
                    {
                        let end = (column + DOTS[1]).min(depth);
                        for (a, sums) in a
                            .chunks_exact(DOTS[0] * stride)
                            .zip(sums.chunks_mut(DOTS[0] * depth))
                        {
                            let products = kernel::dots(size, a, b);
                            for (products, sums) in products.iter().zip(sums.chunks_mut(depth)) {
                                for (product, sum) in products.iter().zip(&mut sums[column..end]) {
                                    *sum += product;
                                }
                            }
                        }
                    }
                }
            }
        });
    });
    let (total, others) = sums.split_at_mut(size);
    for other in others.chunks_exact(size) {
        total
            .par_chunks_mut(1 << 14)
            .zip(other.par_chunks(1 << 14))
            .for_each(|(total, other)| {
                for (total, other) in total.iter_mut().zip(other) {
                    *total += other;
                }
            });
    }
    sums.truncate(size);
    sums.shrink_to_fit();
    sums
}
