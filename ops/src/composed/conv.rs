//! Convolution with the value and the input gradient of Burn's, and a weight gradient of its own.
//!
//! Burn's kernels for the gradient of the weights (cubek-convolution 0.3.1) write behind their tensor, or
//! zeros into it, where only one of output channels and `taps * channels` is a multiple of their tile; and
//! tuning launches them even where another kernel wins. So `conv2d_weight_backward` is never called here.

use burn::backend::ops::ModuleOps;
use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{DType, Device, Slice, Tensor, module};

use super::{apply, foreign, in_type, widened};
use crate::operation::Operation;

/// Sums that are longer are split into parts, as long as there are not [`PARTS`] of them: a product whose
/// result is small would otherwise keep few of a device's units busy.
const LONG: usize = 2048;
/// The most parts of a sum.
const PARTS: usize = 64;

/// `conv2d(x, weight)`, without a bias. It cannot be turned off: Burn's gradient is wrong on some devices.
///
/// # Errors
/// Hands the tensors back where this does not run: use Burn's own operation then.
///
/// # Shapes
/// `x [b, c, h, w]`, `weight [o, c / groups, kh, kw] -> [b, o, h', w']`.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
pub(crate) fn conv2d(
    inputs: [DispatchTensor; 2],
    options: &ConvOptions<2>,
) -> Result<Tensor<4>, [DispatchTensor; 2]> {
    if !foreign(&inputs[0]) {
        return Err(inputs);
    }
    apply(Conv(options.clone()), inputs).map(Tensor::from_dispatch)
}

#[derive(Clone, Debug)]
struct Conv(ConvOptions<2>);

/// What backward needs: each factor only if the other one's gradient is wanted.
#[derive(Clone, Debug)]
struct Saved {
    x: Option<Tensor<4>>,
    weight: Option<Tensor<4>>,
    shapes: [[usize; 4]; 2],
    place: (Device, DType),
}

impl Operation<DispatchTensor, 2> for Conv {
    type Saved = Saved;

    fn forward(
        &self,
        inputs: [DispatchTensor; 2],
        [x_wanted, weight_wanted]: [bool; 2],
    ) -> (DispatchTensor, Saved) {
        let [x, weight] = inputs.map(Tensor::<4>::from_dispatch);
        let saved = Saved {
            x: weight_wanted.then(|| x.clone()),
            weight: x_wanted.then(|| weight.clone()),
            shapes: [x.dims(), weight.dims()],
            place: (x.device(), x.dtype()),
        };
        let y = module::conv2d(x, weight, None, self.0.clone());
        (y.into_dispatch(), saved)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: DispatchTensor,
        _: [bool; 2],
    ) -> [Option<DispatchTensor>; 2] {
        let Saved {
            x,
            weight,
            shapes: [x_shape, weight_shape],
            place: (device, dtype),
        } = saved;
        let of_x = weight.map(|weight| {
            // Burn reads the shape of the input, and not its values.
            let x = Tensor::<4>::empty(x_shape, (&device, dtype)).into_dispatch();
            let (weight, gradient) = (weight.into_dispatch(), gradient.clone());
            Dispatch::conv2d_x_backward(x, weight, gradient, self.0.clone())
        });
        let of_weight = x.map(|x| {
            let gradient = Tensor::from_dispatch(gradient);
            weight_gradient(x, gradient, weight_shape, &self.0).into_dispatch()
        });
        [of_x, of_weight]
    }
}

/// The product of the output's gradient with the columns of all windows, a batch for each group and for each
/// part of the sum over the positions of all images.
///
/// # Shapes
/// `x [b, c, h, w]`, `gradient [b, o, h', w'] -> [o, c / groups, kh, kw]`.
fn weight_gradient(
    x: Tensor<4>,
    gradient: Tensor<4>,
    weight: [usize; 4],
    options: &ConvOptions<2>,
) -> Tensor<4> {
    #[cfg(test)]
    tests::GRADIENTS.set(tests::GRADIENTS.get() + 1);
    let (dtype, groups) = (x.dtype(), options.groups);
    let [outputs, channels, down, across] = weight;
    let [images, _, height, width] = gradient.dims();
    let rows = images * height * width;
    if rows == 0 {
        return Tensor::zeros(weight, (&x.device(), dtype));
    }
    let parts = parts(rows);
    let x = match options.padding {
        [(0, 0), (0, 0)] => x,
        padding => x.pad(padding, PadMode::Constant(0.0)),
    };
    let x = x.swap_dims(0, 1); // [c, b, h, w]
    // The inputs that one tap of the kernel reads along an axis.
    let span = |axis: usize, place: usize, count: usize| {
        let (start, step) = (place * options.dilation[axis], options.stride[axis]);
        let end = start + (count - 1) * step + 1;
        Slice::new(start as isize, Some(end as isize), step as isize)
    };
    let taps = (0..down * across).map(|tap| {
        let (all, place) = (Slice::full(), [tap / across, tap % across]);
        let read = [span(0, place[0], height), span(1, place[1], width)];
        let values = x.clone().slice([all, all, read[0], read[1]]); // [c, b, h', w']
        values.reshape([groups * channels, 1, rows])
    });
    let columns: Tensor<3> = Tensor::cat(taps.collect(), 1); // [c, taps, rows]
    let depth = channels * down * across;
    let columns = columns.reshape([groups, depth, parts, rows / parts]);
    let gradient = gradient.swap_dims(0, 1); // [o, b, h', w']
    let gradient = gradient.reshape([groups, outputs / groups, parts, rows / parts]);
    // [parts, groups, o / groups, rows / parts] x [.., rows / parts, depth]
    let sums = gradient
        .permute([2, 0, 1, 3])
        .matmul(columns.permute([2, 0, 3, 1]));
    in_type(widened(sums).sum_dim(0), dtype).reshape(weight)
}

/// The number of parts of equal length in which a sum is computed.
fn parts(length: usize) -> usize {
    let halvings = std::iter::successors(Some(1), |parts| Some(parts * 2));
    let fits =
        |parts: &usize| length.is_multiple_of(*parts) && length / parts >= LONG && *parts <= PARTS;
    halvings.take_while(fits).last().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::testing::at_level;
    use crate::{Level, level};

    thread_local! {
        /// How often the gradient of weights was computed by this file.
        pub(super) static GRADIENTS: Cell<usize> = const { Cell::new(0) };
    }

    /// One call for one backward pass: a gradient of Burn's would be added to it, and the sum would be twice
    /// what it has to be. At another level, runs itself again at that of the composed operations.
    #[test]
    fn the_only_gradient_of_weights_is_that_of_this_file() {
        if level() != Ok(Level::Composed) {
            let test = "composed::conv::tests::the_only_gradient_of_weights_is_that_of_this_file";
            return at_level(Level::Composed, test);
        }
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::ones([2, 4, 6, 6], &device).require_grad();
        let weight = Tensor::<4>::ones([6, 2, 3, 3], &device).require_grad();
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 2);
        let y = crate::conv2d(x.clone(), weight.clone(), None, options);
        assert_eq!(GRADIENTS.get(), 0);
        let gradients = y.sum().backward();
        assert_eq!(GRADIENTS.get(), 1);
        // Every tap reads 4 x 4 positions of two images.
        let gradient = weight.grad(&gradients).unwrap().into_data();
        assert!(
            gradient.iter::<f32>().all(|value| value == 32.0),
            "{gradient}"
        );
        assert!(x.grad(&gradients).is_some());
    }

    /// The shapes of the tests of [`crate::conv2d`], and the operations that the doctor checks.
    #[test]
    fn other_tests_pass_at_the_level_of_composed_operations() {
        at_level(Level::Composed, "check::tests::the_cpu_passes");
        for test in [
            "any_sizes_agree",
            "the_layers_of_a_network_agree",
            "without_images_there_are_no_maps_and_gradients_are_zero",
        ] {
            at_level(Level::Composed, &format!("conv::tests::{test}"));
        }
    }

    #[test]
    fn long_sums_are_split_evenly() {
        assert_eq!([1, 4095, 4096, 3 * 4096].map(parts), [1, 1, 2, 4]);
        assert_eq!(parts(128 * 112 * 112), 64);
    }
}
