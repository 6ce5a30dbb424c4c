//! The sizes of a convolution, and its three products: forward, and the gradients of its two factors.

use burn::tensor::ops::ConvOptions;

use super::finish::Finish;
use super::kernel;
use super::left::Left;
use super::product::{Target, product};
use super::weight_gradient::weight_gradient;
use super::windows::Windows;
use super::winograd::{self, Maps, Taps, Weights};
use crate::batch_norm;
use crate::buffer::{Unset, written};

/// Channels of a transposed weight that are packed together: their lines of a tile fill whole cache lines.
const CHANNELS: usize = 4;

/// The sizes of a convolution; each pair is rows and columns.
#[derive(Clone, Debug)]
pub(super) struct ConvShape {
    images: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
    /// The size of a map that is read.
    size: [usize; 2],
    /// The size of a map that is written.
    grid: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Before the first row and column.
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl ConvShape {
    /// Nothing if the sizes do not fit together; Burn's operation reports that.
    pub(super) fn new(
        [images, inputs, height, width]: [usize; 4],
        [outputs, channels, down, across]: [usize; 4],
        options: &ConvOptions<2>,
    ) -> Option<Self> {
        let groups = options.groups;
        let (size, kernel) = ([height, width], [down, across]);
        let mut grid = [0; 2];
        for i in 0..2 {
            let reach = options.dilation[i] * (kernel[i].checked_sub(1)?) + 1;
            let padded = size[i] + options.padding[i].0 + options.padding[i].1;
            grid[i] = padded.checked_sub(reach)? / options.stride[i] + 1;
        }
        let fits = channels * groups == inputs && outputs.is_multiple_of(groups);
        fits.then_some(Self {
            images,
            inputs,
            outputs,
            groups,
            size,
            grid,
            kernel,
            stride: options.stride,
            padding: options.padding.map(|(before, _)| before),
            dilation: options.dilation,
        })
    }

    pub(super) fn input(&self) -> [usize; 4] {
        [self.images, self.inputs, self.size[0], self.size[1]]
    }

    pub(super) fn weight(&self) -> [usize; 4] {
        let channels = self.inputs / self.groups;
        [self.outputs, channels, self.kernel[0], self.kernel[1]]
    }

    pub(super) fn output(&self) -> [usize; 4] {
        [self.images, self.outputs, self.grid[0], self.grid[1]]
    }

    /// Channels that an output channel reads.
    fn channels(&self) -> usize {
        self.inputs / self.groups
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether minimal filtering computes it and its gradient, by sizes that are the same for any number of
    /// images.
    fn is_minimal(&self) -> bool {
        (self.groups, self.kernel, self.stride, self.dilation) == (1, [3; 2], [1; 2], [1; 2])
            && self.padding.iter().all(|before| *before <= 2)
            && winograd::pays([self.inputs, self.outputs], self.grid)
    }

    /// The windows that the outputs read.
    pub(super) fn windows(&self) -> Windows {
        let tap = |tap: usize| {
            let place = [tap / self.kernel[1], tap % self.kernel[1]];
            [0, 1].map(|i| (place[i] * self.dilation[i]) as isize - self.padding[i] as isize)
        };
        let windows = Windows {
            source: self.size,
            channels: self.inputs,
            grid: self.grid,
            step: self.stride,
            taps: (0..self.taps()).map(tap).collect(),
        };
        windows.flattened()
    }

    /// The output, finished as `finish` says.
    ///
    /// # Shapes
    /// `x [images, inputs, ..size]`, `weight [outputs, inputs / groups, ..kernel] ->
    /// [images, outputs, ..grid]`.
    pub(super) fn forward(&self, x: &[f32], weight: &[f32], finish: Finish) -> Vec<f32> {
        if self.is_minimal() {
            let maps = Maps {
                source: self.size,
                grid: self.grid,
                padding: self.padding,
            };
            let taps = Taps {
                values: weight,
                strides: [9 * self.inputs, 9],
                reversed: false,
                scale: None,
            };
            let weights = Weights::new([self.outputs, self.inputs], taps);
            return winograd::convolve(self.images, &maps, &weights, x, finish);
        }
        let (rows, depth) = (self.outputs / self.groups, self.channels() * self.taps());
        let left = Left::plain([self.groups, rows, depth], weight);
        let target = Target::whole(self.grid);
        // SAFETY: the grid has a window for each position of the output, and each writes its own.
        unsafe {
            written(self.output().iter().product(), |out| {
                product(&left, &self.windows(), x, &target, finish, out);
            })
        }
    }

    /// The gradient of the input from that of the output, times `scale [outputs]` if there is one.
    ///
    /// With a stride, different taps read neighbouring positions of the input. The positions that the same
    /// taps read, a stride apart, make up a product of their own.
    pub(super) fn input_gradient(
        &self,
        weight: &[f32],
        scale: Option<&[f32]>,
        gradient: &[f32],
    ) -> Vec<f32> {
        if self.is_minimal() {
            // The gradient is the convolution with the taps in reverse, of maps with more zeros around them
            // where the input had fewer.
            let maps = Maps {
                source: self.grid,
                grid: self.size,
                padding: self.padding.map(|before| 2 - before),
            };
            let taps = Taps {
                values: weight,
                strides: [9, 9 * self.inputs],
                reversed: true,
                scale,
            };
            let weights = Weights::new([self.inputs, self.outputs], taps);
            return winograd::convolve(self.images, &maps, &weights, gradient, Finish::default());
        }
        // SAFETY: every position lies a whole number of strides from exactly one of the origins, and the
        // product of an origin writes all positions that do.
        unsafe {
            written(self.input().iter().product(), |out| {
                for down in 0..self.stride[0].min(self.size[0]) {
                    for across in 0..self.stride[1].min(self.size[1]) {
                        self.input_gradient_from([down, across], weight, scale, gradient, out);
                    }
                }
            })
        }
    }

    /// The gradient at every `stride`-th position from `origin`.
    fn input_gradient_from(
        &self,
        origin: [usize; 2],
        weight: &[f32],
        scale: Option<&[f32]>,
        gradient: &[f32],
        out: &mut [Unset],
    ) {
        // Output `y` reads `stride y + dilation k - padding` at tap `k`. For a tap, this is the output that
        // reads the origin, if there is one; it may lie outside of the grid.
        let outputs = |tap: usize| {
            let tap = [tap / self.kernel[1], tap % self.kernel[1]];
            let mut place = [0; 2];
            for i in 0..2 {
                let looked = (origin[i] + self.padding[i]) as isize;
                let distance = looked - (tap[i] * self.dilation[i]) as isize;
                let stride = self.stride[i] as isize;
                if distance.rem_euclid(stride) != 0 {
                    return None;
                }
                place[i] = distance.div_euclid(stride);
            }
            Some(place)
        };
        let taps: Vec<usize> = (0..self.taps())
            .filter(|&tap| outputs(tap).is_some())
            .collect();
        let (rows, channels, all) = (self.channels(), self.outputs / self.groups, self.taps());
        let depth = channels * taps.len();
        let left = Left::pack([self.groups, rows, depth], all, |group, first, tiles| {
            let mut lines = kernel::Lines {
                taps: &taps,
                all,
                rows: first..rows,
                tiles,
            };
            for first in (0..channels).step_by(CHANNELS) {
                let count = CHANNELS.min(channels - first);
                let start = group * channels + first;
                let outputs = start..start + count;
                let weight = &weight[outputs.start * rows * all..outputs.end * rows * all];
                lines.pack(first, weight, scale.map(|scale| &scale[outputs]));
            }
        });
        let grid = [0, 1].map(|i| (self.size[i] - origin[i]).div_ceil(self.stride[i]));
        let windows = Windows {
            source: self.grid,
            channels: self.outputs,
            grid,
            step: [1, 1],
            taps: taps.iter().filter_map(|&tap| outputs(tap)).collect(),
        };
        let target = Target {
            size: self.size,
            origin,
            step: self.stride,
        };
        // With a stride the result has gaps, which a flattened grid does not know of.
        let windows = if self.stride == [1, 1] {
            windows.flattened()
        } else {
            windows
        };
        product(&left, &windows, gradient, &target, Finish::default(), out);
    }

    /// The gradient of the weight.
    pub(super) fn weight_gradient(&self, x: &[f32], gradient: &[f32]) -> Vec<f32> {
        weight_gradient(
            &self.windows(),
            [self.groups, self.outputs],
            gradient,
            x,
            self.images,
        )
    }

    /// The sum of each channel of a map that is written.
    pub(super) fn channel_sums(&self, maps: &[f32]) -> Vec<f32> {
        batch_norm::channel_sums(maps, self.outputs, self.grid[0] * self.grid[1])
    }
}
