//! GELU (Hendrycks and Gimpel 2016), with the exact normal distribution function, with its approximation by
//! tanh that SigLIP was trained with, and with the one by a sigmoid that OpenAI's CLIP was trained with.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use crate::bridge::apply;
use crate::buffer::Unset;
use crate::composed::{self, Gate};
use crate::constant::values_mut;
use crate::cube;
use crate::math::{Map, Slopes, chain, exp, images, normal};
use crate::operation::{Operation, tensor, values};
use crate::simd::{Simd, multiversion};

/// `x cdf(x)`, and its exact derivative.
///
/// # Shapes
/// Any; the result has the same.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Gelu::Exact.of(x)
}

/// QuickGELU, `x sigmoid(1.702 x)`, and its exact derivative.
///
/// # Shapes
/// Any; the result has the same.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Gelu::Quick.of(x)
}

/// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, and its exact derivative.
///
/// # Shapes
/// Any; the result has the same.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Gelu::Tanh.of(x)
}

/// The function of `x + bias`. On accelerators the sum is not written to memory.
///
/// # Shapes
/// `x [.., d]`, `bias [d] -> [.., d]`.
pub fn gelu_with_bias<const D: usize>(x: Tensor<D>, bias: Tensor<1>, gelu: Gelu) -> Tensor<D> {
    cube::gelu_biased(gelu.gate(), [x.into_dispatch(), bias.into_dispatch()]).unwrap_or_else(
        |[x, bias]| {
            let bias = Tensor::<1>::from_dispatch(bias).unsqueeze();
            gelu.of(Tensor::<D>::from_dispatch(x) + bias)
        },
    )
}

/// Whether [`gelu_with_bias`] adds the bias where it reads `x`, so that it is worth handing over apart.
pub fn gelu_adds_bias<const D: usize>(x: &Tensor<D>) -> bool {
    cube::adds_bias(x.clone().into_dispatch())
}

/// The exact function or one of its two approximations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// [`gelu`].
    Exact,
    /// [`gelu_tanh`].
    Tanh,
    /// [`quick_gelu`].
    Quick,
}

impl Gelu {
    /// The function of `x`.
    ///
    /// # Shapes
    /// Any; the result has the same.
    pub fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let gate = self.gate();
        let x = match apply(self, [x.into_dispatch()]) {
            Ok(y) => return Tensor::from_dispatch(y),
            Err([x]) => x,
        };
        let x = match cube::gelu(gate, x) {
            Ok(y) => return y,
            Err(x) => x,
        };
        composed::gelu(gate, x).unwrap_or_else(|x| {
            let x = Tensor::<D>::from_dispatch(x);
            match self {
                Self::Exact => burn::tensor::activation::gelu(x),
                Self::Tanh => burn::tensor::activation::gelu_approximate(x),
                Self::Quick => x.clone() * burn::tensor::activation::sigmoid(x * 1.702),
            }
        })
    }

    fn gate(self) -> Gate {
        match self {
            Self::Exact => Gate::Normal,
            Self::Tanh => Gate::Tanh,
            Self::Quick => Gate::Sigmoid,
        }
    }

    /// The kernel from `x` to `y`.
    pub(crate) fn kernel(self) -> Map {
        match self {
            Self::Exact => gelu_values,
            Self::Tanh => gelu_tanh_values,
            Self::Quick => quick_gelu_values,
        }
    }

    /// The kernel from `x` that makes the gradient of `x` from that of `y`, in place.
    pub(crate) fn slopes(self) -> Slopes {
        match self {
            Self::Exact => gelu_slopes,
            Self::Tanh => gelu_tanh_slopes,
            Self::Quick => quick_gelu_slopes,
        }
    }
}

impl Operation<FlexTensor, 1> for Gelu {
    /// The input.
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, FlexTensor) {
        (tensor(images(self.kernel(), values(&x)), x.shape()), x)
    }

    fn backward(
        &self,
        x: FlexTensor,
        mut gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        chain(self.slopes(), values(&x), values_mut(&mut gradient));
        [Some(gradient)]
    }
}

/// `sigmoid(1.702 x)` and `1 - sigmoid(1.702 x)`, each without cancellation.
#[inline(always)]
fn quick_gates<S: Simd>(x: f32) -> (f32, f32) {
    let e = exp::<S>(-QUICK * x);
    let open = 1.0 / (1.0 + e);
    (open, e * open)
}

/// `(1 + tanh(u)) / 2` and `(1 - tanh(u)) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, each without
/// cancellation: they are the sigmoids of `2 u` and `-2 u`.
#[inline(always)]
fn tanh_gates<S: Simd>(x: f32) -> (f32, f32) {
    let e = exp::<S>(-TWICE * x * S::fma(CUBIC * x, x, 1.0));
    let open = 1.0 / (1.0 + e);
    (open, e * open)
}

/// `2 sqrt(2 / pi)`.
const TWICE: f32 = 1.595_769_2;

/// The factor of the cube in the approximation by tanh.
const CUBIC: f32 = 0.044_715;

/// The factor in QuickGELU.
const QUICK: f32 = 1.702;

multiversion! {
    /// `y = x cdf(x)`.
    fn gelu_values<S>(x: &[f32], y: &mut [Unset]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let value = x * normal::<S>(x).1;
            // At minus infinity the product would be `-inf * 0`; its limit is 0.
            y.write(if x == f32::NEG_INFINITY { 0.0 } else { value });
        }
    }

    /// `g <- g (cdf(x) + x pdf(x))`.
    fn gelu_slopes<S>(x: &[f32], g: &mut [f32]) {
        // The density at zero, `1 / sqrt(2 pi)`.
        const PEAK: f32 = 0.398_942_3;
        for (g, &x) in g.iter_mut().zip(x) {
            let (bell, cdf) = normal::<S>(x);
            let slope = S::fma(x * PEAK, bell, cdf);
            // Far out x pdf(x) vanishes; without these lines it would be NaN where x^2 overflows.
            let slope = if x > 20.0 { 1.0 } else { slope };
            let slope = if x < -20.0 { 0.0 } else { slope };
            *g *= slope;
        }
    }

    /// `y = x s` with `s = sigmoid(2 u)`.
    fn gelu_tanh_values<S>(x: &[f32], y: &mut [Unset]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let value = x * tanh_gates::<S>(x).0;
            // `exp` does not go below 1e-38, and a very large `x` times that would not vanish.
            y.write(if x < -10.0 { 0.0 } else { value });
        }
    }

    /// `g <- g (s + x s (1 - s) 2 u')`.
    fn gelu_tanh_slopes<S>(x: &[f32], g: &mut [f32]) {
        for (g, &x) in g.iter_mut().zip(x) {
            let (open, shut) = tanh_gates::<S>(x);
            let inner = TWICE * S::fma(3.0 * CUBIC * x, x, 1.0);
            let slope = S::fma(x * shut * inner, open, open);
            // Far out the gates are 0 and 1; without these lines the slope would be NaN where x^2 overflows.
            let slope = if x > 10.0 { 1.0 } else { slope };
            let slope = if x < -10.0 { 0.0 } else { slope };
            *g *= slope;
        }
    }

    /// `y = x sigmoid(1.702 x)`.
    fn quick_gelu_values<S>(x: &[f32], y: &mut [Unset]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let value = x * quick_gates::<S>(x).0;
            // `exp` does not go below 1e-38, and a very large `x` times that would not vanish.
            y.write(if x < -50.0 { 0.0 } else { value });
        }
    }

    /// `g <- g (s + 1.702 x s (1 - s))` with `s = sigmoid(1.702 x)`.
    fn quick_gelu_slopes<S>(x: &[f32], g: &mut [f32]) {
        for (g, &x) in g.iter_mut().zip(x) {
            let (open, shut) = quick_gates::<S>(x);
            // With both gates at hand, `1 - s` does not cancel.
            let slope = S::fma(QUICK * x * shut, open, open);
            let slope = if x > 50.0 { 1.0 } else { slope };
            let slope = if x < -50.0 { 0.0 } else { slope };
            *g *= slope;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    /// `x (1 + erf(x / sqrt 2)) / 2` in f64.
    fn reference(x: f64) -> f64 {
        x * cdf(x)
    }

    fn cdf(x: f64) -> f64 {
        // cdf(x) = 1/2 + pdf(x) (x + x^3/3 + x^5/15 + ..) (Marsaglia 2004).
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

    /// Compares with values and slopes in f64.
    fn check(f: fn(Tensor<1>) -> Tensor<1>, value: fn(f64) -> f64, derivative: fn(f64) -> f64) {
        let grid = grid();
        let device = Device::flex().autodiff();
        let x = line(&grid, &device).require_grad();
        let y = f(x.clone());
        let got: Vec<f32> = y.clone().into_data().iter().collect();
        let slopes = x.grad(&y.sum().backward()).unwrap();
        let slopes: Vec<f32> = slopes.into_data().iter().collect();
        for ((&x, y), slope) in grid.iter().zip(got).zip(slopes) {
            let x = f64::from(x);
            let error = (f64::from(y) - value(x)).abs();
            assert!(error <= 1e-6, "the value at {x} is off by {error:e}");
            let error = (f64::from(slope) - derivative(x)).abs();
            assert!(error <= 1e-6, "the slope at {x} is off by {error:e}");
        }
    }

    #[test]
    fn values_and_slopes_agree_with_f64() {
        fn pdf(x: f64) -> f64 {
            (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
        }
        check(gelu, reference, |x| cdf(x) + x * pdf(x));
    }

    #[test]
    fn quick_values_and_slopes_agree_with_f64() {
        fn gate(x: f64) -> f64 {
            1.0 / (1.0 + (-1.702 * x).exp())
        }
        let slope = |x: f64| gate(x) + 1.702 * x * gate(x) * (1.0 - gate(x));
        check(quick_gelu, |x| x * gate(x), slope);
    }

    #[test]
    fn tanh_values_and_slopes_agree_with_f64() {
        fn gate(x: f64) -> f64 {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            1.0 / (1.0 + (-2.0 * u).exp())
        }
        let slope = |x: f64| {
            let inner = (8.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            gate(x) + x * gate(x) * (1.0 - gate(x)) * inner
        };
        check(gelu_tanh, |x| x * gate(x), slope);
    }

    /// Other devices and element types run the composition of Burn's operations.
    #[test]
    fn quick_in_another_type_is_composed() {
        let x = line(&grid(), &Device::flex());
        let y = quick_gelu(x.clone().cast(burn::tensor::DType::F64));
        let expected: Vec<f32> = y.into_data().iter().collect();
        let got: Vec<f32> = quick_gelu(x).into_data().iter().collect();
        for (got, expected) in got.into_iter().zip(expected) {
            assert!((got - expected).abs() <= 1e-6, "{got}, {expected}");
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
        let quick = quick_gelu(line(&ends, &Device::flex()));
        let quick: Vec<f32> = quick.into_data().iter().collect();
        assert!(quick[0].is_nan() && quick[1..] == y[1..], "{quick:?}");
        let tanh = gelu_tanh(line(&ends, &Device::flex()));
        let tanh: Vec<f32> = tanh.into_data().iter().collect();
        assert!(tanh[0].is_nan() && tanh[1..] == y[1..], "{tanh:?}");
        let empty = gelu(Tensor::<1>::zeros([0], &Device::flex()));
        assert_eq!(empty.dims(), [0]);
    }
}
