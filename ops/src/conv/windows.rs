//! Windows over maps: the matrix whose product with the weights is a convolution. It is never made as a
//! whole; [`Plan::pack`] makes the block that a product is about to read.

use std::ops::Range;

use crate::simd::multiversion;

/// A matrix with a row for each channel and tap and a column for each window of each image.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    /// Rows and columns of a source map.
    pub(super) source: [usize; 2],
    /// Number of source maps of an image.
    pub(super) channels: usize,
    /// Number of windows down and across.
    pub(super) grid: [usize; 2],
    /// From a window to the next, down and across.
    pub(super) step: [usize; 2],
    /// Where a window reads, relative to its place. Zeros surround the map.
    pub(super) taps: Vec<[isize; 2]>,
}

impl Windows {
    /// Windows of one position each.
    pub(super) fn positions(channels: usize, [rows, columns]: [usize; 2]) -> Self {
        Self {
            source: [1, rows * columns],
            channels,
            grid: [1, rows * columns],
            step: [1, 1],
            taps: vec![[0, 0]],
        }
    }

    /// The same matrix. If every window is one position, the map becomes one long row, which is copied in
    /// long runs.
    pub(super) fn flattened(self) -> Self {
        let whole = self.source == self.grid && self.step == [1, 1];
        if whole && self.taps == [[0, 0]] {
            Self::positions(self.channels, self.source)
        } else {
            self
        }
    }

    fn area(&self) -> usize {
        self.source[0] * self.source[1]
    }

    /// Windows of one image.
    pub(super) fn count(&self) -> usize {
        self.grid[0] * self.grid[1]
    }
}

/// Columns of the matrix whose windows are neighbours in one row of the grid.
pub(super) struct Run {
    /// The place of the first of them in the range of columns.
    pub(super) at: usize,
    pub(super) image: usize,
    /// Where the first stands in the grid.
    pub(super) place: [usize; 2],
    pub(super) length: usize,
}

/// The runs that make up a range of columns, counted over all images.
pub(super) fn runs([rows, across]: [usize; 2], columns: Range<usize>) -> impl Iterator<Item = Run> {
    let mut next = columns.start;
    std::iter::from_fn(move || {
        if next >= columns.end {
            return None;
        }
        let (line, x) = (next / across, next % across);
        let run = Run {
            at: next - columns.start,
            image: line / rows,
            place: [line % rows, x],
            length: (across - x).min(columns.end - next),
        };
        next += run.length;
        Some(run)
    })
}

/// Columns side by side that are packed as a matrix of their own.
#[derive(Clone, Copy)]
struct Panel {
    /// Columns of the panels before it.
    before: usize,
    /// Values of a row that are written; those beyond its columns are zero.
    width: usize,
    /// From a row to the next.
    stride: usize,
}

/// Values that stand side by side in a panel and `step` apart in a source map.
#[derive(Clone, Copy)]
struct Copy {
    panel: Panel,
    /// The first of them in a row of the panel.
    at: usize,
    /// Where they begin in the map of the first channel.
    from: usize,
    length: usize,
}

/// What to copy for some columns of a matrix of windows. It is the same for every channel, so it is worked
/// out once.
#[derive(Default)]
pub(super) struct Plan {
    panels: Vec<Panel>,
    copies: Vec<Copy>,
    /// Panels that the copies of a tap do not fill.
    gaps: Vec<Panel>,
    /// Where the copies and the gaps of each tap end.
    ends: Vec<[usize; 2]>,
}

impl Plan {
    /// Plans for these columns as one panel, with rows `stride` apart of which `width` values are written.
    pub(super) fn set(
        &mut self,
        windows: &Windows,
        columns: Range<usize>,
        [width, stride]: [usize; 2],
    ) {
        self.panels.clear();
        self.panels.push(Panel {
            before: 0,
            width,
            stride,
        });
        self.set_copies(windows, columns.clone(), columns.len());
    }

    /// Plans for these columns as panels of `across` columns, the last of which may be narrower, `width`
    /// values wide for its number of columns, with rows that follow each other.
    pub(super) fn set_panels(
        &mut self,
        windows: &Windows,
        columns: Range<usize>,
        across: usize,
        width: impl Fn(usize) -> usize,
    ) {
        self.panels.clear();
        for before in (0..columns.len()).step_by(across) {
            let width = width(across.min(columns.len() - before));
            self.panels.push(Panel {
                before,
                width,
                stride: width,
            });
        }
        self.set_copies(windows, columns, across);
    }

    fn set_copies(&mut self, windows: &Windows, columns: Range<usize>, across: usize) {
        self.copies.clear();
        self.gaps.clear();
        self.ends.clear();
        let [rows, row] = windows.source;
        let image = windows.channels * windows.area();
        for [down, right] in &windows.taps {
            for panel in &self.panels {
                let start = columns.start + panel.before;
                let columns = start..(start + across).min(columns.end);
                let mut covered = 0;
                for run in runs(windows.grid, columns) {
                    let y = (run.place[0] * windows.step[0]).checked_add_signed(*down);
                    let Some(y) = y.filter(|y| *y < rows) else {
                        continue;
                    };
                    // The windows of the run that read the map: those at its left edge may read the zeros
                    // before it, and those at its right edge the zeros behind.
                    let (step, x) = (windows.step[1], run.place[1] * windows.step[1]);
                    let left = right.unsigned_abs().saturating_sub(x).div_ceil(step);
                    let skipped = if *right < 0 { left } else { 0 };
                    let Some(x) = (x + skipped * step).checked_add_signed(*right) else {
                        continue;
                    };
                    let inside = row.saturating_sub(x).div_ceil(step);
                    let length = run.length.saturating_sub(skipped).min(inside);
                    if length > 0 {
                        covered += length;
                        self.copies.push(Copy {
                            panel: *panel,
                            at: run.at + skipped,
                            from: run.image * image + y * row + x,
                            length,
                        });
                    }
                }
                if covered < panel.width {
                    self.gaps.push(*panel);
                }
            }
            self.ends.push([self.copies.len(), self.gaps.len()]);
        }
    }

    /// Writes `rows` of the planned columns, counted from the first tap of channel `first`, to `out`: the
    /// whole of one panel after the other. Values beyond the columns of a panel, and those that read past
    /// the map, are zero.
    pub(super) fn pack(
        &self,
        windows: &Windows,
        source: &[f32],
        first: usize,
        rows: Range<usize>,
        out: &mut [f32],
    ) {
        let area = windows.area();
        let source = source.get(first * area..).unwrap_or_default();
        copy_rows(self, windows.step[1], area, source, rows, out);
    }
}

/// Channels whose values are copied together. One by one would jump between the copies, and all at once
/// would read a line or two of each map, which no processor foresees.
const CHANNELS: usize = 8;

multiversion! {
    /// [`Plan::pack`] from the maps that `source` starts with.
    fn copy_rows<S>(
        plan: &Plan, step: usize, area: usize, source: &[f32], rows: Range<usize>, out: &mut [f32],
    ) {
        let taps = plan.ends.len();
        let mut start = [0, 0];
        for (tap, &end) in plan.ends.iter().enumerate() {
            let (copies, gaps) = (&plan.copies[start[0]..end[0]], &plan.gaps[start[1]..end[1]]);
            start = end;
            // Tap by tap, so that the same copies are made for one channel after the other. A range of rows
            // may begin and end within a channel's taps.
            let channels = (rows.start + taps - 1 - tap) / taps..(rows.end + taps - 1 - tap) / taps;
            for first in channels.clone().step_by(CHANNELS) {
                let lines = Lines {
                    source: source.get(first * area..).unwrap_or_default(),
                    area,
                    count: CHANNELS.min(channels.end - first),
                    row: first * taps + tap - rows.start,
                    taps,
                    depth: rows.len(),
                };
                for panel in gaps {
                    lines.clear(*panel, out);
                }
                for copy in copies {
                    // Lengths and steps that the compiler knows, for the convolutions that networks have.
                    match (step, copy.length) {
                        (1, 16..) => lines.copy::<16, 1>(*copy, out),
                        (1, 8..) => lines.copy::<8, 1>(*copy, out),
                        (1, 4..) => lines.copy::<4, 1>(*copy, out),
                        (1, _) => lines.copy::<1, 1>(*copy, out),
                        (2, 16..) => lines.copy::<16, 2>(*copy, out),
                        (2, 8..) => lines.copy::<8, 2>(*copy, out),
                        (2, 4..) => lines.copy::<4, 2>(*copy, out),
                        (2, _) => lines.copy::<1, 2>(*copy, out),
                        _ => lines.copy_apart(*copy, step, out),
                    }
                }
            }
        }
    }
}

/// Channels whose values are copied alike.
struct Lines<'a> {
    source: &'a [f32],
    /// From a channel to the next in the source.
    area: usize,
    count: usize,
    /// The row of the first channel in a panel.
    row: usize,
    /// Rows from a channel to the next.
    taps: usize,
    /// Rows of a panel.
    depth: usize,
}

impl Lines<'_> {
    /// Where the row of the first channel begins in a panel, and the way to the next channel's.
    #[inline(always)]
    fn place(&self, panel: Panel) -> [usize; 2] {
        let start = panel.before * self.depth + self.row * panel.stride;
        [start, self.taps * panel.stride]
    }

    #[inline(always)]
    fn clear(&self, panel: Panel, out: &mut [f32]) {
        let [start, stride] = self.place(panel);
        for channel in 0..self.count {
            out[start + channel * stride..][..panel.width].fill(0.0);
        }
    }

    /// `out[i] = source[STEP * i]` for each channel, `N` values at a time. The last `N` may overlap those
    /// before, so that nothing is left to copy one by one: runs are as short as a map is wide.
    #[inline(always)]
    fn copy<const N: usize, const STEP: usize>(&self, copy: Copy, out: &mut [f32]) {
        let [start, stride] = self.place(copy.panel);
        for channel in 0..self.count {
            let source = &self.source[channel * self.area + copy.from..];
            let source = &source[..(copy.length - 1) * STEP + 1];
            let out = &mut out[start + channel * stride + copy.at..][..copy.length];
            let mut at = 0;
            while at < copy.length {
                at = at.min(copy.length - N);
                let (from, to) = (&source[at * STEP..], &mut out[at..at + N]);
                let from = &from[..(N - 1) * STEP + 1];
                for i in 0..N {
                    to[i] = from[i * STEP];
                }
                at += N;
            }
        }
    }

    /// [`copy`](Self::copy) for any step.
    #[inline(always)]
    fn copy_apart(&self, copy: Copy, step: usize, out: &mut [f32]) {
        let [start, stride] = self.place(copy.panel);
        for channel in 0..self.count {
            let source = &self.source[channel * self.area + copy.from..];
            let out = &mut out[start + channel * stride + copy.at..][..copy.length];
            for (i, out) in out.iter_mut().enumerate() {
                *out = source[i * step];
            }
        }
    }
}
