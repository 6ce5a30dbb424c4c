//! Weights times windows: a convolution, and the gradient of its input.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::finish::Finish;
use super::kernel::Kernel;
use super::left::Left;
use super::windows::{Plan, Windows, runs};
use crate::buffer::{Scratch, Shared, Unset};
use crate::matmul::{Blocking, RUN};
use crate::simd::multiversion;

/// Part of the first cache for a panel of windows. The rows that it meets are read once and pass through.
const SHARE: f64 = 0.75;
/// Least number of tasks of a product, if there is enough to do: enough for every processor, and not a
/// function of their number, because results must not be.
const TASKS: usize = 32;

/// Where the product goes: the window at `(y, x)` of the grid writes position
/// `origin + step * (y, x)` of a map.
pub(super) struct Target {
    pub(super) size: [usize; 2],
    pub(super) origin: [usize; 2],
    pub(super) step: [usize; 2],
}

impl Target {
    /// Each window writes its own position, in order.
    pub(super) fn whole(size: [usize; 2]) -> Self {
        Self {
            size,
            origin: [0, 0],
            step: [1, 1],
        }
    }

    fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

/// A task takes a multiple of as many columns, a whole number of panels of every kernel.
const STEP: usize = 48;
/// Most columns that a task takes: several panels, so that it writes long runs.
const WIDEST: usize = 4 * STEP;
/// Most sums that a task holds, unless the narrowest has more: a part of the second cache.
const SUMS: usize = 1 << 16;

/// The work space of a task.
#[derive(Default)]
struct Space {
    plan: Plan,
    columns: Scratch,
    sums: Scratch,
    places: Vec<Place>,
}

/// Where neighbouring sums of a row go.
#[derive(Clone, Copy)]
struct Place {
    /// The first of them in the row.
    at: usize,
    length: usize,
    /// Where it is written, in the maps of the first channel.
    to: usize,
}

thread_local! {
    // Kept from call to call: fresh memory costs page faults.
    static SPACE: RefCell<Space> = RefCell::default();
}

/// `left` times the windows over `source`, group by group, written where `target` says.
///
/// Each window of each channel writes one value: all of `out` if the grid has a window for each of its
/// positions.
///
/// # Shapes
/// `source [images, windows.channels, ..]`, `out [images, groups * rows, ..target.size]`.
pub(super) fn product(
    left: &Left<'_>,
    windows: &Windows,
    source: &[f32],
    target: &Target,
    finish: Finish,
    out: &mut [Unset],
) {
    if out.is_empty() || windows.count() == 0 {
        return;
    }
    let right = Right::new(
        left,
        windows,
        source,
        out.len() / target.area() / left.channels(),
    );
    // Where several tasks have the same columns, they would all pack the same windows.
    let packed = (right.parts > 1).then(|| right.packed());
    let shared = Shared::unset(out);
    (0..right.tasks()).into_par_iter().for_each(|task| {
        SPACE.with_borrow_mut(|space| {
            let part = right.part(task);
            let Space {
                plan,
                columns,
                sums,
                places,
            } = space;
            let sums = sums.take(part.sums());
            right.multiply(&part, packed.as_deref(), plan, columns, sums);
            part.places(windows, target, places);
            // SAFETY: `out` has a map for each row of each image. No two parts have a row and a column in
            // common, and each is the part of one task.
            unsafe { write(&part, target, places, finish, sums, shared) };
        });
    });
}

/// The right side of the product, cut into columns, and the way to cut the left side into rows.
struct Right<'a> {
    left: &'a Left<'a>,
    windows: &'a Windows,
    source: &'a [f32],
    /// Of all images.
    columns: usize,
    /// Columns of a task.
    width: usize,
    /// Parts of the rows of a group; more than one if the columns alone do not make enough tasks.
    parts: usize,
    /// Channels and taps that are packed at a time.
    depth: usize,
    /// Tiles that pass by all panels of a block, one after the other.
    tall: usize,
}

/// Rows of a group times columns.
struct Part {
    group: usize,
    kernel: Kernel,
    /// Rows of the group, in tiles.
    tiles: Range<usize>,
    columns: Range<usize>,
    /// Rows of the group, without those that fill up the last tile.
    rows: usize,
    /// Rows of all groups.
    channels: usize,
}

impl<'a> Right<'a> {
    fn new(left: &'a Left<'a>, windows: &'a Windows, source: &'a [f32], images: usize) -> Self {
        let columns = images * windows.count();
        // As many columns as the cache holds the sums of, or fewer so that there are enough tasks.
        let fitting = SUMS / (left.tiles() * left.kernel.rows).max(1);
        let mut width = (fitting / STEP * STEP).clamp(STEP, WIDEST);
        while width > STEP && columns.div_ceil(width) * left.groups < TASKS {
            width -= STEP;
        }
        let tasks = columns.div_ceil(width) * left.groups;
        let blocking = Blocking::of_near_panels(left.caches, left.kernel.columns, SHARE);
        let blocks = left.depth.div_ceil(blocking.depth).max(1);
        Self {
            left,
            windows,
            source,
            columns,
            width,
            parts: TASKS.div_ceil(tasks).min(left.tiles()),
            depth: left.depth.div_ceil(blocks).next_multiple_of(RUN),
            tall: blocking.rows.div_ceil(left.kernel.rows),
        }
    }

    fn tasks(&self) -> usize {
        self.columns.div_ceil(self.width) * self.left.groups * self.parts
    }

    fn part(&self, task: usize) -> Part {
        let (rest, part) = (task / self.parts, task % self.parts);
        let wide = self.columns.div_ceil(self.width);
        let (group, first) = (rest / wide, rest % wide * self.width);
        let tiles = self.left.tiles();
        Part {
            group,
            kernel: self.left.kernel,
            tiles: part * tiles / self.parts..(part + 1) * tiles / self.parts,
            columns: first..(first + self.width).min(self.columns),
            rows: self.left.rows,
            channels: self.left.channels(),
        }
    }

    /// Ranges of channels and taps that are packed at a time.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (depth, end) = (self.depth, self.left.depth);
        (0..end)
            .step_by(depth.max(1))
            .map(move |first| first..(first + depth).min(end))
    }

    /// Packs a block of `depth` of the planned columns.
    fn pack(&self, plan: &Plan, group: usize, depth: Range<usize>, out: &mut [f32]) {
        let first = group * (self.windows.channels / self.left.groups);
        plan.pack(self.windows, self.source, first, depth, out);
    }

    /// The whole right side: for each group and panel of columns the whole depth, block by block.
    fn packed(&self) -> Vec<f32> {
        let kernel = self.left.kernel;
        let panels = self.columns.div_ceil(kernel.columns);
        let size = self.left.depth * kernel.columns;
        let mut packed = vec![0.0; self.left.groups * panels * size];
        let blocks: Vec<_> = self.blocks().collect();
        packed
            .par_chunks_mut(size.max(1))
            .enumerate()
            .for_each(|(index, out)| {
                let (group, panel) = (index / panels, index % panels);
                let first = panel * kernel.columns;
                let columns = first..(first + kernel.columns).min(self.columns);
                let width = kernel.width(columns.len());
                // In parallel over blocks too: with few columns there are few panels.
                let mut plan = Plan::default();
                plan.set(self.windows, columns, [width; 2]);
                let sizes = blocks.iter().map(|block| block.len() * width);
                let mut out = out;
                let mut parts = Vec::with_capacity(blocks.len());
                for size in sizes {
                    let (own, others) = out.split_at_mut(size);
                    out = others;
                    parts.push(own);
                }
                blocks.par_iter().zip(parts).for_each(|(block, out)| {
                    self.pack(&plan, group, block.clone(), out);
                });
            });
        packed
    }

    /// Writes the sums of a part to `sums`, panel of columns by panel. What is not `packed` yet is packed in
    /// `scratch`, block by block.
    fn multiply(
        &self,
        part: &Part,
        packed: Option<&[f32]>,
        plan: &mut Plan,
        scratch: &mut Scratch,
        sums: &mut [f32],
    ) {
        let kernel = self.left.kernel;
        if self.left.depth == 0 {
            // There is no block that would write them.
            sums.fill(0.0);
        }
        let across = kernel.columns;
        let panels = || {
            let columns = part.columns.clone().step_by(across);
            columns.map(|first| first..(first + across).min(part.columns.end))
        };
        if packed.is_none() {
            // A plan serves all blocks, which differ in channels and taps only.
            let width = |columns| kernel.width(columns);
            plan.set_panels(self.windows, part.columns.clone(), across, width);
        }
        let rows = part.tiles.len() * kernel.rows;
        for block in self.blocks() {
            let b: &[f32] = match packed {
                Some(_) => &[],
                None => {
                    let b = scratch.take(block.len() * part.width());
                    self.pack(plan, part.group, block.clone(), b);
                    b
                }
            };
            // The rows of some tiles stay in the second cache while all panels pass by, and a panel stays
            // in the first while those tiles do.
            for first in part.tiles.clone().step_by(self.tall) {
                let tiles = first..(first + self.tall).min(part.tiles.end);
                for (panel, columns) in panels().enumerate() {
                    let width = kernel.width(columns.len());
                    let b = match packed {
                        Some(packed) => {
                            let all = self.columns.div_ceil(across);
                            let own = part.group * all + columns.start / across;
                            let start = own * self.left.depth * across + block.start * width;
                            &packed[start..][..block.len() * width]
                        }
                        None => &b[panel * across * block.len()..][..block.len() * width],
                    };
                    let below = (tiles.start - part.tiles.start) * kernel.rows * width;
                    let own = &mut sums[panel * rows * across + below..];
                    let own = own.chunks_exact_mut(kernel.rows * width);
                    for (tile, sums) in tiles.clone().zip(own) {
                        let a = self.left.tile(part.group, tile, block.start, block.len());
                        // SAFETY: the left side has these values of all rows of the tile.
                        unsafe { kernel.tile(width, a, b, sums, (RUN, block.start > 0)) };
                    }
                }
            }
        }
    }
}

impl Part {
    /// Columns of all of its panels.
    fn width(&self) -> usize {
        let whole = self.columns.len() / self.kernel.columns * self.kernel.columns;
        whole + self.kernel.width(self.columns.len() - whole)
    }

    /// Rows of all of its tiles.
    fn height(&self) -> usize {
        self.tiles.len() * self.kernel.rows
    }

    /// Number of its sums, with those of the rows and columns that fill up tiles and vectors.
    fn sums(&self) -> usize {
        self.height() * self.width()
    }

    /// Where the sums of its columns go, whatever the row.
    fn places(&self, windows: &Windows, target: &Target, places: &mut Vec<Place>) {
        // Where each window writes its own position, rows of the grid follow each other without a gap.
        let grid = if target.step == [1, 1] && target.size == windows.grid {
            [1, target.area()]
        } else {
            windows.grid
        };
        let across = self.kernel.columns;
        places.clear();
        for first in self.columns.clone().step_by(across) {
            let columns = first..(first + across).min(self.columns.end);
            let start = (first - self.columns.start) * self.height();
            for run in runs(grid, columns) {
                let place = [0, 1].map(|i| target.origin[i] + run.place[i] * target.step[i]);
                let map = run.image * self.channels * target.area();
                places.push(Place {
                    at: start + run.at,
                    length: run.length,
                    to: map + place[0] * target.size[1] + place[1],
                });
            }
        }
    }
}

multiversion! {
    /// Writes the sums of a part to their places, finished as `finish` says. Panels are as wide as the
    /// kernel, but the last may be narrower.
    ///
    /// # Safety
    /// `out` has a map of the target for each row of all groups and each image, which nobody has written at
    /// these places before. Nobody else uses the places of this part's rows and columns meanwhile.
    unsafe fn write<S>(
        part: &Part, target: &Target, places: &[Place], finish: Finish, sums: &[f32], out: Shared,
    ) {
        let height = part.kernel.rows;
        let rows = part.tiles.start * height..(part.tiles.end * height).min(part.rows);
        let (across, step) = (part.kernel.columns, target.step[1]);
        let whole = part.columns.len() / across * across * part.height();
        let narrow = part.kernel.width(part.columns.len() % across);
        // Row by row: maps of a channel are written from front to back, in runs as long as can be.
        for row in rows.clone() {
            let channel = part.group * part.rows + row;
            let line = finish.line(channel);
            for place in places {
                let width = if place.at < whole { across } else { narrow };
                let sums = &sums[place.at + (row - rows.start) * width..][..place.length];
                let start = place.to + channel * target.area();
                if step > 1 {
                    // SAFETY: each window of the grid has a place in the map, and those of a run are `step`
                    // apart in one of its rows. They are this part's, and no other part writes between
                    // them, because its runs lie beside this one.
                    let out = unsafe { out.unset_places(start, place.length, step) };
                    for (out, sum) in out.zip(sums) {
                        out.write(*sum);
                    }
                    continue;
                }
                // SAFETY: each window of the grid has a place in the map, and those of a run are neighbours.
                // They are this part's.
                let out = unsafe { out.unset_part(start, place.length) };
                line.write::<S>(sums, finish.residual(start, place.length), out);
            }
        }
    }
}
