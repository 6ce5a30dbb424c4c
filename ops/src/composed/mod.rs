//! Operations made of Burn's own, with a backward pass of their own: what devices run for which this
//! crate has no kernels.
//!
//! Burn's autodiff keeps every intermediate of a composed operation, and its GELU backward is that of
//! the tanh approximation. These keep their inputs, compute the rest again and have the exact
//! derivative. Element types below 32 bits are widened while a value is normalised or squashed, as
//! PyTorch does. `PEFT_OPS_CUDA=off` in the environment turns them off: then Burn's operations and
//! autodiff run as they are.

mod attention;
mod bridge;
mod gelu;
mod layer_norm;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use burn::backend::{DispatchTensor, DispatchTensorKind};
use burn::tensor::{DType, Tensor};

pub(crate) use attention::attention;
pub(crate) use gelu::{Gate, gelu};
pub(crate) use layer_norm::layer_norm;

/// Whether they run on the tensor's device: on all but the CPU, unless they are turned off.
fn run_on(x: &DispatchTensor) -> bool {
    let kind = match &x.kind {
        DispatchTensorKind::Autodiff(kind) => kind,
        kind => kind,
    };
    !matches!(kind, DispatchTensorKind::Flex(_)) && enabled()
}

fn enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| std::env::var_os("PEFT_OPS_CUDA").is_none_or(|value| value != "off"))
}

/// The same in `f32`, if its type has fewer bits.
fn widened<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 | DType::Flex32 => x.cast(DType::F32),
        _ => x,
    }
}

/// The same in `dtype`.
fn in_type<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
