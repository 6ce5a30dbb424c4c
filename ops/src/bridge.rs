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

/// A unary operation on contiguous `f32` tensors of the CPU backend.
pub(crate) trait CpuOp: Clone + Debug + Send + 'static {
    /// What the backward pass needs; tensors are shared, so keeping the input is free.
    type Saved: Clone + Debug + Send + 'static;

    /// The value, and what backward needs if `tracked`.
    fn forward(&self, x: FlexTensor, tracked: bool) -> (FlexTensor, Option<Self::Saved>);

    /// The gradient of the input.
    fn backward(&self, saved: Self::Saved, gradient: FlexTensor) -> FlexTensor;
}

/// Runs `op` if `x` is an `f32` tensor of the CPU backend, tracked or not.
///
/// # Errors
/// Hands the tensor back otherwise: use Burn's own operation then.
#[allow(
    clippy::result_large_err,
    reason = "the tensor is handed back, not an error"
)]
pub(crate) fn apply(op: impl CpuOp, x: DispatchTensor) -> Result<DispatchTensor, DispatchTensor> {
    if !on_cpu(&x) {
        return Err(x);
    }
    macro_rules! run {
        ($backend:ty, $f:expr) => {
            match <DispatchTensor as DispatchKindConversion<$backend>>::try_into_backend(x) {
                Ok(tensor) => {
                    let y = BackendTensor::Float($f(tensor.float()));
                    Ok(<DispatchTensor as DispatchKindConversion<$backend>>::from_backend(y))
                }
                Err(_) => unreachable!("checked by `on_cpu`"),
            }
        };
    }
    match x.autodiff {
        DispatchAutodiffContext::Disabled => {
            run!(Flex, |x: FlexTensor| op.forward(x.to_contiguous(), false).0)
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            run!(Autodiff<Flex, BalancedCheckpointing>, |x| track::<BalancedCheckpointing>(op, x))
        }
        DispatchAutodiffContext::Enabled(_) => {
            run!(Autodiff<Flex, NoCheckpointing>, |x| track::<NoCheckpointing>(op, x))
        }
    }
}

fn on_cpu(x: &DispatchTensor) -> bool {
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

fn track<C: CheckpointStrategy>(
    op: impl CpuOp,
    x: FloatTensor<Autodiff<Flex, C>>,
) -> FloatTensor<Autodiff<Flex, C>> {
    let node = x.node();
    let x = x.into_primitive().to_contiguous();
    match Step(op.clone())
        .prepare::<C>([node])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(step) => match op.forward(x, true) {
            (y, Some(saved)) => step.finish(saved, y),
            (_, None) => unreachable!("a tracked forward saves what backward needs"),
        },
        OpsKind::UnTracked(step) => step.finish(op.forward(x, false).0),
    }
}

#[derive(Debug)]
struct Step<O>(O);

impl<O: CpuOp> Backward<Flex, 1> for Step<O> {
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let gradient = self.0.backward(ops.state, gradient);
            gradients.register::<Flex>(parent.id, gradient);
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
