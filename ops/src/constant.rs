//! The values of tensors outside of a graph, to read or to change in place.

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Tensor};

use crate::level;
use crate::narrow::widened;

/// The tensor outside of any graph in `f32`, if kernels run on it: `f32` or bf16 on the CPU backend.
pub(crate) fn constant<const D: usize>(x: Tensor<D>) -> Option<FlexTensor> {
    if !level::current().has_kernels() {
        return None;
    }
    match x.without_autodiff().into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x))
            if matches!(x.dtype(), DType::F32 | DType::BF16) =>
        {
            Some(widened(x.to_contiguous()))
        }
        _ => None,
    }
}

/// The values of a contiguous `f32` tensor, to change. They are copied first if another tensor shares them.
pub(crate) fn values_mut(x: &mut FlexTensor) -> &mut [f32] {
    match x.layout().contiguous_offsets() {
        Some((start, end)) => &mut x.storage_mut()[start..end],
        None => unreachable!("kernels get contiguous f32 tensors only"),
    }
}
