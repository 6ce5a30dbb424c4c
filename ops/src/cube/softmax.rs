//! The softmax of scores with their scale and bias.
//!
//! Forward: `p = softmax(scale s + bias)` over rows of `s [b, h, n, m]`, where sequence `i` has the bias
//! `[windows, h, n, m]` of window `i mod windows`.
//!
//! Backward, of the gradient `g` of `p`: `ds = factor p (g - sum(p g))`, where the factor is the scale for the gradient of
//! `s`, and 1 for that of `scale s + bias`.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, Share, cubes, largest_of_row, sum_of_row};

#[backend_extension(Cube, Fusion)]
pub(super) trait Softmaxes: Backend {
    /// # Shapes
    /// `scores [.., m] -> [.., m]`.
    #[fusion(dtype = scores, shape = scores)]
    fn softmax_scaled(scores: FloatTensor<Self>, scale: f32) -> FloatTensor<Self>;

    /// # Shapes
    /// `scores [b, h, n, m]`, `bias [windows, h, n, m] -> [b, h, n, m]`.
    #[fusion(dtype = scores, shape = scores)]
    fn softmax_biased(
        scores: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// # Shapes
    /// `probabilities`, `gradient [.., m] -> [.., m]`.
    #[fusion(dtype = probabilities, shape = probabilities)]
    fn softmax_slopes(
        probabilities: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factor: f32,
    ) -> FloatTensor<Self>;
}

impl Softmaxes for CubeBackend {
    fn softmax_scaled(scores: CubeTensor, scale: f32) -> CubeTensor {
        let scores = Rows::of(scores);
        let p = scores.like();
        forward(&scores, None, scale, &p);
        p.tensor
    }

    fn softmax_biased(scores: CubeTensor, bias: CubeTensor, scale: f32) -> CubeTensor {
        let [scores, bias] = [scores, bias].map(Rows::of);
        let p = scores.like();
        forward(&scores, Some(&bias), scale, &p);
        p.tensor
    }

    fn softmax_slopes(probabilities: CubeTensor, gradient: CubeTensor, factor: f32) -> CubeTensor {
        let [probabilities, gradient] = [probabilities, gradient].map(Rows::of);
        let ds = probabilities.like();
        backward(&probabilities, &gradient, factor, &ds);
        ds.tensor
    }
}

/// Writes the probabilities of all rows.
pub(super) fn forward(scores: &Rows, bias: Option<&Rows>, scale: f32, p: &Rows) {
    let mut together = vec![scores, p];
    together.extend(bias);
    let share = Share::of(&together);
    let client = &scores.tensor.client;
    let of_bias = bias.unwrap_or(scores);
    // SAFETY: the kernel leaves rows beyond `count` and columns beyond `width` alone, and reads the bias at rows of its
    // own.
    unsafe {
        probabilities::launch_unchecked(
            client,
            cubes(client, scores.count),
            share.dim(),
            share.vector,
            scores.arg(),
            of_bias.arg(),
            p.arg(),
            scores.count,
            of_bias.count,
            scores.width / share.vector,
            scores.pitch / share.vector,
            of_bias.pitch / share.vector,
            p.pitch / share.vector,
            scale,
            bias.is_some(),
            share,
            element(scores.tensor.dtype),
        );
    }
}

/// Writes `factor` times the gradient of what the softmax is of.
pub(super) fn backward(p: &Rows, gradient: &Rows, factor: f32, ds: &Rows) {
    let share = Share::of(&[p, gradient, ds]);
    let client = &p.tensor.client;
    // SAFETY: the kernel leaves rows beyond `count` and columns beyond `width` alone.
    unsafe {
        slopes::launch_unchecked(
            client,
            cubes(client, p.count),
            share.dim(),
            share.vector,
            p.arg(),
            gradient.arg(),
            ds.arg(),
            p.count,
            p.width / share.vector,
            p.pitch / share.vector,
            gradient.pitch / share.vector,
            ds.pitch / share.vector,
            factor,
            share,
            element(p.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn probabilities<F: Float, N: Size>(
    scores: &[Vector<F, N>],
    bias: &[Vector<F, N>],
    p: &mut [Vector<F, N>],
    count: usize,
    bias_count: usize,
    width: usize,
    scores_pitch: usize,
    bias_pitch: usize,
    p_pitch: usize,
    scale: f32,
    #[comptime] biased: bool,
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
    let mut largest = Vector::<f32, N>::new(f32::MIN);
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            let mut value = Vector::<f32, N>::cast_from(scores[row * scores_pitch + column])
                * Vector::new(scale);
            if biased {
                value += Vector::cast_from(bias[(row % bias_count) * bias_pitch + column]);
            }
            values[i] = value;
            largest = max(largest, value);
        }
    }
    let largest = largest_of_row(largest, &mut shared, share);
    let mut sum = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..share.each {
        if i * share.units + unit < width {
            values[i] = (values[i] - Vector::new(largest)).exp();
            sum += values[i];
        }
    }
    let inverse = 1.0 / sum_of_row(sum, &mut shared, share);
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            p[row * p_pitch + column] = Vector::cast_from(values[i] * Vector::new(inverse));
        }
    }
}

#[cube(launch_unchecked)]
fn slopes<F: Float, N: Size>(
    p: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    ds: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    p_pitch: usize,
    gradient_pitch: usize,
    ds_pitch: usize,
    factor: f32,
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
    let mut slopes = Array::<Vector<f32, N>>::new(share.each);
    let mut along = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            values[i] = Vector::cast_from(p[row * p_pitch + column]);
            slopes[i] = Vector::cast_from(gradient[row * gradient_pitch + column]);
            along += values[i] * slopes[i];
        }
    }
    let along = sum_of_row(along, &mut shared, share);
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            let slope = values[i] * (slopes[i] - Vector::new(along)) * Vector::new(factor);
            ds[row * ds_pitch + column] = Vector::cast_from(slope);
        }
    }
}
