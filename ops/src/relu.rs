//! `max(x, 0)`, alone and after a sum. The backward pass reads only the output.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use crate::bridge::{apply, or_absent};
use crate::buffer::{Unset, written};
use crate::constant::values_mut;
use crate::operation::{Operation, tensor, values};
use crate::simd::multiversion;

/// `max(x, 0)`; NaN stays NaN.
///
/// # Shapes
/// Any; the result has the same.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Relu { residual: false }.of(x, None)
}

/// `max(x + residual, 0)`.
///
/// # Shapes
/// Any, the same for both.
pub fn add_relu<const D: usize>(x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
    if x.dims() != residual.dims() {
        // Burn broadcasts, or reports the shapes.
        return activation::relu(x + residual);
    }
    Relu { residual: true }.of(x, Some(residual))
}

/// Values that one task handles.
const CHUNK: usize = 16 * 1024;

#[derive(Clone, Debug)]
struct Relu {
    residual: bool,
}

impl Relu {
    fn of<const D: usize>(self, x: Tensor<D>, residual: Option<Tensor<D>>) -> Tensor<D> {
        let (x, has_residual) = (x.into_dispatch(), self.residual);
        let residual = or_absent(residual, &x);
        match apply(self, [x, residual]) {
            Ok(y) => Tensor::from_dispatch(y),
            Err([x, residual]) => {
                let x = Tensor::<D>::from_dispatch(x);
                activation::relu(if has_residual {
                    x + Tensor::from_dispatch(residual)
                } else {
                    x
                })
            }
        }
    }
}

/// The input and the residual, which may be absent.
impl Operation<FlexTensor, 2> for Relu {
    /// The output.
    type Saved = FlexTensor;

    fn forward(&self, [x, residual]: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, FlexTensor) {
        let (input, residual) = (values(&x), values(&residual));
        // SAFETY: the chunks cover the output, and those of the inputs are as long: `add_relu` passes
        // equal shapes. `rectify` and `rectify_sum` write each value of a chunk.
        let y = unsafe {
            written(input.len(), |y| {
                let chunks = y.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
                if self.residual {
                    let chunks = chunks.zip(residual.par_chunks(CHUNK));
                    chunks.for_each(|((y, x), residual)| rectify_sum(x, residual, y));
                } else {
                    chunks.for_each(|(y, x)| rectify(x, y));
                }
            })
        };
        let y = tensor(y, x.shape());
        (y.clone(), y)
    }

    fn backward(
        &self,
        y: FlexTensor,
        gradient: FlexTensor,
        [_, residual_wanted]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let gradient = mask(gradient, values(&y));
        let of_residual = residual_wanted.then(|| gradient.clone());
        [Some(gradient), of_residual]
    }
}

/// The gradient where the ReLU's output is positive or NaN, zero elsewhere. In place, unless the tensor
/// is shared.
pub(crate) fn mask(mut gradient: FlexTensor, output: &[f32]) -> FlexTensor {
    values_mut(&mut gradient)
        .par_chunks_mut(CHUNK)
        .zip(output.par_chunks(CHUNK))
        .for_each(|(gradient, output)| keep_where_positive(gradient, output));
    gradient
}

multiversion! {
    // `f32::max` would drop NaN; this comparison keeps it, and is one instruction too.

    fn rectify<S>(x: &[f32], y: &mut [Unset]) {
        for (y, &x) in y.iter_mut().zip(x) {
            y.write(if x <= 0.0 { 0.0 } else { x });
        }
    }

    fn rectify_sum<S>(x: &[f32], residual: &[f32], y: &mut [Unset]) {
        for (y, (x, residual)) in y.iter_mut().zip(x.iter().zip(residual)) {
            let sum = x + residual;
            y.write(if sum <= 0.0 { 0.0 } else { sum });
        }
    }

    fn keep_where_positive<S>(gradient: &mut [f32], output: &[f32]) {
        for (gradient, &output) in gradient.iter_mut().zip(output) {
            *gradient = if output <= 0.0 { 0.0 } else { *gradient };
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    const X: [f32; 6] = [-1.0, 0.0, 2.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    const OTHER: [f32; 6] = [2.0, -0.0, -4.0, 1.0, 1.0, 1.0];

    fn both(f: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let make = |values: [f32; 6]| Tensor::<1>::from_data(values, &device).require_grad();
        let (x, other) = (make(X), make(OTHER));
        let y = f(x.clone(), other.clone());
        let weights = Tensor::from_data([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], &device);
        // A sum with NaN or infinity in it would spoil every gradient.
        let gradients =
            (y.clone().mask_fill(y.clone().is_finite().bool_not(), 0.0) * weights).sum();
        let gradients = gradients.backward();
        let read = |t: Tensor<1>| t.into_data().iter::<f32>().collect();
        let of = |t: &Tensor<1>| t.grad(&gradients).map_or(Vec::new(), read);
        [read(y.clone()), of(&x), of(&other)]
    }

    #[test]
    fn values_and_gradients_are_those_of_burn() {
        let same = |a: [Vec<f32>; 3], b: [Vec<f32>; 3]| {
            for (a, b) in a.iter().flatten().zip(b.iter().flatten()) {
                assert!(a == b || (a.is_nan() && b.is_nan()), "{a}, {b}");
            }
        };
        same(
            both(|x, other| relu(x) + relu(other)),
            both(|x, other| activation::relu(x) + activation::relu(other)),
        );
        same(both(add_relu), both(|x, other| activation::relu(x + other)));
    }

    #[test]
    fn a_gradient_that_others_read_is_not_changed() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data([-1.0f32, 1.0], &device).require_grad();
        let y = relu(x.clone()) + x.clone();
        let gradients = y.sum().backward();
        let gradient: Vec<f32> = x.grad(&gradients).unwrap().into_data().iter().collect();
        assert_eq!(gradient, [1.0, 2.0]);
    }
}
