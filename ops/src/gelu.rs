//! GELU with the exact normal distribution function (Hendrycks and Gimpel 2016).

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::bridge::{CpuOp, apply, tensor, values};
use crate::kernels;

/// `x cdf(x)`, and its exact derivative.
///
/// # Shapes
/// Any; the result has the same.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match apply(Gelu, x.into_dispatch()) {
        Ok(y) => Tensor::from_dispatch(y),
        Err(x) => burn::tensor::activation::gelu(Tensor::<D>::from_dispatch(x)),
    }
}

/// Values that one task handles: large enough to pay for it, small enough for the first cache.
const CHUNK: usize = 8 * 1024;

#[derive(Clone, Debug)]
struct Gelu;

impl CpuOp for Gelu {
    type Saved = FlexTensor;

    fn forward(&self, x: FlexTensor, tracked: bool) -> (FlexTensor, Option<FlexTensor>) {
        let input = values(&x);
        let mut y = vec![0.0; input.len()];
        y.par_chunks_mut(CHUNK)
            .zip(input.par_chunks(CHUNK))
            .for_each(|(y, x)| kernels::gelu(x, y));
        let y = tensor(y, x.shape());
        (y, tracked.then_some(x))
    }

    fn backward(&self, x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        let (input, gradient) = (values(&x), values(&gradient));
        let mut dx = vec![0.0; input.len()];
        dx.par_chunks_mut(CHUNK)
            .zip(input.par_chunks(CHUNK))
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|((dx, x), g)| kernels::gelu_backward(x, g, dx));
        tensor(dx, x.shape())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    /// `x (1 + erf(x / sqrt 2)) / 2` by its series, or the asymptotic tail, in f64.
    fn reference(x: f64) -> f64 {
        x * cdf(x)
    }

    fn cdf(x: f64) -> f64 {
        // Phi(x) = 1/2 + pdf(x) (x + x^3/3 + x^5/15 + ..) (Marsaglia 2004).
        if x.abs() > 12.0 {
            return if x > 0.0 { 1.0 } else { 0.0 };
        }
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while term.abs() > 1e-18 * sum.abs().max(1e-300) && k < 2000.0 {
            k += 2.0;
            term *= x * x / k;
            sum += term;
        }
        0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    fn grid() -> Vec<f32> {
        (0..4001).map(|i| -10.0 + i as f32 / 200.0).collect()
    }

    fn line(values: &[f32], device: &Device) -> Tensor<1> {
        Tensor::from_data(values, device)
    }

    #[test]
    fn values_and_slopes_agree_with_f64() {
        let grid = grid();
        let device = Device::flex().autodiff();
        let x = line(&grid, &device).require_grad();
        let y = gelu(x.clone());
        let got: Vec<f32> = y.clone().into_data().iter().collect();
        let slopes = x.grad(&y.sum().backward()).unwrap();
        let slopes: Vec<f32> = slopes.into_data().iter().collect();
        for ((&x, y), slope) in grid.iter().zip(got).zip(slopes) {
            let x = f64::from(x);
            let error = (f64::from(y) - reference(x)).abs();
            assert!(error <= 1e-6, "gelu({x}) is off by {error:e}");
            let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let error = (f64::from(slope) - (cdf(x) + x * pdf)).abs();
            assert!(error <= 1e-6, "gelu'({x}) is off by {error:e}");
        }
    }

    #[test]
    fn a_plain_and_a_strided_input_give_the_same() {
        let device = Device::flex();
        let grid = grid();
        let x = line(&grid[..4000], &device).reshape([50, 80]);
        let straight: Vec<f32> = gelu(x.clone()).transpose().into_data().iter().collect();
        let strided: Vec<f32> = gelu(x.transpose()).into_data().iter().collect();
        assert_eq!(straight, strided);
    }

    #[test]
    fn the_ends_are_kept() {
        let ends = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 0.0];
        let y = gelu(line(&ends, &Device::flex()));
        let y: Vec<f32> = y.into_data().iter().collect();
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [f32::INFINITY, 0.0, 1e30, 0.0, 0.0]);
        let empty = gelu(Tensor::<1>::zeros([0], &Device::flex()));
        assert_eq!(empty.dims(), [0]);
    }
}
