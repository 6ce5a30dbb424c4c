//! LayerNorm over rows (Ba, Kiros and Hinton 2016): a row is read once in either direction, and stays in registers.
//!
//! Forward, with `m` and `s` the mean and the inverse deviation of a row of `x [rows, d]`, which are kept:
//! `y = gamma (x - m) s + beta`, `s = 1 / sqrt(mean((x - m)^2) + epsilon)`.
//!
//! Backward, with `n = (x - m) s` and `h = gamma g` of the gradient `g [rows, d]`:
//! `dx = s (h - mean(h) - n mean(h n))`, and, summed over the rows of a cube, `dgamma [d] = sum g n`,
//! `dbeta [d] = sum g`. The sums of cubes are added by a second kernel, in their order.

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, DType, Dispatch, DispatchTensor, Shape, TensorMetadata, backend_extension,
};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, Share, cubes, sum_of_row};
use crate::operation::Operation;

/// The most cubes that share the rows of a backward pass with gradients of gamma and beta, each of which has sums of
/// its own. It does not depend on the device, so that sums do not.
const SUMS: usize = 1024;

#[backend_extension(Cube, Fusion)]
pub(super) trait LayerNorms: Backend {
    /// The output, and the mean and the inverse deviation of each row in `f32`.
    ///
    /// # Shapes
    /// `x [.., d]`, `gamma [d]`, `beta [d] -> [.., d]`, `[rows, 2]`.
    #[fusion(meta = |x, _gamma, _beta, _epsilon| (x.clone(), TensorSpec::new([rows(&x.shape), 2].into(), DType::F32)))]
    fn layer_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of the input.
    ///
    /// # Shapes
    /// `x`, `gradient [.., d]`, `gamma [d]`, `statistics [rows, 2] -> [.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn layer_norm_slopes(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// The gradient of the input, and in `f32` the sums of each cube towards those of gamma and of beta.
    ///
    /// # Shapes
    /// As [`layer_norm_slopes`](Self::layer_norm_slopes), and `[cubes, 2, d]`.
    #[fusion(meta = |x, _gamma, _statistics, _gradient| (x.clone(), sums_of(&x.shape)))]
    fn layer_norm_all_slopes(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl LayerNorms for CubeBackend {
    fn layer_norm(
        x: CubeTensor,
        gamma: CubeTensor,
        beta: CubeTensor,
        epsilon: f32,
    ) -> (CubeTensor, CubeTensor) {
        let [x, gamma, beta] = [x, gamma, beta].map(Rows::of);
        let y = x.like();
        let statistics = Rows::packed(&x.tensor, [x.count, 2], DType::F32);
        forward(&x, &gamma, &beta, epsilon, &y, &statistics);
        (y.tensor, statistics.tensor)
    }

    fn layer_norm_slopes(
        x: CubeTensor,
        gamma: CubeTensor,
        statistics: CubeTensor,
        gradient: CubeTensor,
    ) -> CubeTensor {
        let [x, gamma, statistics, gradient] = [x, gamma, statistics, gradient].map(Rows::of);
        let dx = x.like();
        backward(&x, &gamma, &statistics, &gradient, &dx, None);
        dx.tensor
    }

    fn layer_norm_all_slopes(
        x: CubeTensor,
        gamma: CubeTensor,
        statistics: CubeTensor,
        gradient: CubeTensor,
    ) -> (CubeTensor, CubeTensor) {
        let [x, gamma, statistics, gradient] = [x, gamma, statistics, gradient].map(Rows::of);
        let dx = x.like();
        let TensorSpec { shape, dtype } = sums_of(x.tensor.meta.shape());
        let sums = Rows::unset(&x.tensor, shape, dtype);
        backward(&x, &gamma, &statistics, &gradient, &dx, Some(&sums));
        (dx.tensor, sums.tensor)
    }
}

/// The rows of a shape.
fn rows(shape: &Shape) -> usize {
    shape.iter().rev().skip(1).product()
}

/// The rows that each cube has, if it sums over them.
fn rows_of_cube(rows: usize) -> usize {
    rows.div_ceil(SUMS).max(1)
}

pub(super) fn sums_of(shape: &Shape) -> TensorSpec {
    let rows = rows(shape);
    let cubes = rows.div_ceil(rows_of_cube(rows));
    let width = shape.last().copied().unwrap_or(1);
    TensorSpec::new([cubes, 2, width].into(), DType::F32)
}

/// Writes the output and the statistics of all rows of `x`.
pub(super) fn forward(
    x: &Rows,
    gamma: &Rows,
    beta: &Rows,
    epsilon: f32,
    y: &Rows,
    statistics: &Rows,
) {
    let share = Share::of(&[x, gamma, beta, y]);
    let client = &x.tensor.client;
    // SAFETY: the kernel leaves rows beyond `count` and columns beyond `width` alone.
    unsafe {
        normalise::launch_unchecked(
            client,
            cubes(client, x.count),
            share.dim(),
            share.vector,
            x.arg(),
            gamma.arg(),
            beta.arg(),
            y.arg(),
            statistics.arg(),
            x.count,
            x.width / share.vector,
            x.pitch / share.vector,
            y.pitch / share.vector,
            statistics.pitch,
            1.0 / x.width as f32,
            epsilon,
            share,
            element(x.tensor.dtype),
        );
    }
}

/// Writes the gradient of the input, and the sums towards those of gamma and beta if they are wanted.
pub(super) fn backward(
    x: &Rows,
    gamma: &Rows,
    statistics: &Rows,
    gradient: &Rows,
    dx: &Rows,
    sums: Option<&Rows>,
) {
    let mut together = vec![x, gamma, gradient, dx];
    together.extend(sums);
    let share = Share::of(&together);
    let client = &x.tensor.client;
    let each = sums.map_or(1, |_| rows_of_cube(x.count));
    // Where no sums are wanted nothing is written to them, and any buffer of numbers will do.
    let (sums_arg, sums_pitch) = sums.map_or_else(
        || (statistics.arg(), share.vector),
        |sums| (sums.arg(), sums.pitch),
    );
    // SAFETY: the kernel leaves rows beyond `count` and columns beyond `width` alone.
    unsafe {
        slopes::launch_unchecked(
            client,
            cubes(client, x.count.div_ceil(each)),
            share.dim(),
            share.vector,
            x.arg(),
            gamma.arg(),
            statistics.arg(),
            gradient.arg(),
            dx.arg(),
            sums_arg,
            x.count,
            each,
            x.width / share.vector,
            x.pitch / share.vector,
            gradient.pitch / share.vector,
            dx.pitch / share.vector,
            statistics.pitch,
            sums_pitch / share.vector,
            1.0 / x.width as f32,
            sums.is_some(),
            share,
            element(x.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn normalise<F: Float, N: Size>(
    x: &[Vector<F, N>],
    gamma: &[Vector<F, N>],
    beta: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    statistics: &mut [f32],
    count: usize,
    width: usize,
    x_pitch: usize,
    y_pitch: usize,
    statistics_pitch: usize,
    part: f32,
    epsilon: f32,
    #[comptime] share: Share,
    #[define(F)] _element: ElemType,
) {
    let row = CUBE_POS;
    if row >= count {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[f32]>::new_slice(share.units);
    let mut values = Array::<Vector<f32, N>>::new(share.each);
    let mut sum = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            values[i] = Vector::cast_from(x[row * x_pitch + column]);
            sum += values[i];
        }
    }
    let mean = sum_of_row(sum, &mut shared, share) * part;
    // A second pass over the registers: the mean of squares less the square of the mean would cancel.
    let mut squares = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..share.each {
        if i * share.units + unit < width {
            values[i] -= Vector::new(mean);
            squares += values[i] * values[i];
        }
    }
    let variance = sum_of_row(squares, &mut shared, share) * part;
    let inverse = 1.0 / (variance + epsilon).sqrt();
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            let factor = Vector::<f32, N>::cast_from(gamma[column]);
            let offset = Vector::<f32, N>::cast_from(beta[column]);
            let normed = values[i] * Vector::new(inverse);
            y[row * y_pitch + column] = Vector::cast_from(normed * factor + offset);
        }
    }
    if unit == 0 {
        statistics[row * statistics_pitch] = mean;
        statistics[row * statistics_pitch + 1] = inverse;
    }
}

#[cube(launch_unchecked)]
fn slopes<F: Float, N: Size>(
    x: &[Vector<F, N>],
    gamma: &[Vector<F, N>],
    statistics: &[f32],
    gradient: &[Vector<F, N>],
    dx: &mut [Vector<F, N>],
    sums: &mut [Vector<f32, N>],
    count: usize,
    rows_of_cube: usize,
    width: usize,
    x_pitch: usize,
    gradient_pitch: usize,
    dx_pitch: usize,
    statistics_pitch: usize,
    sums_pitch: usize,
    part: f32,
    #[comptime] summed: bool,
    #[comptime] share: Share,
    #[define(F)] _element: ElemType,
) {
    let first = CUBE_POS * rows_of_cube;
    if first >= count {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[f32]>::new_slice(share.units);
    let mut normed = Array::<Vector<f32, N>>::new(share.each);
    let mut scaled = Array::<Vector<f32, N>>::new(share.each);
    let mut of_gamma = Array::<Vector<f32, N>>::new(share.each);
    let mut of_beta = Array::<Vector<f32, N>>::new(share.each);
    for row in first..min(first + rows_of_cube, count) {
        let mean = Vector::<f32, N>::new(statistics[row * statistics_pitch]);
        let inverse = statistics[row * statistics_pitch + 1];
        let mut sum = Vector::<f32, N>::zeroed();
        let mut along = Vector::<f32, N>::zeroed();
        #[unroll]
        for i in 0..share.each {
            let column = i * share.units + unit;
            if column < width {
                let value = Vector::<f32, N>::cast_from(x[row * x_pitch + column]);
                let slope = Vector::<f32, N>::cast_from(gradient[row * gradient_pitch + column]);
                normed[i] = (value - mean) * Vector::new(inverse);
                scaled[i] = slope * Vector::cast_from(gamma[column]);
                sum += scaled[i];
                along += scaled[i] * normed[i];
                if summed {
                    of_gamma[i] += slope * normed[i];
                    of_beta[i] += slope;
                }
            }
        }
        let sum = sum_of_row(sum, &mut shared, share) * part;
        let along = sum_of_row(along, &mut shared, share) * part;
        #[unroll]
        for i in 0..share.each {
            let column = i * share.units + unit;
            if column < width {
                let rest = scaled[i] - Vector::new(sum) - normed[i] * Vector::new(along);
                dx[row * dx_pitch + column] = Vector::cast_from(rest * Vector::new(inverse));
            }
        }
    }
    if summed {
        #[unroll]
        for i in 0..share.each {
            let column = i * share.units + unit;
            if column < width {
                sums[2 * CUBE_POS * sums_pitch + column] = of_gamma[i];
                sums[(2 * CUBE_POS + 1) * sums_pitch + column] = of_beta[i];
            }
        }
    }
}

/// LayerNorm as a node of the graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerNorm<const D: usize> {
    pub epsilon: f64,
}

impl<const D: usize> Operation<DispatchTensor, 3> for LayerNorm<D> {
    /// The input, gamma and the statistics.
    type Saved = [DispatchTensor; 3];

    fn forward(
        &self,
        [x, gamma, beta]: [DispatchTensor; 3],
        _: [bool; 3],
    ) -> (DispatchTensor, [DispatchTensor; 3]) {
        let epsilon = self.epsilon as f32;
        let (y, statistics) = Dispatch::layer_norm(x.clone(), gamma.clone(), beta, epsilon);
        (y, [x, gamma, statistics])
    }

    fn backward(
        &self,
        [x, gamma, statistics]: [DispatchTensor; 3],
        gradient: DispatchTensor,
        [x_wanted, gamma_wanted, beta_wanted]: [bool; 3],
    ) -> [Option<DispatchTensor>; 3] {
        if !gamma_wanted && !beta_wanted {
            let dx = Dispatch::layer_norm_slopes(x, gamma, statistics, gradient);
            return [Some(dx), None, None];
        }
        let dtype = gamma.dtype();
        let (dx, sums) = Dispatch::layer_norm_all_slopes(x, gamma, statistics, gradient);
        let sums = Tensor::<3>::from_dispatch(sums).sum_dim(0); // [1, 2, d]
        let of = |i| {
            let sum = sums.clone().narrow(1, i, 1).flatten::<1>(0, 2);
            sum.cast(dtype).into_dispatch()
        };
        [
            x_wanted.then_some(dx),
            gamma_wanted.then(|| of(0)),
            beta_wanted.then(|| of(1)),
        ]
    }
}
