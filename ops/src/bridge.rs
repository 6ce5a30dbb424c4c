//! From a Burn tensor to plain `f32` tensors of its CPU backend and back, with a backward pass.
//!
//! Needs Burn's `extension` feature only. An operation that does not apply hands its inputs back.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchKindConversion, DispatchTensor,
    DispatchTensorKind, Flex, GradientCheckpointingStrategy, TensorMetadata,
};
use burn::tensor::{Bytes, DType, Shape};

use crate::Level;
use crate::level;

/// An operation on `N` contiguous `f32` tensors of the CPU backend.
///
/// What an operation computes must not depend on the number of threads: work is split by shapes, and
/// partial sums are added in a fixed order.
pub(crate) trait CpuOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs; tensors are shared, so keeping an input is free.
    type Saved: Clone + Debug + Send + 'static;

    /// The value; and what backward needs if any input wants a gradient.
    fn forward(
        &self,
        inputs: [FlexTensor; N],
        wants: [bool; N],
    ) -> (FlexTensor, Option<Self::Saved>);

    /// The gradient of each input that wants one.
    fn backward(
        &self,
        saved: Self::Saved,
        gradient: FlexTensor,
        wants: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// Runs `op` if all inputs are `f32` tensors of the CPU backend, tracked or not, and kernels are not
/// switched off.
///
/// # Errors
/// Hands the tensors back otherwise: use Burn's own operation then.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
pub(crate) fn apply<const N: usize>(
    op: impl CpuOp<N>,
    inputs: [DispatchTensor; N],
) -> Result<DispatchTensor, [DispatchTensor; N]> {
    let context = inputs[0].autodiff;
    let fits = |x: &DispatchTensor| on_cpu(x) && x.autodiff == context;
    if level::current() == Level::Off || !inputs.iter().all(fits) {
        return Err(inputs);
    }
    macro_rules! run {
        ($backend:ty, $f:expr) => {{
            let inputs = inputs.map(|x| {
                match <DispatchTensor as DispatchKindConversion<$backend>>::try_into_backend(x) {
                    Ok(tensor) => tensor.float(),
                    Err(_) => unreachable!("checked by `on_cpu`"),
                }
            });
            let y = BackendTensor::Float($f(inputs));
            Ok(<DispatchTensor as DispatchKindConversion<$backend>>::from_backend(y))
        }};
    }
    match context {
        DispatchAutodiffContext::Disabled => {
            run!(Flex, |inputs: [FlexTensor; N]| {
                op.forward(inputs.map(|x| x.to_contiguous()), [false; N]).0
            })
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            run!(Autodiff<Flex, BalancedCheckpointing>, |inputs| {
                track::<BalancedCheckpointing, N>(op, inputs)
            })
        }
        DispatchAutodiffContext::Enabled(_) => {
            run!(Autodiff<Flex, NoCheckpointing>, |inputs| {
                track::<NoCheckpointing, N>(op, inputs)
            })
        }
    }
}

/// Whether it is an `f32` tensor of the CPU backend, tracked or not.
pub(crate) fn on_cpu(x: &DispatchTensor) -> bool {
    let flex = match &x.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(_)) => true,
        DispatchTensorKind::Autodiff(kind) => {
            matches!(**kind, DispatchTensorKind::Flex(BackendTensor::Autodiff(_)))
        }
        #[allow(unreachable_patterns, reason = "other backends are features")]
        _ => false,
    };
    flex && x.dtype() == DType::F32
}

fn track<C: CheckpointStrategy, const N: usize>(
    op: impl CpuOp<N>,
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|x| x.node());
    let wants = inputs.each_ref().map(|x| x.is_tracked());
    let inputs = inputs.map(|x| x.into_primitive().to_contiguous());
    match Step(op.clone())
        .prepare::<C>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(step) => match op.forward(inputs, wants) {
            (y, Some(saved)) => step.finish(saved, y),
            (_, None) => unreachable!("a tracked forward saves what backward needs"),
        },
        OpsKind::UnTracked(step) => step.finish(op.forward(inputs, [false; N]).0),
    }
}

#[derive(Debug)]
struct Step<O>(O);

impl<O: CpuOp<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let wants = ops.parents.each_ref().map(Option::is_some);
        let of_inputs = self.0.backward(ops.state, gradient, wants);
        for (parent, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// The values of a contiguous `f32` tensor.
pub(crate) fn values(x: &FlexTensor) -> &[f32] {
    match x.as_slice::<f32>() {
        Some(values) => values,
        None => unreachable!("`apply` hands over contiguous f32 tensors only"),
    }
}

/// A tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}
