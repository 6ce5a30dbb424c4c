//! Which tensors kernels take, and an operation of kernels as a node of the graph.

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::{
    Cube, DType, DispatchAutodiffContext, DispatchDevice, DispatchTensor, DispatchTensorKind,
    Shape, TensorMetadata,
};
use burn::tensor::Tensor;
use cubecl::ir::ElemType;

use super::rows::{LONGEST, UNITS};
use crate::accelerated::{self, Accelerated};
use crate::bridge;
use crate::operation::Operation;

/// Returns whether kernels take the tensors, of which there is at least one. They take no empty ones.
pub(super) fn takes(inputs: &[DispatchTensor]) -> bool {
    let (context, dtype) = (inputs[0].autodiff, inputs[0].dtype());
    let fits = |x: &DispatchTensor| {
        let count = x.shape().num_elements();
        on_accelerator(x)
            && x.autodiff == context
            && x.dtype() == dtype
            && (1..1 << 31).contains(&count)
    };
    accelerated::current() == Accelerated::Kernels
        && matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
        && inputs.iter().all(fits)
        && has_units(&inputs[0])
}

/// Returns whether kernels take the tensors as rows of their last axis, which must not be too long.
pub(super) fn takes_rows(inputs: &[DispatchTensor]) -> bool {
    let short = |x: &DispatchTensor| x.shape().last().is_some_and(|&width| width <= LONGEST);
    takes(inputs) && inputs.iter().all(short)
}

/// Returns whether all tensors are outside of any graph.
pub(super) fn untracked(inputs: &[DispatchTensor]) -> bool {
    let outside = |x: &DispatchTensor| x.autodiff == DispatchAutodiffContext::Disabled;
    inputs.iter().all(outside)
}

/// Returns whether both tensors have the same shape and type.
pub(super) fn are_alike(x: &DispatchTensor, y: &DispatchTensor) -> bool {
    x.shape() == y.shape() && x.dtype() == y.dtype()
}

/// The shape of a tensor.
pub(super) fn shape(x: &DispatchTensor) -> Shape {
    x.shape()
}

fn on_accelerator(x: &DispatchTensor) -> bool {
    let kind = match &x.kind {
        DispatchTensorKind::Autodiff(kind) => kind,
        kind => kind,
    };
    matches!(kind, DispatchTensorKind::Cube(_))
}

/// Returns whether a cube of the device may have as many units as a row needs.
fn has_units(x: &DispatchTensor) -> bool {
    let device = match x.device() {
        DispatchDevice::Autodiff(device) => device.inner(),
        device => device,
    };
    match device {
        DispatchDevice::Cube(device) => {
            device.client().properties().hardware.max_units_per_cube as usize >= UNITS
        }
        _ => false,
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread ran an operation of kernels.
    pub(super) static RUNS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };

    /// How often it ran a kernel of an optimizer.
    pub(super) static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Runs an operation on tensors that kernels take.
pub(super) fn run<const D: usize, const N: usize>(
    op: impl Operation<DispatchTensor, N>,
    inputs: [DispatchTensor; N],
) -> Tensor<D> {
    #[cfg(test)]
    RUNS.set(RUNS.get() + 1);
    Tensor::from_dispatch(bridge::run::<Cube, DispatchTensor, N>(op, inputs))
}

/// The type of a kernel's values.
pub(super) fn element(dtype: DType) -> ElemType {
    dtype_to_elem_type(dtype)
}
