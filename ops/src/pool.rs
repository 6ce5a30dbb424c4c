//! Max pooling whose backward pass keeps one byte per output, the tap that was largest.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::module;
use burn::tensor::ops::MaxPoolOptions;
use rayon::prelude::*;

use crate::bridge::apply;
use crate::operation::{Operation, tensor, values};
use crate::simd::multiversion;

/// Burn's `max_pool2d`: among equal values the first wins, among several NaNs the last.
///
/// # Shapes
/// `[b, c, h, w] -> [b, c, h', w']`.
pub fn max_pool2d(x: Tensor<4>, options: MaxPoolOptions<2>) -> Tensor<4> {
    match MaxPool::new(x.dims(), &options) {
        None => module::max_pool2d(x, options),
        Some(op) => match apply(op, [x.into_dispatch()]) {
            Ok(y) => Tensor::from_dispatch(y),
            Err([x]) => module::max_pool2d(Tensor::from_dispatch(x), options),
        },
    }
}

/// The sizes of a pooling; each pair is rows and columns.
#[derive(Clone, Debug)]
struct MaxPool {
    size: [usize; 2],
    grid: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Before the first row and column.
    padding: [usize; 2],
}

impl MaxPool {
    /// Nothing for windows that have holes, reach beyond the padded map, lie wholly in the padding, or have
    /// more taps than a byte can tell apart. Burn's operation is used for those.
    fn new([.., height, width]: [usize; 4], options: &MaxPoolOptions<2>) -> Option<Self> {
        let (size, kernel) = ([height, width], options.kernel_size);
        let mut grid = [0; 2];
        for i in 0..2 {
            let (before, after) = options.padding[i];
            let padded = size[i] + before + after;
            grid[i] = padded.checked_sub(kernel[i])? / options.stride[i] + 1;
            // Both the first and the last window must reach the map.
            let last = (grid[i] - 1) * options.stride[i];
            if before >= kernel[i] || last >= before + size[i] {
                return None;
            }
        }
        let fits = options.dilation == [1, 1] && !options.ceil_mode;
        let fits = fits && kernel[0] * kernel[1] <= 1 + usize::from(u8::MAX);
        fits.then_some(Self {
            size,
            grid,
            kernel,
            stride: options.stride,
            padding: options.padding.map(|(before, _)| before),
        })
    }

    /// The windows whose tap `tap` lies in the map, and where it lies for the first of them.
    fn inside(&self, axis: usize, tap: usize) -> (std::ops::Range<usize>, usize) {
        let (stride, padding) = (self.stride[axis], self.padding[axis]);
        let first = padding.saturating_sub(tap).div_ceil(stride);
        let end = (self.size[axis] + padding)
            .saturating_sub(tap)
            .div_ceil(stride);
        let place = (first * stride + tap).saturating_sub(padding);
        (first..end.min(self.grid[axis]).max(first), place)
    }

    fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// The largest value of each window of one map, and its tap.
    fn pool(&self, x: &[f32], scratch: &mut [Vec<f32>; 2], y: &mut [f32], taps: &mut [u8]) {
        let [rows, across] = [self.size[0], self.grid[1]];
        // Along each row first and then down, which takes `kh + kw` comparisons per window instead of
        // `kh kw`. In this order the first of equal values in a window still wins.
        let [largest, places] = scratch;
        largest.clear();
        largest.resize(rows * across, f32::NEG_INFINITY);
        places.clear();
        places.resize(rows * across, -1.0);
        for tap in 0..self.kernel[1] {
            let (windows, place) = self.inside(1, tap);
            if windows.is_empty() {
                continue;
            }
            for row in 0..rows {
                let own = row * across + windows.start..row * across + windows.end;
                let x = &x[row * self.size[1] + place..(row + 1) * self.size[1]];
                let (largest, places) = (&mut largest[own.clone()], &mut places[own]);
                larger(x, self.stride[1], tap as f32, largest, places);
            }
        }
        y.fill(f32::NEG_INFINITY);
        for (index, (y, taps)) in y
            .chunks_mut(across)
            .zip(taps.chunks_mut(across))
            .enumerate()
        {
            let mut first = true;
            for tap in 0..self.kernel[0] {
                let row = (index * self.stride[0] + tap).checked_sub(self.padding[0]);
                let Some(row) = row.filter(|row| *row < rows) else {
                    continue;
                };
                let own = row * across..(row + 1) * across;
                let base = (tap * self.kernel[1]) as f32;
                largest_row(&largest[own.clone()], &places[own], base, first, y, taps);
                first = false;
            }
        }
    }
}

impl Operation<FlexTensor, 1> for MaxPool {
    /// The tap that was largest, for each output.
    type Saved = Arc<Vec<u8>>;

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, Arc<Vec<u8>>) {
        let shape = x.shape();
        let count = self.grid[0] * self.grid[1];
        let maps = shape[0] * shape[1];
        let mut y = vec![0.0; maps * count];
        let mut taps = vec![0; maps * count];
        y.par_chunks_mut(count)
            .zip(taps.par_chunks_mut(count))
            .zip(values(&x).par_chunks(self.area().max(1)))
            .for_each_init(Default::default, |scratch, ((y, taps), x)| {
                self.pool(x, scratch, y, taps);
            });
        let y = tensor(y, [shape[0], shape[1], self.grid[0], self.grid[1]]);
        (y, Arc::new(taps))
    }

    fn backward(
        &self,
        taps: Arc<Vec<u8>>,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let shape = gradient.shape();
        let count = self.grid[0] * self.grid[1];
        let mut dx = vec![0.0; shape[0] * shape[1] * self.area()];
        dx.par_chunks_mut(self.area().max(1))
            .zip(
                values(&gradient)
                    .par_chunks(count)
                    .zip(taps.par_chunks(count)),
            )
            .for_each(|(dx, (gradient, taps))| {
                for (window, (gradient, tap)) in gradient.iter().zip(taps).enumerate() {
                    let window = [window / self.grid[1], window % self.grid[1]];
                    let tap = [
                        usize::from(*tap) / self.kernel[1],
                        usize::from(*tap) % self.kernel[1],
                    ];
                    let [y, x] =
                        [0, 1].map(|i| window[i] * self.stride[i] + tap[i] - self.padding[i]);
                    dx[y * self.size[1] + x] += gradient;
                }
            });
        [Some(tensor(
            dx,
            [shape[0], shape[1], self.size[0], self.size[1]],
        ))]
    }
}

/// Whether a value replaces the largest so far. NaN always does.
#[inline(always)]
fn beats(value: f32, largest: f32) -> bool {
    value > largest || value.is_nan()
}

multiversion! {
    /// Compares every `stride`-th value with the largest so far. Places are taps as `f32`, so that they fill
    /// the same vectors as values. A place of -1 says that the window has no value yet, not even minus
    /// infinity: the first tap always wins.
    fn larger<S>(x: &[f32], stride: usize, tap: f32, largest: &mut [f32], places: &mut [f32]) {
        let Some(last) = places.len().checked_sub(1) else {
            return;
        };
        let mut against = |i: usize, value: f32| {
            let wins = beats(value, largest[i]) || places[i] < 0.0;
            largest[i] = if wins { value } else { largest[i] };
            places[i] = if wins { tap } else { places[i] };
        };
        let x = &x[..last * stride + 1];
        // A stride that the compiler knows, for the pooling that networks have.
        if stride == 2 {
            for i in 0..=last {
                against(i, x[2 * i]);
            }
        } else {
            for i in 0..=last {
                against(i, x[i * stride]);
            }
        }
    }

    /// Compares the largest values of one row with those of the rows before it.
    fn largest_row<S>(
        row: &[f32], places: &[f32], base: f32, first: bool, y: &mut [f32], taps: &mut [u8],
    ) {
        for ((y, tap), (&value, place)) in y.iter_mut().zip(taps).zip(row.iter().zip(places)) {
            let wins = first || beats(value, *y);
            *y = if wins { value } else { *y };
            *tap = if wins { (base + place) as u8 } else { *tap };
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Case, cases, compare, noise, views};

    fn options(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> MaxPoolOptions<2> {
        let options = MaxPoolOptions::new(kernel).with_stride(stride);
        options.with_padding(padding)
    }

    proptest! {
        #![proptest_config(cases(96))]
        #[test]
        fn values_and_gradients_are_those_of_burn(
            shape in [1usize..4, 1usize..5, 1usize..14, 1usize..14], view in views(),
            kernel in [1usize..5, 1usize..5], stride in [1usize..4, 1usize..4],
            padding in [0usize..3, 0usize..3], seed in 1u32..1000,
        ) {
            let padding = [0, 1].map(|i| padding[i].min(kernel[i] / 2));
            prop_assume!((0..2).all(|i| shape[2 + i] + 2 * padding[i] >= kernel[i]));
            // In halves, so that several values of a window are equal.
            let values = noise(shape.iter().product(), seed);
            let values = values.into_iter().map(|value| (2.0 * value).round() / 2.0).collect();
            let ties = Case::new(seed).with_values(&shape, values, view).at_kinks();
            let window = options(kernel, stride, padding);
            for case in [ties, Case::new(seed).with(&shape, view)] {
                compare(
                    &case,
                    |t| max_pool2d(t.get(0), window.clone()),
                    |t| module::max_pool2d(t.get(0), window.clone()),
                );
            }
        }
    }

    #[test]
    fn nan_wins_and_the_last_nan_gets_the_gradient() {
        let device = Device::flex().autodiff();
        let mut values = vec![1.0; 16];
        (values[0], values[5], values[15]) = (f32::NAN, f32::NAN, f32::NEG_INFINITY);
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, 1, 4, 4]), &device);
        let x = x.require_grad();
        let y = max_pool2d(x.clone(), options([2, 2], [2, 2], [0, 0]));
        let gradients = y.clone().sum().backward();
        let read = |t: Tensor<4>| t.into_data().iter::<f32>().collect::<Vec<_>>();
        let y = read(y);
        assert!(y[0].is_nan() && y[1..] == [1.0; 3]);
        let gradient = read(x.grad(&gradients).unwrap());
        assert_eq!(
            (gradient[0], gradient[5], gradient[2], gradient[10]),
            (0.0, 1.0, 1.0, 1.0)
        );
    }
}
