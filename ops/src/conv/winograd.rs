//! Convolutions of 3 x 3 taps and a stride of one by minimal filtering, F(2 x 2, 3 x 3) of Lavin and Gray
//! (arXiv 1509.09308).
//!
//! A tile of 2 x 2 outputs reads 4 x 4 inputs. The inputs and the weights are transformed to 16 positions
//! each; then every position takes one product, where the outputs would have taken nine each, 16 instead of
//! 36. The transforms add, subtract and halve, so that the error is that of the direct sum; larger tiles
//! would save more, but their error grows tenfold.
//!
//! The sum over channels is a product of matrices for each position, of weights `[rows, depth]` with
//! inputs `[depth, tiles]`. As everywhere, how a value is summed follows from the shapes alone.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::finish::Finish;
use super::kernel::Kernel;
use crate::buffer::{LINE, Scratch, Shared, Unset, as_unset, written};
use crate::machine::{Caches, caches};
use crate::matmul::Blocking;
use crate::simd::multiversion;

/// Positions of a transformed tile.
const POSITIONS: usize = 16;
/// Number of products that are summed one after the other. The transforms make values larger than their sums, so
/// that runs are shorter than those of other products for the same error.
const RUN: usize = 32;
/// Values that the transforms compute at a time.
const LANES: usize = 8;
/// Part of the first cache for a panel of transformed inputs.
const SHARE: f64 = 0.5;
/// Most tiles of a block, unless one row of tiles has more: enough that each weight which comes from a cache
/// further away meets many.
const COLUMNS: usize = 128;
/// Least number of tasks for each thread: enough that threads which are done find another while the slowest
/// finishes.
const TASKS: usize = 4;

/// Fewer channels or positions than these do not pay for the transforms.
const LEAST_CHANNELS: usize = 32;
const LEAST_AREA: usize = 49;

/// Whether minimal filtering pays for a convolution of 3 x 3 taps. It is not a function of the number of
/// images, which must not change a result.
pub(super) fn pays(channels: [usize; 2], [rows, columns]: [usize; 2]) -> bool {
    channels.iter().all(|&count| count >= LEAST_CHANNELS) && rows * columns >= LEAST_AREA
}

/// Where the nine taps of each row and each value of the inner dimension lie.
#[derive(Clone, Copy)]
pub(super) struct Taps<'a> {
    pub(super) values: &'a [f32],
    /// From a row to the next, and from a value of the inner dimension to the next.
    pub(super) strides: [usize; 2],
    /// Whether the taps are read from the last to the first, as the gradient of the input does.
    pub(super) reversed: bool,
    /// A factor for each value of the inner dimension.
    pub(super) scale: Option<&'a [f32]>,
}

/// Transformed weights in tiles of the kernel's rows, `[tiles, POSITIONS, depth, kernel.rows]`. Rows that the
/// last tile lacks are zero.
pub(super) struct Weights {
    kernel: Kernel,
    /// The caches that the product is cut into parts for.
    pub(super) caches: Caches,
    rows: usize,
    depth: usize,
    values: Box<[Unset]>,
}

impl Weights {
    pub(super) fn new([rows, depth]: [usize; 2], taps: Taps) -> Self {
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

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.kernel.rows)
    }

    /// Where a part of the inner dimension of a tile's rows begins.
    fn tile(&self, tile: usize, position: usize, depth: Range<usize>) -> *const f32 {
        let height = self.kernel.rows;
        let start = (tile * POSITIONS + position) * apart(self.depth * height);
        let values = &self.values[start + depth.start * height..start + depth.end * height];
        values.as_ptr().cast()
    }
}

/// From the first of `count` values to the next that many: an odd number of cache lines, since places a power
/// of two apart would share a few lines of the first cache.
fn apart(count: usize) -> usize {
    (count.div_ceil(LINE) | 1) * LINE
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

/// The maps that are read and written.
pub(super) struct Maps {
    /// Rows and columns of a map that is read.
    pub(super) source: [usize; 2],
    /// Rows and columns of a map that is written.
    pub(super) grid: [usize; 2],
    /// Zeros before the first row and column of a map that is read.
    pub(super) padding: [usize; 2],
}

impl Maps {
    /// Number of tiles down and across a map.
    fn tiles(&self) -> [usize; 2] {
        self.grid.map(|size| size.div_ceil(2))
    }
}

/// What a task works in.
#[derive(Default)]
struct Space {
    lines: Scratch,
    inputs: Scratch,
    sums: Scratch,
}

thread_local! {
    // Kept from call to call: fresh memory costs page faults.
    static SPACE: RefCell<Space> = RefCell::default();
}

/// The convolution of maps with the weights, finished as `finish` says.
///
/// # Shapes
/// `source [images, depth, ..maps.source] -> [images, rows, ..maps.grid]`.
pub(super) fn convolve(
    images: usize,
    maps: &Maps,
    weights: &Weights,
    source: &[f32],
    finish: Finish,
) -> Vec<f32> {
    let count = images * weights.rows * maps.grid[0] * maps.grid[1];
    // SAFETY: each output belongs to one row of one tile, and all of them are written.
    unsafe { written(count, |out| write_all(maps, weights, source, finish, out)) }
}

/// Writes all outputs.
fn write_all(maps: &Maps, weights: &Weights, source: &[f32], finish: Finish, out: &mut [Unset]) {
    if out.is_empty() {
        return;
    }
    let product = Product::new(maps, weights, source, out.len());
    let (blocks, parts) = (product.blocks(), product.parts());
    let out = Shared::unset(out);
    if blocks >= TASKS * rayon::current_num_threads() {
        (0..blocks).into_par_iter().for_each(|block| {
            SPACE.with_borrow_mut(|space| {
                let Space {
                    lines,
                    inputs,
                    sums,
                } = space;
                let block = product.block(block);
                // SAFETY: `transform` writes nothing but values.
                let inputs = unsafe { as_unset(inputs.take(block.inputs())) };
                let all = 0..weights.depth;
                // SAFETY: these inputs are this task's own.
                unsafe { product.transform(&block, all, lines, Shared::unset(inputs)) };
                for part in 0..parts {
                    // SAFETY: all channels have been transformed. A block's outputs are those of one task.
                    unsafe { product.compute(&block, part, inputs, sums, finish, out) };
                }
            });
        });
        return;
    }
    // Few blocks: threads share their channels, and then their rows.
    let size = product.block(0).inputs();
    let start = |block: usize| block * size;
    // The last block may be smaller than the others.
    let mut inputs = Box::new_uninit_slice(start(blocks - 1) + product.block(blocks - 1).inputs());
    let to = Shared::unset(&mut inputs);
    let channels = weights.depth.div_ceil(CHANNELS);
    (0..blocks * channels).into_par_iter().for_each(|task| {
        let (block, first) = (task / channels, task % channels * CHANNELS);
        let own = first..(first + CHANNELS).min(weights.depth);
        // SAFETY: each block has a place.
        let to = unsafe { to.from(start(block)) };
        SPACE.with_borrow_mut(|space| {
            // SAFETY: these channels of this block are this task's.
            unsafe { product.transform(&product.block(block), own, &mut space.lines, to) };
        });
    });
    (0..blocks * parts).into_par_iter().for_each(|task| {
        let (block, part) = (task / parts, task % parts);
        let inputs = &inputs[start(block)..];
        SPACE.with_borrow_mut(|space| {
            let (block, sums) = (product.block(block), &mut space.sums);
            // SAFETY: all channels have been transformed. This part of this block's outputs is this task's.
            unsafe { product.compute(&block, part, inputs, sums, finish, out) };
        });
    });
}

/// Channels that a task transforms.
const CHANNELS: usize = 16;

/// A convolution, cut into blocks of tiles, and these into parts of the rows.
struct Product<'a> {
    maps: &'a Maps,
    weights: &'a Weights,
    source: &'a [f32],
    /// Rows of tiles in a block.
    tall: usize,
    /// Rows of tiles of all images.
    all: usize,
    /// Tiles of the weights in a part.
    part: usize,
}

/// Some rows of tiles.
struct Block {
    kernel: Kernel,
    /// Counted over all images.
    rows: Range<usize>,
    /// Tiles of a row.
    across: usize,
    /// Channels of an image.
    depth: usize,
}

impl Block {
    /// Number of tiles.
    fn columns(&self) -> usize {
        self.rows.len() * self.across
    }

    /// Columns of all panels, the last of which may be narrower than the others.
    fn width(&self) -> usize {
        let columns = self.columns().next_multiple_of(LANES);
        let whole = columns / self.kernel.columns * self.kernel.columns;
        whole + self.kernel.width(columns - whole)
    }

    /// Values of its transformed inputs, `[POSITIONS, panels, depth, columns of the panel]`.
    fn inputs(&self) -> usize {
        POSITIONS * self.position()
    }

    /// From a position's inputs to the next.
    fn position(&self) -> usize {
        apart(self.depth * self.width())
    }

    /// The columns of each panel.
    fn panels(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (width, across) = (self.width(), self.kernel.columns);
        (0..width)
            .step_by(across)
            .map(move |first| first..(first + across).min(width))
    }
}

impl<'a> Product<'a> {
    fn new(maps: &'a Maps, weights: &'a Weights, source: &'a [f32], outputs: usize) -> Self {
        let (kernel, second) = (weights.kernel, weights.caches.second / size_of::<f32>());
        let [down, across] = maps.tiles();
        let images = outputs / (weights.rows * maps.grid[0] * maps.grid[1]);
        // Of the heights that are low enough, the one that fills its panels best.
        let columns = COLUMNS;
        let padded = |rows: usize| (rows * across).next_multiple_of(kernel.width(1).max(LANES));
        let heights = (1..=(columns / across).clamp(1, down * images)).rev();
        let tall = heights.min_by_key(|rows| padded(*rows) * 1000 / (rows * across));
        let mut product = Self {
            maps,
            weights,
            source,
            tall: tall.unwrap_or(1),
            all: images * down,
            part: 1,
        };
        // The sums of a part take a quarter of the second cache.
        let sums = POSITIONS * kernel.rows * product.block(0).width();
        let most = (second / 4 / sums).max(1);
        let parts = weights.tiles().div_ceil(most);
        product.part = weights.tiles().div_ceil(parts);
        product
    }

    fn blocks(&self) -> usize {
        self.all.div_ceil(self.tall)
    }

    fn block(&self, block: usize) -> Block {
        let first = block * self.tall;
        Block {
            kernel: self.weights.kernel,
            rows: first..(first + self.tall).min(self.all),
            across: self.maps.tiles()[1],
            depth: self.weights.depth,
        }
    }

    fn parts(&self) -> usize {
        self.weights.tiles().div_ceil(self.part)
    }

    /// Transforms some channels of a block.
    ///
    /// # Safety
    /// `out` has room for the block's inputs, and nobody else uses these channels of them meanwhile.
    unsafe fn transform(
        &self,
        block: &Block,
        channels: Range<usize>,
        lines: &mut Scratch,
        out: Shared,
    ) {
        // SAFETY: what the caller vouches for.
        unsafe { transform_inputs(self.maps, block, channels, self.source, lines, out) };
    }

    /// Computes a part of the rows of a block from its transformed inputs.
    ///
    /// # Safety
    /// `transform` has written the inputs of all channels. `out` has a map for each row of each image, and nobody else uses these outputs meanwhile.
    unsafe fn compute(
        &self,
        block: &Block,
        part: usize,
        inputs: &[Unset],
        sums: &mut Scratch,
        finish: Finish,
        out: Shared,
    ) {
        let (weights, kernel) = (self.weights, self.weights.kernel);
        let first = part * self.part;
        let tiles = first..(first + self.part).min(weights.tiles());
        let (width, height) = (block.width(), tiles.len() * kernel.rows);
        let size = height * width;
        let writer = Writer {
            maps: self.maps,
            block,
            channels: weights.rows,
            height,
        };
        let sums = sums.take(POSITIONS * size + writer.room());
        let (sums, lines) = sums.split_at_mut(POSITIONS * size);
        let most = Blocking::new(weights.caches, kernel.columns, SHARE).depth;
        for (position, sums) in sums.chunks_exact_mut(size).enumerate() {
            let inputs = &inputs[position * block.position()..][..weights.depth * width];
            for first in (0..weights.depth).step_by(most) {
                let depth = first..(first + most).min(weights.depth);
                for panel in block.panels() {
                    let b = panel.start * weights.depth + depth.start * panel.len();
                    // SAFETY: the caller vouches that these lines have been written.
                    let b = unsafe { inputs[b..][..depth.len() * panel.len()].assume_init_ref() };
                    let own = &mut sums[panel.start * height..panel.end * height];
                    let own = own.chunks_exact_mut(kernel.rows * panel.len());
                    for (tile, sums) in tiles.clone().zip(own) {
                        let a = weights.tile(tile, position, depth.clone());
                        let a = (a, [1, kernel.rows]);
                        // SAFETY: the weights have these values of all rows of the tile.
                        unsafe { kernel.tile(panel.len(), a, b, sums, (RUN, first > 0)) };
                    }
                }
            }
        }
        let rows = tiles.start * kernel.rows..(tiles.end * kernel.rows).min(weights.rows);
        // SAFETY: what the caller vouches for.
        unsafe { write(&writer, rows, finish, sums, lines, out) };
    }
}

multiversion! {
    /// Transforms some channels of a block.
    ///
    /// # Safety
    /// `out` has room for the block's inputs, and nobody else uses these channels of them meanwhile.
    unsafe fn transform_inputs<S>(
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

/// What the outputs of a part are written by.
struct Writer<'a> {
    maps: &'a Maps,
    block: &'a Block,
    /// Maps that an image has in the result.
    channels: usize,
    /// Rows of the sums.
    height: usize,
}

impl Writer<'_> {
    /// Number of values of its work space: four outputs of each tile, and the rows that they make up.
    fn room(&self) -> usize {
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
    unsafe fn write<S>(
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

/// The first `N` values.
#[inline(always)]
fn chunk<const N: usize>(values: &[f32]) -> &[f32; N] {
    values.first_chunk().expect("lines have room for a vector")
}

/// Writes the first `N` values.
#[inline(always)]
fn store<const N: usize>(values: &mut [f32], of: impl Fn(usize) -> f32) {
    let values: &mut [f32; N] = values
        .first_chunk_mut()
        .expect("lines have room for a vector");
    *values = std::array::from_fn(of);
}
