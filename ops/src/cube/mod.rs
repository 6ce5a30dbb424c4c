//! Kernels of this crate for accelerators: an operation is one pass over memory forward and one backward, where the
//! operations composed of Burn's are several.
//!
//! They compute in `f32` with tensors in `f32`, f16 or bf16. Where they do not apply they hand their inputs back, and the
//! composed operation or Burn's own runs: at other element types or where types differ, for rows longer than 4096 values,
//! for tensors of 2^31 values or more, for empty ones, on devices with fewer than 256 units in a cube (CubeCL's CPU), and
//! where `PEFT_OPS_CUDA` is `composed` or `off`. Sums are added in an order that follows from sizes and from the number
//! of units in a plane of the device.

#![cfg_attr(
    not(feature = "accelerator"),
    allow(unused_variables, reason = "inputs are handed back")
)]
#![allow(
    clippy::result_large_err,
    reason = "tensors are handed back, not an error"
)]

#[cfg(feature = "accelerator")]
mod adam_w;
#[cfg(feature = "accelerator")]
mod attention;
#[cfg(feature = "accelerator")]
mod batch_norm;
#[cfg(feature = "accelerator")]
mod cross_entropy;
#[cfg(feature = "accelerator")]
mod gelu;
#[cfg(feature = "accelerator")]
mod heads;
#[cfg(feature = "accelerator")]
mod layer_norm;
#[cfg(feature = "accelerator")]
mod node;
#[cfg(feature = "accelerator")]
mod rows;
#[cfg(feature = "accelerator")]
mod softmax;
mod step;
#[cfg(all(test, feature = "accelerator"))]
mod tests;

use burn::backend::DispatchTensor;
use burn::tensor::Tensor;

pub(crate) use self::step::Step;
use crate::composed::Gate;

/// LayerNorm over the last axis.
///
/// # Shapes
/// `x [.., d]`, `gamma [d]`, `beta [d] -> [.., d]`.
pub(crate) fn layer_norm<const D: usize>(
    inputs: [DispatchTensor; 3],
    epsilon: f64,
) -> Result<Tensor<D>, [DispatchTensor; 3]> {
    #[cfg(feature = "accelerator")]
    if node::takes_rows(&inputs) {
        return Ok(node::run(layer_norm::LayerNorm::<D> { epsilon }, inputs));
    }
    Err(inputs)
}

/// `x gate(x)`.
///
/// # Shapes
/// Any; the result has the same.
pub(crate) fn gelu<const D: usize>(
    gate: Gate,
    x: DispatchTensor,
) -> Result<Tensor<D>, DispatchTensor> {
    #[cfg(feature = "accelerator")]
    if node::takes(std::slice::from_ref(&x)) {
        return Ok(node::run(gelu::Gelu::<D> { gate }, [x]));
    }
    Err(x)
}

/// `z gate(z)` with `z = x + bias`.
///
/// # Shapes
/// `x [.., d]`, `bias [d] -> [.., d]`.
pub(crate) fn gelu_biased<const D: usize>(
    gate: Gate,
    inputs: [DispatchTensor; 2],
) -> Result<Tensor<D>, [DispatchTensor; 2]> {
    #[cfg(feature = "accelerator")]
    if node::takes(&inputs) {
        return Ok(node::run(gelu::Gelu::<D> { gate }, inputs));
    }
    Err(inputs)
}

/// Whether [`gelu_biased`] takes tensors like this one.
pub(crate) fn adds_bias(x: DispatchTensor) -> bool {
    #[cfg(feature = "accelerator")]
    if node::takes(&[x]) {
        return true;
    }
    false
}

/// `softmax(q k^T / sqrt(w)) v` of packed queries, keys and values.
///
/// # Shapes
/// `qkv [b, n, 3 d] -> [b, n, d]`.
pub(crate) fn attention(heads: usize, qkv: DispatchTensor) -> Result<Tensor<3>, DispatchTensor> {
    #[cfg(feature = "accelerator")]
    if node::takes(std::slice::from_ref(&qkv)) && node::shape(&qkv)[1] <= rows::LONGEST {
        return Ok(node::run(attention::Attention { heads }, [qkv]));
    }
    Err(qkv)
}

/// `softmax(q k^T / sqrt(w) + bias) v`, where sequence `i` has the bias of window `i mod windows`.
///
/// # Shapes
/// `qkv [b, n, 3 d]`, `bias [windows, heads, n, n] -> [b, n, d]`.
pub(crate) fn attention_with_bias(
    inputs: [DispatchTensor; 2],
) -> Result<Tensor<3>, [DispatchTensor; 2]> {
    #[cfg(feature = "accelerator")]
    if node::takes_rows(&inputs[1..]) && node::takes(&inputs) {
        let [windows, heads] = [0, 1].map(|axis| node::shape(&inputs[1])[axis]);
        // Burn's own operation reports the shapes.
        if !node::shape(&inputs[0])[0].is_multiple_of(windows) {
            return Err(inputs);
        }
        return Ok(node::run(attention::Attention { heads }, inputs));
    }
    Err(inputs)
}

/// A norm with fixed statistics, `[c]` each, and what follows it. Inputs are `x`, gamma and beta, and a residual if there
/// is one.
///
/// # Shapes
/// `x`, `residual [b, c, h, w] -> [b, c, h, w]`.
pub(crate) fn batch_norm<const N: usize>(
    inputs: [DispatchTensor; N],
    statistics: [Tensor<1>; 2],
    epsilon: f64,
    relu: bool,
) -> Result<Tensor<4>, [DispatchTensor; N]> {
    #[cfg(feature = "accelerator")]
    if node::takes(&inputs) {
        let statistics = statistics.map(Tensor::without_autodiff);
        let op = batch_norm::BatchNorm {
            statistics,
            epsilon,
            relu,
        };
        return Ok(node::run(op, inputs));
    }
    Err(inputs)
}

/// The mean over rows of `-sum_j targets_j log(softmax(logits)_j)`. Targets are a constant.
///
/// # Shapes
/// `logits`, `targets [b, classes] -> [1]`.
pub(crate) fn cross_entropy(inputs: [DispatchTensor; 2]) -> Result<Tensor<1>, [DispatchTensor; 2]> {
    #[cfg(feature = "accelerator")]
    if inputs
        .iter()
        .all(|x| node::takes_rows(std::slice::from_ref(x)))
        && node::are_alike(&inputs[0], &inputs[1])
    {
        let [logits, targets] = inputs;
        let targets = Tensor::<2>::from_dispatch(targets).without_autodiff();
        let targets = targets.into_dispatch();
        return Ok(node::run(cross_entropy::CrossEntropy { targets }, [logits]));
    }
    Err(inputs)
}

/// A step of AdamW: parameter and moments from those before it and the gradient, all of one shape and none tracked.
pub(crate) fn adam_w<const D: usize>(
    inputs: [Tensor<D>; 4],
    step: Step,
) -> Result<[Tensor<D>; 3], [Tensor<D>; 4]> {
    #[cfg(feature = "accelerator")]
    {
        let tensors = inputs.clone().map(Tensor::into_dispatch);
        if node::takes(&tensors) && node::untracked(&tensors) {
            return Ok(adam_w::step(tensors, step).map(Tensor::from_dispatch));
        }
    }
    Err(inputs)
}
