//! Tensors outside of a graph, and those that nobody else reads.

use burn::backend::flex::FlexTensor;
use burn::backend::{BackendTensor, DispatchTensorKind};
use burn::tensor::{DType, Tensor};

use crate::level::{self, Level};

/// The values of a tensor without its place in a graph, if kernels are to run on it: `f32` on the CPU
/// backend.
pub(crate) fn constant<const D: usize>(x: Tensor<D>) -> Option<FlexTensor> {
    if level::current() == Level::Off {
        return None;
    }
    match x.without_autodiff().into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(x)) if x.dtype() == DType::F32 => {
            Some(x.to_contiguous())
        }
        _ => None,
    }
}

/// The values of a contiguous `f32` tensor, to be changed; copied first if others have them too.
pub(crate) fn values_mut(x: &mut FlexTensor) -> &mut [f32] {
    match x.layout().contiguous_offsets() {
        Some((start, end)) => &mut x.storage_mut()[start..end],
        None => unreachable!("`apply` hands over contiguous f32 tensors only"),
    }
}
