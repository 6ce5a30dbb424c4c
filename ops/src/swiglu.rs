//! SwiGLU (Shazeer 2020): a value gated by the SiLU of another.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use rayon::prelude::*;

use crate::bridge::apply;
use crate::buffer::{Unset, written};
use crate::constant::values_mut;
use crate::math::{CHUNK, ROWS, exp};
use crate::operation::{Operation, tensor, values};
use crate::simd::{Simd, multiversion};

/// `silu(gate) up` with `silu(g) = g sigmoid(g)`.
///
/// # Shapes
/// Any, both the same; the result has it too.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    match apply(Swiglu, [gate.into_dispatch(), up.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([gate, up]) => {
            let [gate, up] = [gate, up].map(Tensor::<D>::from_dispatch);
            silu(gate) * up
        }
    }
}

/// [`swiglu`] of the first and the second half of the last axis.
///
/// # Shapes
/// `[.., 2 h] -> [.., h]`.
pub fn swiglu_packed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match apply(Packed, [x.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([x]) => {
            let x = Tensor::<D>::from_dispatch(x);
            let half = x.dims()[D - 1] / 2;
            let part = |start| x.clone().narrow(D - 1, start, half);
            silu(part(0)) * part(half)
        }
    }
}

#[derive(Clone, Debug)]
struct Swiglu;

impl Operation<FlexTensor, 2> for Swiglu {
    /// Both inputs.
    type Saved = [FlexTensor; 2];

    fn forward(&self, [gate, up]: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, Self::Saved) {
        let (gates, ups) = (values(&gate), values(&up));
        // SAFETY: the chunks cover the output, those of the inputs are as long, and the kernel writes each
        // value of a chunk.
        let y = unsafe {
            written(gates.len(), |y| {
                let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK));
                let chunks = y.par_chunks_mut(CHUNK).zip(inputs);
                chunks.for_each(|(y, (gate, up))| products(gate, up, y));
            })
        };
        (tensor(y, gate.shape()), [gate, up])
    }

    fn backward(
        &self,
        [gate, up]: Self::Saved,
        mut gradient: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let (gates, ups) = (values(&gate), values(&up));
        let shape = gradient.shape();
        // The gradient of the gate takes the place of that of the output.
        let g = values_mut(&mut gradient);
        // SAFETY: as in the forward pass.
        let of_up = unsafe {
            written(ups.len(), |of_up| {
                let inputs = gates.par_chunks(CHUNK).zip(ups.par_chunks(CHUNK));
                let outputs = g.par_chunks_mut(CHUNK).zip(of_up.par_chunks_mut(CHUNK));
                let chunks = outputs.zip(inputs);
                chunks.for_each(|((g, of_up), (gate, up))| slopes(gate, up, g, of_up));
            })
        };
        [Some(gradient), Some(tensor(of_up, shape))]
    }
}

#[derive(Clone, Debug)]
struct Packed;

impl Operation<FlexTensor, 1> for Packed {
    /// The input.
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, FlexTensor) {
        let mut shape = x.shape();
        let last = shape.num_dims() - 1;
        let half = shape[last] / 2;
        shape[last] = half;
        let packed = values(&x);
        let part = (ROWS * half).max(1);
        // SAFETY: the chunks of rows cover the output, those of the input have as many rows, and the kernel
        // writes each value of a row.
        let y = unsafe {
            written(packed.len() / 2, |y| {
                let chunks = y.par_chunks_mut(part).zip(packed.par_chunks(2 * part));
                chunks.for_each(|(y, x)| {
                    let rows = y.chunks_exact_mut(half).zip(x.chunks_exact(2 * half));
                    rows.for_each(|(y, x)| products(&x[..half], &x[half..], y));
                });
            })
        };
        (tensor(y, shape), x)
    }

    fn backward(
        &self,
        x: FlexTensor,
        mut gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let (shape, packed) = (x.shape(), values(&x));
        let half = shape[shape.num_dims() - 1] / 2;
        let part = (ROWS * half).max(1);
        let g = values_mut(&mut gradient);
        let mut dx = vec![0.0; packed.len()];
        let inputs = packed.par_chunks(2 * part).zip(g.par_chunks_mut(part));
        let chunks = dx.par_chunks_mut(2 * part).zip(inputs);
        chunks.for_each(|(dx, (x, g))| {
            let inputs = x.chunks_exact(2 * half).zip(g.chunks_exact_mut(half));
            for (dx, (x, g)) in dx.chunks_exact_mut(2 * half).zip(inputs) {
                let (of_gate, of_up) = dx.split_at_mut(half);
                // SAFETY: the kernel only writes, and what it writes are numbers.
                let of_up = unsafe { crate::buffer::as_unset(of_up) };
                slopes(&x[..half], &x[half..], g, of_up);
                of_gate.copy_from_slice(g);
            }
        });
        [Some(tensor(dx, shape))]
    }
}

/// `sigmoid(g)` and `1 - sigmoid(g)`, each without cancellation.
#[inline(always)]
fn gates<S: Simd>(g: f32) -> (f32, f32) {
    let e = exp::<S>(-g);
    let open = 1.0 / (1.0 + e);
    let shut = e * open;
    // `exp` saturates, and a very negative gate times its last value would not vanish.
    (if g < -87.0 { 0.0 } else { open }, shut)
}

multiversion! {
    /// `y = silu(gate) up`.
    fn products<S>(gate: &[f32], up: &[f32], y: &mut [Unset]) {
        for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
            y.write(gate * gates::<S>(gate).0 * up);
        }
    }

    /// `of_up = g silu(gate)`, then `g <- g up (s + gate s (1 - s))` with `s = sigmoid(gate)`.
    fn slopes<S>(gate: &[f32], up: &[f32], g: &mut [f32], of_up: &mut [Unset]) {
        let inputs = gate.iter().zip(up);
        for ((g, of_up), (&gate, up)) in g.iter_mut().zip(of_up).zip(inputs) {
            let (open, shut) = gates::<S>(gate);
            of_up.write(*g * gate * open);
            *g *= up * S::fma(gate * shut, open, open);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        Case, Tensors, View, cases, compare, results, same_on_any_threads, views,
    };

    fn composed(t: &Tensors) -> Tensor<3> {
        silu(t.get::<3>(0)) * t.get(1)
    }

    fn composed_packed(t: &Tensors) -> Tensor<3> {
        let x = t.get::<3>(0);
        let half = x.dims()[2] / 2;
        silu(x.clone().narrow(2, 0, half)) * x.narrow(2, half, half)
    }

    proptest! {
        #![proptest_config(cases(32))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, n in 1usize..9, h in 1usize..70, wanted in 0u32..4, view in views(),
            seed in 1u32..1000,
        ) {
            let case = Case::new(seed).with(&[b, n, h], view).times(4.0);
            let case = case.with(&[b, n, h], View::Plain).wanting(wanted);
            compare(&case, |t| swiglu(t.get::<3>(0), t.get(1)), composed);
        }

        #[test]
        fn packed_values_and_gradients_agree_with_f64(
            b in 1usize..4, n in 1usize..9, h in 1usize..70, wanted in 0u32..2, view in views(),
            seed in 1u32..1000,
        ) {
            let case = Case::new(seed).with(&[b, n, 2 * h], view).times(4.0).wanting(wanted);
            compare(&case, |t| swiglu_packed(t.get::<3>(0)), composed_packed);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = Case::new(3).with(&[7, 90, 44], View::Plain);
        same_on_any_threads(|| results(&case, |t| swiglu_packed(t.get::<3>(0))));
    }
}
