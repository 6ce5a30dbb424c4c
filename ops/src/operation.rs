//! What an operation with its own backward pass is, outside of any graph, and the values of its tensors.

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape};

/// An operation on `N` tensors outside of any graph: [`FlexTensor`]s for the kernels of the CPU, which
/// get contiguous `f32` values, or [`DispatchTensor`](burn::backend::DispatchTensor)s for what is composed
/// of Burn's operations.
///
/// What it computes must not depend on the number of threads: work is split by shapes, and partial sums
/// are added in a fixed order.
pub(crate) trait Operation<T, const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs; tensors are shared, so keeping an input is free.
    type Saved: Clone + Debug + Send + 'static;

    /// Whether it takes bf16 tensors as they are where [products of them](crate::level::multiplies_bf16) are fast.
    const MULTIPLIES_BF16: bool = false;

    /// The value, and what backward needs for the gradients of the inputs that are `wanted`.
    fn forward(&self, inputs: [T; N], wanted: [bool; N]) -> (T, Self::Saved);

    /// The gradients of the inputs that are `wanted`; others are dropped.
    fn backward(&self, saved: Self::Saved, gradient: T, wanted: [bool; N]) -> [Option<T>; N];
}

/// A type of values that an operation keeps for its backward pass.
pub(crate) trait Kept {
    /// The tensors in it. Statistics, indices and sizes have none.
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        Vec::new()
    }
}

impl Kept for FlexTensor {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        vec![self]
    }
}

impl<T: Kept> Kept for Option<T> {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        self.iter_mut().flat_map(T::tensors).collect()
    }
}

impl<T: Kept, const N: usize> Kept for [T; N] {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        self.iter_mut().flat_map(T::tensors).collect()
    }
}

impl<A: Kept, B: Kept> Kept for (A, B) {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        let mut all = self.0.tensors();
        all.extend(self.1.tensors());
        all
    }
}

impl<A: Kept, B: Kept, C: Kept> Kept for (A, B, C) {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        let mut all = self.0.tensors();
        all.extend(self.1.tensors());
        all.extend(self.2.tensors());
        all
    }
}

impl<T> Kept for Arc<Vec<T>> {}

impl Kept for usize {}

impl Kept for () {}

/// The values of a contiguous `f32` tensor.
pub(crate) fn values(x: &FlexTensor) -> &[f32] {
    match x.as_slice::<f32>() {
        Some(values) => values,
        None => unreachable!("kernels get contiguous f32 tensors only"),
    }
}

/// A tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}
