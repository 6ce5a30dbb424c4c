//! The softmax cross-entropy of rows, whose gradient is made where the row is read.
//!
//! Forward, of `logits`, `targets [b, classes]`: `loss[i] = sum_j t_j (log(sum_k exp(l_k)) - l_j)`, and the gradient
//! `(softmax(l)_j sum_k t_k - t_j) / b` of the mean over rows. Backward multiplies that by the gradient of the mean.

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, DispatchTensor, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, Share, cubes, largest_of_row, sum_of_row};
use crate::operation::Operation;

#[backend_extension(Cube, Fusion)]
pub(super) trait CrossEntropies: Backend {
    /// The loss of each row in `f32`, and `part` times the gradient of its logits.
    ///
    /// # Shapes
    /// `logits`, `targets [b, classes] -> [b, 1]`, `[b, classes]`.
    #[fusion(meta = |logits, _targets, _part| (TensorSpec::new([logits.shape[0], 1].into(), DType::F32), logits.clone()))]
    fn cross_entropy_rows(
        logits: FloatTensor<Self>,
        targets: FloatTensor<Self>,
        part: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl CrossEntropies for CubeBackend {
    fn cross_entropy_rows(
        logits: CubeTensor,
        targets: CubeTensor,
        part: f32,
    ) -> (CubeTensor, CubeTensor) {
        let [logits, targets] = [logits, targets].map(Rows::of);
        let losses = Rows::packed(&logits.tensor, [logits.count, 1], DType::F32);
        let slopes = logits.like();
        forward(&logits, &targets, part, &losses, &slopes);
        (losses.tensor, slopes.tensor)
    }
}

/// Writes the loss of each row, and `part` times the gradient of its logits.
pub(super) fn forward(logits: &Rows, targets: &Rows, part: f32, losses: &Rows, slopes: &Rows) {
    let share = Share::of(&[logits, targets, slopes]);
    let client = &logits.tensor.client;
    // SAFETY: the kernel leaves rows beyond `count` and columns beyond `width` alone.
    unsafe {
        loss_of_rows::launch_unchecked(
            client,
            cubes(client, logits.count),
            share.dim(),
            share.vector,
            logits.arg(),
            targets.arg(),
            losses.arg(),
            slopes.arg(),
            logits.count,
            logits.width / share.vector,
            logits.pitch / share.vector,
            targets.pitch / share.vector,
            losses.pitch,
            slopes.pitch / share.vector,
            part,
            share,
            element(logits.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn loss_of_rows<F: Float, N: Size>(
    logits: &[Vector<F, N>],
    targets: &[Vector<F, N>],
    losses: &mut [f32],
    slopes: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    logits_pitch: usize,
    targets_pitch: usize,
    losses_pitch: usize,
    slopes_pitch: usize,
    part: f32,
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
    let mut wanted = Array::<Vector<f32, N>>::new(share.each);
    let mut largest = Vector::<f32, N>::new(f32::MIN);
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            values[i] = Vector::cast_from(logits[row * logits_pitch + column]);
            wanted[i] = Vector::cast_from(targets[row * targets_pitch + column]);
            largest = max(largest, values[i]);
        }
    }
    let largest = largest_of_row(largest, &mut shared, share);
    let mut sum = Vector::<f32, N>::zeroed();
    let mut weight = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..share.each {
        if i * share.units + unit < width {
            values[i] -= Vector::new(largest);
            sum += values[i].exp();
            weight += wanted[i];
        }
    }
    let sum = sum_of_row(sum, &mut shared, share);
    let weight = sum_of_row(weight, &mut shared, share);
    let logarithm = Vector::<f32, N>::new(sum.ln());
    let factor = Vector::<f32, N>::new(weight / sum);
    let mut loss = Vector::<f32, N>::zeroed();
    #[unroll]
    for i in 0..share.each {
        let column = i * share.units + unit;
        if column < width {
            loss += (logarithm - values[i]) * wanted[i];
            let slope = values[i].exp() * factor - wanted[i];
            slopes[row * slopes_pitch + column] = Vector::cast_from(slope * Vector::new(part));
        }
    }
    let loss = sum_of_row(loss, &mut shared, share);
    if unit == 0 {
        losses[row * losses_pitch] = loss;
    }
}

/// The mean loss as a node of the graph, of logits.
#[derive(Clone, Debug)]
pub(super) struct CrossEntropy {
    /// Outside of any graph.
    pub targets: DispatchTensor,
}

impl Operation<DispatchTensor, 1> for CrossEntropy {
    /// The gradient of the logits.
    type Saved = DispatchTensor;

    fn forward(
        &self,
        [logits]: [DispatchTensor; 1],
        _: [bool; 1],
    ) -> (DispatchTensor, DispatchTensor) {
        let logits = Tensor::<2>::from_dispatch(logits);
        let (rows, dtype) = (logits.dims()[0], logits.dtype());
        let part = 1.0 / rows as f32;
        let (losses, slopes) =
            Dispatch::cross_entropy_rows(logits.into_dispatch(), self.targets.clone(), part);
        let loss = Tensor::<2>::from_dispatch(losses).mean().cast(dtype);
        (loss.into_dispatch(), slopes)
    }

    fn backward(
        &self,
        slopes: DispatchTensor,
        gradient: DispatchTensor,
        _: [bool; 1],
    ) -> [Option<DispatchTensor>; 1] {
        let factor = Tensor::<1>::from_dispatch(gradient).unsqueeze::<2>();
        let slopes = Tensor::<2>::from_dispatch(slopes) * factor;
        [Some(slopes.into_dispatch())]
    }
}
