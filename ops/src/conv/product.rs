//! Weights times windows: a convolution, and the gradient of its input.

use std::cell::RefCell;
use std::ops::Range;
use std::slice::ChunksMut;

use rayon::prelude::*;

use super::kernel::{self, COLUMNS, LANES, ROWS};
use super::windows::{Plan, Windows, runs};
use crate::buffer::{Scratch, Shared, Unset};
use crate::simd::multiversion;

/// Number of channels and taps that are packed at a time. A panel of them, 36 KiB at 48 columns, is about
/// as much as a first cache holds.
const DEPTH: usize = 192;
/// Least number of tasks of a product, if there is enough to do: enough for every processor, and not a
/// function of their number, because results must not be.
const TASKS: usize = 32;

/// Panels of the left side that are packed together: a line of the source may have values of several.
const FEW: usize = 4;

/// The left side of the product, one matrix per group, in panels of [`ROWS`] rows.
pub(super) struct Left {
    /// `[groups, panels, depth, ROWS]`; where the last panel has fewer rows, the others are zero.
    values: Vec<[f32; ROWS]>,
    groups: usize,
    rows: usize,
    depth: usize,
}

impl Left {
    /// Packs a few panels at a time: `fill` gets the group, the first row and the panels, each
    /// `[depth, ROWS]`.
    pub(super) fn pack(
        [groups, rows, depth]: [usize; 3],
        fill: impl Fn(usize, usize, ChunksMut<[f32; ROWS]>) + Sync,
    ) -> Self {
        let panels = rows.div_ceil(ROWS);
        let few = if groups == 1 { FEW } else { 1 };
        let mut values = vec![[0.0; ROWS]; groups * panels * depth];
        let chunks = values.par_chunks_mut((few * depth).max(1)).enumerate();
        chunks.for_each(|(chunk, values)| {
            let panel = chunk * few;
            let own = values.chunks_mut(depth.max(1));
            fill(panel / panels, panel % panels * ROWS, own);
        });
        Self {
            values,
            groups,
            rows,
            depth,
        }
    }

    /// Rows of all groups.
    fn channels(&self) -> usize {
        self.groups * self.rows
    }

    fn panels(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Part of a panel of a group.
    fn panel(&self, group: usize, panel: usize, first: usize, depth: usize) -> &[[f32; ROWS]] {
        let start = (group * self.panels() + panel) * self.depth + first;
        &self.values[start..start + depth]
    }
}

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

/// What happens to each value before it is written: it becomes `(value - mean) scale + shift + residual`,
/// and zero if that is negative and `relu` is set.
#[derive(Clone, Copy, Default)]
pub(super) struct Finish<'a> {
    /// `[channels]`.
    pub(super) mean: Option<&'a [f32]>,
    /// `[channels]`.
    pub(super) scale: Option<&'a [f32]>,
    /// `[channels]`.
    pub(super) shift: Option<&'a [f32]>,
    /// In the shape of the result.
    pub(super) residual: Option<&'a [f32]>,
    pub(super) relu: bool,
}

/// Most panels of columns that a task takes. Several, so that it writes long runs.
const PANELS: usize = 4;
/// Most sums that a task holds, unless one panel has more: a part of the second cache.
const SUMS: usize = 1 << 16;

/// What a task works in.
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
    left: &Left,
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
            unsafe { part.write(target, places, finish, sums, shared) };
        });
    });
}

/// The right side of the product, cut into columns, and the way to cut the left side into rows.
struct Right<'a> {
    left: &'a Left,
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
}

/// Rows of a group times columns.
struct Part {
    group: usize,
    /// Rows of the group, in panels.
    panels: Range<usize>,
    columns: Range<usize>,
    /// Rows of the group, without those that fill up the last panel.
    rows: usize,
    /// Rows of all groups.
    channels: usize,
}

impl<'a> Right<'a> {
    fn new(left: &'a Left, windows: &'a Windows, source: &'a [f32], images: usize) -> Self {
        let columns = images * windows.count();
        // As many panels as the cache holds the sums of, or fewer so that there are enough tasks.
        let fitting = SUMS / (left.panels() * ROWS * COLUMNS);
        let mut width = fitting.clamp(1, PANELS) * COLUMNS;
        while width > COLUMNS && columns.div_ceil(width) * left.groups < TASKS {
            width -= COLUMNS;
        }
        let tasks = columns.div_ceil(width) * left.groups;
        let blocks = left.depth.div_ceil(DEPTH).max(1);
        Self {
            left,
            windows,
            source,
            columns,
            width,
            parts: TASKS.div_ceil(tasks).min(left.panels()),
            depth: left.depth.div_ceil(blocks),
        }
    }

    fn tasks(&self) -> usize {
        self.columns.div_ceil(self.width) * self.left.groups * self.parts
    }

    fn part(&self, task: usize) -> Part {
        let (rest, part) = (task / self.parts, task % self.parts);
        let wide = self.columns.div_ceil(self.width);
        let (group, first) = (rest / wide, rest % wide * self.width);
        let panels = self.left.panels();
        Part {
            group,
            panels: part * panels / self.parts..(part + 1) * panels / self.parts,
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

    /// Packs a block of `depth` of one panel of columns.
    fn pack(&self, plan: &Plan, group: usize, depth: Range<usize>, width: usize, out: &mut [f32]) {
        let first = group * (self.windows.channels / self.left.groups);
        plan.pack(self.windows, self.source, first, depth, [width; 2], out);
    }

    /// The whole right side: for each group and panel of columns the whole depth, block by block.
    fn packed(&self) -> Vec<f32> {
        let panels = self.columns.div_ceil(COLUMNS);
        let size = self.left.depth * COLUMNS;
        let mut packed = vec![0.0; self.left.groups * panels * size];
        let blocks: Vec<_> = self.blocks().collect();
        packed
            .par_chunks_mut(size.max(1))
            .enumerate()
            .for_each(|(index, out)| {
                let (group, panel) = (index / panels, index % panels);
                let columns = panel * COLUMNS..(panel * COLUMNS + COLUMNS).min(self.columns);
                let width = columns.len().next_multiple_of(LANES);
                // In parallel over blocks too: with few columns there are few panels.
                let mut plan = Plan::default();
                plan.set(self.windows, columns);
                let sizes = blocks.iter().map(|block| block.len() * width);
                let mut out = out;
                let mut parts = Vec::with_capacity(blocks.len());
                for size in sizes {
                    let (own, others) = out.split_at_mut(size);
                    out = others;
                    parts.push(own);
                }
                blocks.par_iter().zip(parts).for_each(|(block, out)| {
                    self.pack(&plan, group, block.clone(), width, out);
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
        mut sums: &mut [f32],
    ) {
        let rows = part.panels.len() * ROWS;
        if self.left.depth == 0 {
            // There is no block that would write them.
            sums.fill(0.0);
        }
        for first in part.columns.clone().step_by(COLUMNS) {
            let columns = first..(first + COLUMNS).min(part.columns.end);
            let width = columns.len().next_multiple_of(LANES);
            let (own, others) = sums.split_at_mut(rows * width);
            sums = others;
            // One plan serves all blocks of a panel, which differ in channels and taps only.
            if packed.is_none() {
                plan.set(self.windows, columns);
            }
            for block in self.blocks() {
                let b: &[f32] = match packed {
                    Some(packed) => {
                        let panels = self.columns.div_ceil(COLUMNS);
                        let panel = part.group * panels + first / COLUMNS;
                        let start = panel * self.left.depth * COLUMNS + block.start * width;
                        &packed[start..start + block.len() * width]
                    }
                    None => {
                        let b = scratch.take(block.len() * width);
                        self.pack(plan, part.group, block.clone(), width, b);
                        b
                    }
                };
                // The block of windows stays in the first cache while all panels of weights pass by.
                for (panel, sums) in part.panels.clone().zip(own.chunks_exact_mut(ROWS * width)) {
                    let a = self.left.panel(part.group, panel, block.start, block.len());
                    kernel::tile(width, a, b, sums, block.start > 0);
                }
            }
        }
    }
}

impl Part {
    /// Number of its sums, with those of the rows and columns that fill up panels and vectors.
    fn sums(&self) -> usize {
        self.panels.len() * ROWS * self.columns.len().next_multiple_of(LANES)
    }

    /// Where the sums of its columns go, whatever the row.
    fn places(&self, windows: &Windows, target: &Target, places: &mut Vec<Place>) {
        // Where each window writes its own position, rows of the grid follow each other without a gap.
        let grid = if target.step == [1, 1] && target.size == windows.grid {
            [1, target.area()]
        } else {
            windows.grid
        };
        let across = self.panels.len() * ROWS * COLUMNS;
        places.clear();
        for first in self.columns.clone().step_by(COLUMNS) {
            let columns = first..(first + COLUMNS).min(self.columns.end);
            let start = (first - self.columns.start) / COLUMNS * across;
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

    /// Writes the sums to their places. Panels are [`COLUMNS`] wide, but the last may be narrower.
    ///
    /// # Safety
    /// `out` has a map of the target for each row of all groups and each image, which nobody has written at
    /// these places before. Nobody else uses the places of this part's rows and columns meanwhile.
    unsafe fn write(
        &self,
        target: &Target,
        places: &[Place],
        finish: Finish,
        sums: &[f32],
        out: Shared,
    ) {
        let rows = self.panels.start * ROWS..(self.panels.end * ROWS).min(self.rows);
        let across = self.panels.len() * ROWS * COLUMNS;
        let (whole, step) = (self.columns.len() / COLUMNS * across, target.step[1]);
        let narrow = (self.columns.len() % COLUMNS).next_multiple_of(LANES);
        // Row by row: maps of a channel are written from front to back, in runs as long as can be.
        for row in rows.clone() {
            let channel = self.group * self.rows + row;
            let of = |values: Option<&[f32]>, none: f32| values.map_or(none, |v| v[channel]);
            let affine = [
                of(finish.mean, 0.0),
                of(finish.scale, 1.0),
                of(finish.shift, 0.0),
            ];
            for place in places {
                let width = if place.at < whole { COLUMNS } else { narrow };
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
                let residual = finish.residual.map(|r| &r[start..start + place.length]);
                let residual = residual.unwrap_or_default();
                write(sums, affine, residual, finish.relu, out);
            }
        }
    }
}

multiversion! {
    /// Finishes and writes one run, as [`Finish`] says, with the mean, the scale and the shift of its
    /// channel. An empty residual is none.
    fn write<S>(sums: &[f32], affine: [f32; 3], residual: &[f32], relu: bool, out: &mut [Unset]) {
        let [mean, scale, shift] = affine;
        // Without a ReLU the lower bound is minus infinity, so that one loop serves both. `f32::max` would
        // drop NaN; this comparison keeps it.
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let bounded = |value: f32| if value <= floor { floor } else { value };
        if residual.is_empty() {
            for (out, sum) in out.iter_mut().zip(sums) {
                out.write(bounded(S::fma(sum - mean, scale, shift)));
            }
        } else {
            for ((out, sum), residual) in out.iter_mut().zip(sums).zip(residual) {
                out.write(bounded(S::fma(sum - mean, scale, shift) + residual));
            }
        }
    }
}
