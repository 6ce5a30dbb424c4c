//! Depthwise convolution (Sifre 2014; Chollet 2017) of maps with their channels last, and its gradients.
//!
//! Every channel has a kernel of its own, so that there is no matrix product in it, and gathering windows would
//! copy each value as often as the kernel has taps. The kernels here read the maps in place, a register of
//! neighbouring channels at a time, and keep the sums of several positions in registers. The gradient of the
//! input is the same convolution with the kernel turned around.

mod kernel;
mod sizes;

#[cfg(test)]
mod tests;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use rayon::prelude::*;

use self::kernel::{Lines, Maps};
use self::sizes::Sizes;
use crate::bridge::{apply, or_absent};
use crate::buffer::written;
use crate::math::{column_sums, partial_sums, transposed};
use crate::operation::{Operation, tensor, values};

/// Positions of the output whose part of the weight's gradient a task sums, at least: the sums of many tasks
/// would take longer to add up than to compute.
const POSITIONS: usize = 512;

/// Rows of the output that a task computes.
const LINES: usize = 7;

/// The convolution of every channel with its own kernel, with a stride of 1 and zeros around the map.
///
/// # Shapes
/// `x [b, h, w, c]`, `weight [c, 1, kh, kw]`, `bias [c]` `-> [b, h + 2 ph - kh + 1, w + 2 pw - kw + 1, c]`
/// with the padding `[ph, pw]` of rows and columns.
pub fn depthwise_conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    padding: [usize; 2],
) -> Tensor<4> {
    let Some(sizes) = Sizes::new(x.dims(), weight.dims(), padding) else {
        return composed(x, weight, bias, padding);
    };
    let has_bias = bias.is_some();
    let op = Depthwise {
        sizes,
        bias: has_bias,
    };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let bias = or_absent(bias, &x);
    match apply(op, [x, weight, bias]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([x, weight, bias]) => {
            let [x, weight] = [x, weight].map(Tensor::from_dispatch);
            let bias = has_bias.then(|| Tensor::from_dispatch(bias));
            composed(x, weight, bias, padding)
        }
    }
}

/// The same by [`conv2d`](crate::conv2d), which works on maps with their channels first.
fn composed(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    padding: [usize; 2],
) -> Tensor<4> {
    let groups = weight.dims()[0];
    let options = ConvOptions::new([1, 1], padding, [1, 1], groups);
    let y = crate::conv2d(x.permute([0, 3, 1, 2]), weight, bias, options);
    y.permute([0, 2, 3, 1])
}

/// The output of the convolution.
///
/// # Shapes
/// `x [images, ..size, channels]`, `taps [taps, channels] -> [images, ..grid, channels]`.
fn convolve(sizes: &Sizes, x: &[f32], taps: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let ([rows, columns], image) = (sizes.grid(), sizes.input().max(1));
    let line = (columns * sizes.channels).max(1);
    // SAFETY: the output has one chunk for each image, in which the chunks of rows cover all of them, and
    // `convolve` writes all values of its rows.
    unsafe {
        written(x.len() / image * sizes.output(), |y| {
            let images = y
                .par_chunks_mut((rows * line).max(1))
                .zip(x.par_chunks(image));
            images.for_each(|(y, image)| {
                let parts = y.par_chunks_mut(LINES * line).enumerate();
                parts.for_each(|(part, y)| {
                    let lines = Lines {
                        sizes,
                        image,
                        taps,
                        bias,
                        first: part * LINES,
                    };
                    kernel::convolve(lines, y);
                });
            });
        })
    }
}

/// The gradient of the taps, `[taps, channels]`.
fn weight_gradient(sizes: &Sizes, x: &[f32], gradient: &[f32]) -> Vec<f32> {
    let (input, output) = (sizes.input().max(1), sizes.output().max(1));
    let images = gradient.len() / output;
    let [rows, columns] = sizes.grid();
    // As many tasks whatever the number of threads, so that sums are the same.
    let each = POSITIONS.div_ceil((rows * columns).max(1));
    partial_sums(
        images.div_ceil(each),
        sizes.taps() * sizes.channels,
        |task, sums| {
            let part = task * each..images.min((task + 1) * each);
            let maps = Maps {
                sizes,
                images: &x[part.start * input..part.end * input],
                gradient: &gradient[part.start * output..part.end * output],
            };
            kernel::weight_slopes(maps, sums);
        },
    )
}

#[derive(Clone, Debug)]
struct Depthwise {
    sizes: Sizes,
    bias: bool,
}

/// The input, the weight and the bias, which may be absent.
impl Operation<FlexTensor, 3> for Depthwise {
    /// The input where the weight needs a gradient, the weight where the input does.
    type Saved = (Option<FlexTensor>, Option<FlexTensor>);

    fn forward(
        &self,
        [x, weight, bias]: [FlexTensor; 3],
        [x_wanted, weight_wanted, _]: [bool; 3],
    ) -> (FlexTensor, Self::Saved) {
        let taps = transposed(values(&weight), self.sizes.taps());
        let bias = self.bias.then(|| values(&bias));
        let y = convolve(&self.sizes, values(&x), &taps, bias);
        let ([rows, columns], channels) = (self.sizes.grid(), self.sizes.channels);
        let y = tensor(y, [x.shape()[0], rows, columns, channels]);
        (y, (weight_wanted.then_some(x), x_wanted.then_some(weight)))
    }

    fn backward(
        &self,
        (x, weight): Self::Saved,
        gradient: FlexTensor,
        [.., bias_wanted]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let Sizes {
            channels,
            size: [height, width],
            kernel: [down, across],
            ..
        } = self.sizes;
        let images = gradient.shape()[0];
        let gradient = values(&gradient);
        let of_x = weight.map(|weight| {
            let mut turned = values(&weight).to_vec();
            let kernels = turned.chunks_exact_mut(self.sizes.taps());
            kernels.for_each(<[f32]>::reverse);
            let taps = transposed(&turned, self.sizes.taps());
            let dx = convolve(&self.sizes.turned(), gradient, &taps, None);
            tensor(dx, [images, height, width, channels])
        });
        let of_weight = x.map(|x| {
            let dw = weight_gradient(&self.sizes, values(&x), gradient);
            tensor(transposed(&dw, channels), [channels, 1, down, across])
        });
        let of_bias = bias_wanted.then(|| tensor(column_sums(gradient, channels), [channels]));
        [of_x, of_weight, of_bias]
    }
}
