//! GELU, its approximation by tanh and QuickGELU, with a bias in front.
//!
//! Forward: `y = z gate(z)` with `z = x + bias`, where the gate is the normal distribution function, `(1 + tanh(u)) / 2`
//! with `u = sqrt(2 / pi) (z + 0.044715 z^3)`, or `sigmoid(1.702 z)`.
//!
//! Backward, of the gradient `g`: `dx = g (gate(z) + z gate'(z))`, and `dbias` is its sum over rows. Only `x` and the
//! bias are kept.

use std::f64::consts::PI;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::node::element;
use super::rows::{Rows, UNITS, cubes, vector};
use crate::composed::{CUBIC, Gate};
use crate::operation::Operation;

#[backend_extension(Cube, Fusion)]
pub(super) trait Gelus: Backend {
    /// # Shapes
    /// `x [.., d] -> [.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn gelu(x: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self>;

    /// # Shapes
    /// `x [.., d]`, `bias [d] -> [.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn gelu_biased(x: FloatTensor<Self>, bias: FloatTensor<Self>, gate: Gate) -> FloatTensor<Self>;

    /// The gradient of `x`.
    ///
    /// # Shapes
    /// `x`, `gradient [.., d] -> [.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn gelu_slopes(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        gate: Gate,
    ) -> FloatTensor<Self>;

    /// The gradient of `x` with a bias.
    ///
    /// # Shapes
    /// `x`, `gradient [.., d]`, `bias [d] -> [.., d]`.
    #[fusion(dtype = x, shape = x)]
    fn gelu_biased_slopes(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        gate: Gate,
    ) -> FloatTensor<Self>;
}

impl Gelus for CubeBackend {
    fn gelu(x: CubeTensor, gate: Gate) -> CubeTensor {
        let x = Rows::of(x);
        let y = x.like();
        forward(&x, None, gate, &y);
        y.tensor
    }

    fn gelu_biased(x: CubeTensor, bias: CubeTensor, gate: Gate) -> CubeTensor {
        let [x, bias] = [x, bias].map(Rows::of);
        let y = x.like();
        forward(&x, Some(&bias), gate, &y);
        y.tensor
    }

    fn gelu_slopes(x: CubeTensor, gradient: CubeTensor, gate: Gate) -> CubeTensor {
        let [x, gradient] = [x, gradient].map(Rows::of);
        let dx = x.like();
        backward(&x, None, &gradient, gate, &dx);
        dx.tensor
    }

    fn gelu_biased_slopes(
        x: CubeTensor,
        bias: CubeTensor,
        gradient: CubeTensor,
        gate: Gate,
    ) -> CubeTensor {
        let [x, bias, gradient] = [x, bias, gradient].map(Rows::of);
        let dx = x.like();
        backward(&x, Some(&bias), &gradient, gate, &dx);
        dx.tensor
    }
}

/// Writes the function of all values.
pub(super) fn forward(x: &Rows, bias: Option<&Rows>, gate: Gate, y: &Rows) {
    let mut together = vec![x, y];
    together.extend(bias);
    let size = vector(&together);
    let client = &x.tensor.client;
    let count = x.count * x.width / size;
    // SAFETY: the kernel leaves what is beyond `count` vectors alone.
    unsafe {
        values::launch_unchecked(
            client,
            cubes(client, count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            x.arg(),
            bias.unwrap_or(x).arg(),
            y.arg(),
            count,
            x.width / size,
            x.pitch / size,
            y.pitch / size,
            bias.is_some(),
            gate,
            element(x.tensor.dtype),
        );
    }
}

/// Writes the gradient of `x`.
pub(super) fn backward(x: &Rows, bias: Option<&Rows>, gradient: &Rows, gate: Gate, dx: &Rows) {
    let mut together = vec![x, gradient, dx];
    together.extend(bias);
    let size = vector(&together);
    let client = &x.tensor.client;
    let count = x.count * x.width / size;
    // SAFETY: the kernel leaves what is beyond `count` vectors alone.
    unsafe {
        slopes::launch_unchecked(
            client,
            cubes(client, count.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            size,
            x.arg(),
            bias.unwrap_or(x).arg(),
            gradient.arg(),
            dx.arg(),
            count,
            x.width / size,
            x.pitch / size,
            gradient.pitch / size,
            dx.pitch / size,
            bias.is_some(),
            gate,
            element(x.tensor.dtype),
        );
    }
}

#[cube(launch_unchecked)]
fn values<F: Float, N: Size>(
    x: &[Vector<F, N>],
    bias: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    x_pitch: usize,
    y_pitch: usize,
    #[comptime] biased: bool,
    #[comptime] gate: Gate,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let (row, column) = (place / width, place % width);
    let mut z = Vector::<f32, N>::cast_from(x[row * x_pitch + column]);
    if biased {
        z += Vector::cast_from(bias[column]);
    }
    y[row * y_pitch + column] = Vector::cast_from(z * opened(z, gate));
}

#[cube(launch_unchecked)]
fn slopes<F: Float, N: Size>(
    x: &[Vector<F, N>],
    bias: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    dx: &mut [Vector<F, N>],
    count: usize,
    width: usize,
    x_pitch: usize,
    gradient_pitch: usize,
    dx_pitch: usize,
    #[comptime] biased: bool,
    #[comptime] gate: Gate,
    #[define(F)] _element: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= count {
        terminate!();
    }
    let (row, column) = (place / width, place % width);
    let mut z = Vector::<f32, N>::cast_from(x[row * x_pitch + column]);
    if biased {
        z += Vector::cast_from(bias[column]);
    }
    let open = opened(z, gate);
    let slope = open + z * steepness(z, open, gate);
    let gradient = Vector::<f32, N>::cast_from(gradient[row * gradient_pitch + column]);
    dx[row * dx_pitch + column] = Vector::cast_from(gradient * slope);
}

/// The gate of `z`.
#[cube]
fn opened<N: Size>(z: Vector<f32, N>, #[comptime] gate: Gate) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0);
    if comptime!(gate == Gate::Normal) {
        ((z * Vector::new(comptime!(std::f32::consts::FRAC_1_SQRT_2))).erf() + one)
            * Vector::new(0.5)
    } else {
        // `(1 + tanh(u)) / 2 = sigmoid(2 u)`.
        let inner = if comptime!(gate == Gate::Tanh) {
            let factor = one + z * z * Vector::new(comptime!(CUBIC as f32));
            z * factor * Vector::new(comptime!((8.0 / PI).sqrt() as f32))
        } else {
            z * Vector::new(1.702)
        };
        one / (one + (-inner).exp())
    }
}

/// The derivative of the gate, which is `open`.
#[cube]
fn steepness<N: Size>(
    z: Vector<f32, N>,
    open: Vector<f32, N>,
    #[comptime] gate: Gate,
) -> Vector<f32, N> {
    let one = Vector::<f32, N>::new(1.0);
    if comptime!(gate == Gate::Normal) {
        (z * z * Vector::new(-0.5)).exp() * Vector::new(comptime!((2.0 * PI).sqrt().recip() as f32))
    } else {
        let factor = if comptime!(gate == Gate::Tanh) {
            let factor = one + z * z * Vector::new(comptime!((3.0 * CUBIC) as f32));
            factor * Vector::new(comptime!((8.0 / PI).sqrt() as f32))
        } else {
            Vector::new(1.702)
        };
        open * (one - open) * factor
    }
}

/// The function as a node of the graph, of `x` and, as a second input, a bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gelu<const D: usize> {
    pub gate: Gate,
}

impl<const D: usize> Operation<DispatchTensor, 1> for Gelu<D> {
    /// The input.
    type Saved = DispatchTensor;

    fn forward(&self, [x]: [DispatchTensor; 1], _: [bool; 1]) -> (DispatchTensor, DispatchTensor) {
        (Dispatch::gelu(x.clone(), self.gate), x)
    }

    fn backward(
        &self,
        x: DispatchTensor,
        gradient: DispatchTensor,
        _: [bool; 1],
    ) -> [Option<DispatchTensor>; 1] {
        [Some(Dispatch::gelu_slopes(x, gradient, self.gate))]
    }
}

impl<const D: usize> Operation<DispatchTensor, 2> for Gelu<D> {
    /// The inputs.
    type Saved = [DispatchTensor; 2];

    fn forward(
        &self,
        [x, bias]: [DispatchTensor; 2],
        _: [bool; 2],
    ) -> (DispatchTensor, [DispatchTensor; 2]) {
        let y = Dispatch::gelu_biased(x.clone(), bias.clone(), self.gate);
        (y, [x, bias])
    }

    fn backward(
        &self,
        [x, bias]: [DispatchTensor; 2],
        gradient: DispatchTensor,
        [x_wanted, bias_wanted]: [bool; 2],
    ) -> [Option<DispatchTensor>; 2] {
        let dx = Dispatch::gelu_biased_slopes(x, bias, gradient, self.gate);
        let dbias = bias_wanted.then(|| {
            let rows = Tensor::<D>::from_dispatch(dx.clone());
            let dtype = rows.dtype();
            let width = rows.dims()[D - 1] as i32;
            let sum = rows
                .reshape([-1, width])
                .cast(burn::tensor::DType::F32)
                .sum_dim(0);
            sum.squeeze_dim::<1>(0).cast(dtype).into_dispatch()
        });
        [x_wanted.then_some(dx), dbias]
    }
}
