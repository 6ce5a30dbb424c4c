//! An operation on plain tensors as one node of the graph, whatever the backend.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion,
    DispatchTensor, DispatchTensorKind, Flex, GradientCheckpointingStrategy,
};

/// An operation on `N` tensors of floats, made of operations on plain tensors.
pub(super) trait ComposedOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs; tensors are shared, so keeping an input is free.
    type Saved: Clone + Debug + Send + 'static;

    /// The value and what backward needs.
    fn forward(&self, inputs: [DispatchTensor; N]) -> (DispatchTensor, Self::Saved);

    /// The gradients of the inputs that are needed.
    fn backward(
        &self,
        saved: Self::Saved,
        gradient: DispatchTensor,
        needed: [bool; N],
    ) -> [Option<DispatchTensor>; N];
}

/// Runs `op` as one node if its backend is known here.
///
/// # Errors
/// Hands the tensors back otherwise: use Burn's own operation then.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
pub(super) fn apply<const N: usize>(
    op: impl ComposedOp<N>,
    inputs: [DispatchTensor; N],
) -> Result<DispatchTensor, [DispatchTensor; N]> {
    let context = inputs[0].autodiff;
    if !inputs.iter().all(|x| x.autodiff == context) {
        return Err(inputs);
    }
    let DispatchAutodiffContext::Enabled(checkpointing) = context else {
        return Ok(op.forward(inputs).0);
    };
    macro_rules! track {
        ($backend:ty) => {
            match checkpointing {
                GradientCheckpointingStrategy::Balanced => {
                    track::<$backend, BalancedCheckpointing, N>(op, inputs)
                }
                _ => track::<$backend, NoCheckpointing, N>(op, inputs),
            }
        };
    }
    match &inputs[0].kind {
        DispatchTensorKind::Autodiff(kind) => match **kind {
            DispatchTensorKind::Flex(_) => Ok(track!(Flex)),
            #[cfg(feature = "cuda")]
            DispatchTensorKind::Cube(_) => Ok(track!(burn::backend::Cube)),
            #[allow(unreachable_patterns, reason = "other backends are features")]
            _ => Err(inputs),
        },
        _ => Err(inputs),
    }
}

fn track<B: Backend, C: CheckpointStrategy, const N: usize>(
    op: impl ComposedOp<N>,
    inputs: [DispatchTensor; N],
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, C>>,
{
    let inputs = inputs.map(float::<Autodiff<B, C>>);
    let nodes = inputs.each_ref().map(|x| x.node());
    let inputs = inputs.map(|x| dispatch::<B>(x.into_primitive()));
    let step = Step(op.clone()).prepare::<C>(nodes).compute_bound();
    let (y, saved) = op.forward(inputs);
    let y = float::<B>(y);
    let y = match step.stateful() {
        OpsKind::Tracked(step) => step.finish(saved, y),
        OpsKind::UnTracked(step) => step.finish(y),
    };
    dispatch::<Autodiff<B, C>>(y)
}

/// The backend's own tensor.
fn float<B: Backend>(x: DispatchTensor) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(x) {
        Ok(tensor) => tensor.float(),
        Err(message) => unreachable!("`apply` has looked at the backend: {message}"),
    }
}

fn dispatch<B: Backend>(x: FloatTensor<B>) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(x))
}

#[derive(Debug)]
struct Step<O>(O);

impl<B: Backend, O: ComposedOp<N>, const N: usize> Backward<B, N> for Step<O>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let needed = ops.parents.each_ref().map(Option::is_some);
        if needed == [false; N] {
            return;
        }
        let of_inputs = self.0.backward(ops.state, dispatch::<B>(gradient), needed);
        for (parent, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, float::<B>(gradient));
            }
        }
    }
}
