//! The gradient of a convolution's weights: the product of the output's gradient, a row for each channel,
//! with the transposed windows, along all positions of all images.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::windows::{Plan, Windows};
use crate::buffer::Scratch;
use crate::machine::caches;
use crate::matmul::{Blocking, Kernels, RUN};

/// Windows that have sums of their own where the weights alone do not make enough tasks.
const PART: usize = 16 * RUN;
/// Rows of the output's gradient that a task packs.
const ROWS: usize = 256;
/// Least number of tasks, if there is enough to do: enough for every processor, and not a function of
/// their number, because results must not be.
const TASKS: usize = 16;
/// Part of the first cache for a panel of windows.
const SHARE: f64 = 0.5;

/// The work space of a task.
#[derive(Default)]
struct Space {
    plan: Plan,
    rows: Scratch,
    windows: Scratch,
    panel: Scratch,
}

thread_local! {
    // Kept from call to call: fresh memory costs page faults.
    static SPACE: RefCell<Space> = RefCell::default();
}

/// A block of the weights' rows, and the windows that a part of its gradient is summed over.
struct Task {
    group: usize,
    rows: Range<usize>,
    windows: Range<usize>,
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
        kernels: Kernels::current(),
        windows,
        outputs: Windows::positions(channels, windows.grid),
        gradient,
        source,
        groups,
        rows: channels / groups,
        depth: windows.channels / groups * windows.taps.len(),
        count: images * windows.count(),
    };
    if channels * product.depth == 0 {
        return Vec::new();
    }
    // Where the weights alone do not make enough tasks, the windows are divided too: into parts with sums
    // of their own, which are added in order.
    let blocks = product.rows.div_ceil(ROWS) * groups;
    let most = product.count.div_ceil(PART).max(1);
    let parts = TASKS.div_ceil(blocks).min(most);
    let tasks = product.tasks(parts, most.div_ceil(parts) * PART);
    let sums: Vec<Vec<f32>> = tasks
        .par_iter()
        .map(|task| SPACE.with_borrow_mut(|space| product.sums(task, space)))
        .collect();
    product.total(&tasks, &sums)
}

/// The two sides of the product, and its sizes.
struct Product<'a> {
    kernels: &'static Kernels,
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
    /// The tasks: for each block of rows as many as there are parts of `length` windows.
    fn tasks(&self, parts: usize, length: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        for group in 0..self.groups {
            for first in (0..self.rows).step_by(ROWS) {
                for part in 0..parts {
                    let start = (part * length).min(self.count);
                    tasks.push(Task {
                        group,
                        rows: first..(first + ROWS).min(self.rows),
                        windows: start..(start + length).min(self.count),
                    });
                }
            }
        }
        tasks
    }

    /// Tiles of a task, one below the other.
    fn tiles(&self, task: &Task) -> usize {
        task.rows.len().div_ceil(self.kernels.rows)
    }

    /// The columns of each panel.
    fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (columns, depth) = (self.kernels.columns, self.depth);
        let first = (0..depth).step_by(columns);
        first.map(move |first| first..(first + columns).min(depth))
    }

    /// The sums of a task, panel by panel and tile by tile.
    fn sums(&self, task: &Task, space: &mut Space) -> Vec<f32> {
        let kernels = self.kernels;
        let (tiles, size) = (self.tiles(task), kernels.rows * kernels.columns);
        let mut sums = vec![0.0; self.panels().count() * tiles * size];
        let piece = Blocking::of_near_panels(caches(), kernels.columns, SHARE).depth;
        for first in task.windows.clone().step_by(piece) {
            let range = first..(first + piece).min(task.windows.end);
            let (length, stride) = (range.len(), row_stride(range.len()));
            let Space {
                plan,
                rows,
                windows,
                panel,
            } = &mut *space;
            // Rows that the last tile lacks are zero.
            let rows = rows.take(tiles * kernels.rows * stride);
            let (own, beyond) = rows.split_at_mut(task.rows.len() * stride);
            beyond.fill(0.0);
            plan.set(&self.outputs, range.clone(), [length, stride]);
            let channel = task.group * self.rows;
            plan.pack(
                &self.outputs,
                self.gradient,
                channel,
                task.rows.clone(),
                own,
            );
            plan.set(self.windows, range, [length, stride]);
            let channel = task.group * (self.windows.channels / self.groups);
            for (columns, sums) in self.panels().zip(sums.chunks_exact_mut(tiles * size)) {
                let (count, width) = (columns.len(), kernels.width(columns.len()));
                let windows = windows.take(count * stride);
                plan.pack(self.windows, self.source, channel, columns, windows);
                let b = panel.take(length * width);
                kernels.pack_transposed(windows, [stride, count], length, b);
                let sums = sums
                    .chunks_exact_mut(size)
                    .map(|sums| &mut sums[..kernels.rows * width]);
                for (a, sums) in rows.chunks_exact(kernels.rows * stride).zip(sums) {
                    // SAFETY: the chunk has as many rows as a tile, of at least as many values as the panel
                    // has lines.
                    unsafe { kernels.sums(width, (a.as_ptr(), [stride, 1]), b, sums, (RUN, true)) };
                }
            }
        }
        sums
    }

    /// The sums of all parts, added in their order, as rows.
    fn total(&self, tasks: &[Task], sums: &[Vec<f32>]) -> Vec<f32> {
        let kernels = self.kernels;
        let mut total = vec![0.0; self.groups * self.rows * self.depth];
        for (task, sums) in tasks.iter().zip(sums) {
            let start = (task.group * self.rows + task.rows.start) * self.depth;
            let own = &mut total[start..start + task.rows.len() * self.depth];
            let size = kernels.rows * kernels.columns;
            let tall = kernels.rows * self.depth;
            own.par_chunks_mut(tall)
                .enumerate()
                .for_each(|(tile, own)| {
                    let panels = sums.chunks_exact(self.tiles(task) * size);
                    for (columns, sums) in self.panels().zip(panels) {
                        let width = kernels.width(columns.len());
                        let sums = &sums[tile * size..][..size];
                        for (own, sums) in own
                            .chunks_exact_mut(self.depth)
                            .zip(sums.chunks_exact(width))
                        {
                            for (own, sum) in own[columns.clone()].iter_mut().zip(sums) {
                                *own += sum;
                            }
                        }
                    }
                });
        }
        total
    }
}

/// From a row to the next: whole vectors, but no power of two, which would crowd rows into few places of
/// the cache.
fn row_stride(length: usize) -> usize {
    const LINE: usize = crate::buffer::LINE;
    (length.div_ceil(LINE) | 1) * LINE
}
