//! Convolutions of 3 x 3 taps and a stride of one by minimal filtering, F(2 x 2, 3 x 3) of Lavin and Gray
//! (arXiv 1509.09308).
//!
//! A tile of 2 x 2 outputs reads 4 x 4 inputs. The inputs and the weights are transformed to 16 positions
//! each; then every position takes one product, where the outputs would have taken nine each, 16 instead of
//! 36. The transforms only add, subtract and halve, so that the error grows little. Larger tiles would save
//! more and round more.
//!
//! The sum over channels is a product of matrices for each position, of weights `[rows, depth]` with
//! inputs `[depth, tiles]`. As everywhere, how a value is summed follows from the shapes alone.

mod inputs;
mod outputs;
mod tiles;
mod weights;

use std::cell::RefCell;

use rayon::prelude::*;

use self::inputs::transform_inputs;
use self::outputs::{Writer, write};
pub(in crate::conv) use self::tiles::Maps;
use self::tiles::{Block, LANES, POSITIONS};
pub(in crate::conv) use self::weights::{Taps, Weights};
use super::finish::Finish;
use crate::buffer::{Scratch, Shared, Unset, as_unset, written};
use crate::matmul::Blocking;

/// Number of products that are summed one after the other. The transforms make values larger than their sums, so
/// that runs are shorter than those of other products for the same error.
const RUN: usize = 32;
/// Part of the first cache for a panel of transformed inputs.
const SHARE: f64 = 0.5;
/// Most tiles of a block, unless one row of tiles has more: enough that each weight which comes from a cache
/// further away meets many.
const COLUMNS: usize = 128;
/// Most values of a block's transformed inputs, likewise: each thread has room for as many.
const INPUTS: usize = 1 << 20;
/// Least number of tasks for each thread: enough that threads which are done find another while the slowest
/// finishes.
const TASKS: usize = 4;

/// Fewer channels than these do not pay for the transforms of inputs and outputs, and smaller maps not for that
/// of the weights.
const LEAST_CHANNELS: usize = 32;
const LEAST_AREA: usize = 49;

/// Whether minimal filtering pays for a convolution of 3 x 3 taps. It is not a function of the number of
/// images, which must not change a result.
pub(in crate::conv) fn pays(channels: [usize; 2], [rows, columns]: [usize; 2]) -> bool {
    channels.iter().all(|&count| count >= LEAST_CHANNELS) && rows * columns >= LEAST_AREA
}

/// The work space of a task.
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
pub(in crate::conv) fn convolve(
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
    let product = Product::new(maps, weights, out.len());
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
                // SAFETY: the transform writes nothing but values.
                let inputs = unsafe { as_unset(inputs.take(block.inputs())) };
                let all = 0..weights.depth;
                // SAFETY: these inputs are this task's own.
                unsafe {
                    transform_inputs(maps, &block, all, source, lines, Shared::unset(inputs))
                };
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
            let (block, lines) = (product.block(block), &mut space.lines);
            // SAFETY: these channels of this block are this task's.
            unsafe { transform_inputs(maps, &block, own, source, lines, to) };
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
    /// Rows of tiles in a block.
    tall: usize,
    /// Rows of tiles of all images.
    all: usize,
    /// Tiles of the weights in a part.
    part: usize,
}

impl<'a> Product<'a> {
    fn new(maps: &'a Maps, weights: &'a Weights, outputs: usize) -> Self {
        let (kernel, second) = (weights.kernel, weights.caches.second / size_of::<f32>());
        let [down, across] = maps.tiles();
        let images = outputs / (weights.rows * maps.grid[0] * maps.grid[1]);
        // Of the heights that are low enough, the one that fills its panels best.
        let padded = |rows: usize| (rows * across).next_multiple_of(kernel.width(1).max(LANES));
        let columns = COLUMNS.min(INPUTS / (POSITIONS * weights.depth));
        let heights = (1..=(columns / across).clamp(1, down * images)).rev();
        let tall = heights.min_by_key(|rows| padded(*rows) * 1000 / (rows * across));
        let mut product = Self {
            maps,
            weights,
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

    /// Computes a part of the rows of a block from its transformed inputs.
    ///
    /// # Safety
    /// [`transform_inputs`] has written the inputs of all channels. `out` has a map for each row of each image, and
    /// nobody else uses these outputs meanwhile.
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
        let most = Blocking::of_near_panels(weights.caches, kernel.columns, SHARE).depth;
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
