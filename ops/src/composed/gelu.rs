//! GELU, its approximation by tanh and QuickGELU, which keep only their input.

use std::f64::consts::{PI, SQRT_2};

use burn::backend::DispatchTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::{apply, in_type, run_on, widened};
use crate::operation::Operation;

/// What GELU multiplies a value by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Gate {
    /// The normal distribution function.
    Normal,
    /// `(1 + tanh(u)) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
    Tanh,
    /// `sigmoid(1.702 x)`.
    Sigmoid,
}

/// The factor of the cube in the approximation by tanh.
pub(crate) const CUBIC: f64 = 0.044_715;

impl Gate {
    fn value<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Normal => ((x * (1.0 / SQRT_2)).erf() + 1.0) * 0.5,
            // `(1 + tanh(u)) / 2 = sigmoid(2 u)`.
            Self::Tanh => {
                let inner = x.clone() * x.clone() * CUBIC + 1.0;
                sigmoid(x * inner * (8.0 / PI).sqrt())
            }
            Self::Sigmoid => sigmoid(x * 1.702),
        }
    }

    /// The derivative of the gate, whose value is `gate`.
    fn slope<const D: usize>(self, x: Tensor<D>, gate: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Normal => (x.clone() * x * -0.5).exp() * (2.0 * PI).sqrt().recip(),
            Self::Tanh => {
                let inner = (x.clone() * x * (3.0 * CUBIC) + 1.0) * (8.0 / PI).sqrt();
                gate.clone() * (-gate + 1.0) * inner
            }
            Self::Sigmoid => gate.clone() * (-gate + 1.0) * 1.702,
        }
    }
}

/// `x gate(x)` and its exact derivative.
///
/// # Errors
/// Hands the tensor back where this does not run: use Burn's own operation then.
///
/// # Shapes
/// Any; the result has the same.
#[allow(
    clippy::result_large_err,
    reason = "the tensor is handed back, not an error"
)]
pub(crate) fn gelu<const D: usize>(
    gate: Gate,
    x: DispatchTensor,
) -> Result<Tensor<D>, DispatchTensor> {
    if run_on(&x) { node(gate, x) } else { Err(x) }
}

/// [`gelu`] on any device, the CPU too.
#[allow(
    clippy::result_large_err,
    reason = "the tensor is handed back, not an error"
)]
pub(super) fn node<const D: usize>(
    gate: Gate,
    x: DispatchTensor,
) -> Result<Tensor<D>, DispatchTensor> {
    match apply(Gelu::<D>(gate), [x]) {
        Ok(y) => Ok(Tensor::from_dispatch(y)),
        Err([x]) => Err(x),
    }
}

#[derive(Clone, Copy, Debug)]
struct Gelu<const D: usize>(Gate);

impl<const D: usize> Operation<DispatchTensor, 1> for Gelu<D> {
    type Saved = Tensor<D>;

    fn forward(&self, [x]: [DispatchTensor; 1], _: [bool; 1]) -> (DispatchTensor, Tensor<D>) {
        let x = Tensor::<D>::from_dispatch(x);
        let wide = widened(x.clone());
        let y = wide.clone() * self.0.value(wide);
        (in_type(y, x.dtype()).into_dispatch(), x)
    }

    fn backward(
        &self,
        x: Tensor<D>,
        gradient: DispatchTensor,
        _: [bool; 1],
    ) -> [Option<DispatchTensor>; 1] {
        let dtype = x.dtype();
        let (x, gradient) = (widened(x), widened(Tensor::<D>::from_dispatch(gradient)));
        let gate = self.0.value(x.clone());
        let slope = self.0.slope(x.clone(), gate.clone());
        let dx = gradient * (gate + x * slope);
        [Some(in_type(dx, dtype).into_dispatch())]
    }
}
