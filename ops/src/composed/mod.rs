//! Operations made of Burn's own, with a backward pass of their own: what devices run for which this
//! crate has no kernels.
//!
//! Burn's autodiff keeps every intermediate of a composed operation, and its GELU backward is that of
//! the tanh approximation. These keep their inputs, compute the rest again and have the exact
//! derivative. Element types below 32 bits are widened while a value is normalised or squashed, as
//! PyTorch does. Accelerators run them where no kernel of this crate applies; `PEFT_OPS_CUDA=off` in the
//! environment turns all but the convolution off: then Burn's operations and autodiff run as they are.
//! `PEFT_OPS=composed` runs all of them on the CPU, for tests.

mod attention;
mod conv;
mod gelu;
mod layer_norm;
#[cfg(test)]
mod tests;

use burn::backend::{DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{DType, Tensor};

use crate::accelerated::{self, Accelerated};
use crate::bridge::{self, on_cpu};
use crate::level::{self, Level};
use crate::operation::Operation;

pub(crate) use attention::attention;
pub(crate) use conv::conv2d;
#[cfg(feature = "accelerator")]
pub(crate) use gelu::CUBIC;
pub(crate) use gelu::{Gate, gelu};
pub(crate) use layer_norm::layer_norm;

/// Returns whether composed operations run on the device of a tensor. The environment may turn them off.
fn run_on(x: &DispatchTensor) -> bool {
    foreign(x) && accelerated::current() != Accelerated::Burns
}

/// Whether it is not a tensor of the CPU backend, or one that has to be treated as if it were not.
fn foreign(x: &DispatchTensor) -> bool {
    let kind = match &x.kind {
        DispatchTensorKind::Autodiff(kind) => kind,
        kind => kind,
    };
    let flex = matches!(kind, DispatchTensorKind::Flex(_));
    // The doctor's reference is in `f64`, and must stay Burn's.
    !flex || level::current() == Level::Composed && on_cpu(x, DType::F32)
}

/// Runs `op` as one node of the graph, if this crate knows the backend, or without a graph on any.
///
/// # Errors
/// Hands the tensors back otherwise: use Burn's own operation then.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
fn apply<const N: usize>(
    op: impl Operation<DispatchTensor, N>,
    inputs: [DispatchTensor; N],
) -> Result<DispatchTensor, [DispatchTensor; N]> {
    let context = inputs[0].autodiff;
    if !inputs.iter().all(|x| x.autodiff == context) {
        return Err(inputs);
    }
    if context == DispatchAutodiffContext::Disabled {
        return Ok(op.forward(inputs, [false; N]).0);
    }
    let DispatchTensorKind::Autodiff(kind) = &inputs[0].kind else {
        return Err(inputs);
    };
    match **kind {
        DispatchTensorKind::Flex(_) => Ok(bridge::run::<Flex, DispatchTensor, N>(op, inputs)),
        #[cfg(feature = "accelerator")]
        DispatchTensorKind::Cube(_) => Ok(bridge::run::<burn::backend::Cube, DispatchTensor, N>(
            op, inputs,
        )),
        #[allow(unreachable_patterns, reason = "other backends are features")]
        _ => Err(inputs),
    }
}

/// The same values in `f32`, if their type has fewer bits.
fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 | DType::Flex32 => x.cast(DType::F32),
        _ => x,
    }
}

/// The same values in `dtype`.
fn in_type<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
