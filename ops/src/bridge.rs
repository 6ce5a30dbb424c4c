//! From Burn's tensors to an operation of this crate and back, with the operation's own backward pass
//! as one node of Burn's graph.
//!
//! Needs Burn's `extension` feature only. An operation that does not apply hands its inputs back.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, DispatchAutodiffContext,
    DispatchKindConversion, DispatchTensor, DispatchTensorKind, Flex,
    GradientCheckpointingStrategy, TensorMetadata,
};
use burn::tensor::{DType, Tensor};

use crate::level;
use crate::narrow::{Narrow, narrow_tensor};
use crate::operation::{Kept, Operation, tensor};

/// A tensor that operations compute with, outside of any graph, on backend `B`.
pub(crate) trait Plain<B: Backend>: Debug + Sized + 'static {
    /// From the backend's own tensor.
    fn from_backend(x: FloatTensor<B>) -> Self;

    /// The backend's own tensor.
    fn into_backend(self) -> FloatTensor<B>;
}

impl Plain<Flex> for FlexTensor {
    fn from_backend(x: FlexTensor) -> Self {
        x.to_contiguous()
    }

    fn into_backend(self) -> FlexTensor {
        self
    }
}

impl<B: Backend> Plain<B> for DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn from_backend(x: FloatTensor<B>) -> Self {
        dispatch::<B>(x)
    }

    fn into_backend(self) -> FloatTensor<B> {
        float::<B>(self)
    }
}

/// Runs a kernel's `op` if all inputs are tensors of the CPU backend in `f32`, or all in bf16, tracked or not,
/// and kernels are not switched off.
///
/// # Errors
/// Hands the tensors back otherwise: use Burn's own operation then.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
pub(crate) fn apply<O: Operation<FlexTensor, N, Saved: Kept>, const N: usize>(
    op: O,
    inputs: [DispatchTensor; N],
) -> Result<DispatchTensor, [DispatchTensor; N]> {
    let (context, dtype) = (inputs[0].autodiff, inputs[0].dtype());
    let fits = |x: &DispatchTensor| on_cpu(x, dtype) && x.autodiff == context;
    if !level::current().has_kernels() || !inputs.iter().all(fits) {
        return Err(inputs);
    }
    let as_they_are = match dtype {
        DType::BF16 => O::MULTIPLIES_BF16 && level::multiplies_bf16(),
        _ => dtype == DType::F32,
    };
    match dtype {
        _ if as_they_are => Ok(run::<Flex, FlexTensor, N>(op, inputs)),
        DType::BF16 => Ok(run::<Flex, FlexTensor, N>(Narrow(op), inputs)),
        _ => Err(inputs),
    }
}

/// Returns whether the CPU backend has the tensor, tracked or not, and its values are of that type.
pub(crate) fn on_cpu(x: &DispatchTensor, dtype: DType) -> bool {
    let flex = match &x.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(_)) => true,
        DispatchTensorKind::Autodiff(kind) => {
            matches!(**kind, DispatchTensorKind::Flex(BackendTensor::Autodiff(_)))
        }
        #[allow(unreachable_patterns, reason = "other backends are features")]
        _ => false,
    };
    flex && x.dtype() == dtype
}

/// The tensor, or one that stands for an optional input that is absent: empty, on the CPU, of the type and in
/// the context of the input `beside` it, and without a gradient. So an operation has as many inputs with it
/// as without.
pub(crate) fn or_absent<const D: usize>(
    x: Option<Tensor<D>>,
    beside: &DispatchTensor,
) -> DispatchTensor {
    if let Some(x) = x {
        return x.into_dispatch();
    }
    let empty = match beside.dtype() {
        DType::BF16 => narrow_tensor(Vec::new(), [0]),
        _ => tensor(Vec::new(), [0]),
    };
    in_context_of(beside, empty)
}

/// The tensor without a gradient, in the context of the one `beside` it if the CPU has it: an operation takes
/// tensors of one context.
pub(crate) fn as_constant<const D: usize>(x: Tensor<D>, beside: &DispatchTensor) -> DispatchTensor {
    let x = x.without_autodiff().into_dispatch();
    if on_cpu(&x, x.dtype()) {
        in_context_of(beside, float::<Flex>(x))
    } else {
        x
    }
}

fn in_context_of(beside: &DispatchTensor, x: FlexTensor) -> DispatchTensor {
    match beside.autodiff {
        DispatchAutodiffContext::Disabled => dispatch::<Flex>(x),
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            constant::<BalancedCheckpointing>(x)
        }
        DispatchAutodiffContext::Enabled(_) => constant::<NoCheckpointing>(x),
    }
}

/// A tensor in the context of a graph, but not tracked by it.
fn constant<C: CheckpointStrategy>(x: FlexTensor) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<Autodiff<Flex, C>>,
{
    dispatch::<Autodiff<Flex, C>>(Autodiff::<Flex, C>::from_inner(x))
}

/// Runs `op` on tensors of backend `B`, all in one context: as a node of the graph if they are tracked.
pub(crate) fn run<B: Backend, T: Plain<B>, const N: usize>(
    op: impl Operation<T, N>,
    inputs: [DispatchTensor; N],
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>
        + DispatchKindConversion<Autodiff<B, NoCheckpointing>>
        + DispatchKindConversion<Autodiff<B, BalancedCheckpointing>>,
{
    match inputs[0].autodiff {
        DispatchAutodiffContext::Disabled => {
            let inputs = inputs.map(|x| T::from_backend(float::<B>(x)));
            dispatch::<B>(op.forward(inputs, [false; N]).0.into_backend())
        }
        DispatchAutodiffContext::Enabled(GradientCheckpointingStrategy::Balanced) => {
            track::<B, BalancedCheckpointing, T, N>(op, inputs)
        }
        DispatchAutodiffContext::Enabled(_) => track::<B, NoCheckpointing, T, N>(op, inputs),
    }
}

fn track<B: Backend, C: CheckpointStrategy, T: Plain<B>, const N: usize>(
    op: impl Operation<T, N>,
    inputs: [DispatchTensor; N],
) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<Autodiff<B, C>>,
{
    let inputs = inputs.map(float::<Autodiff<B, C>>);
    let nodes = inputs.each_ref().map(|x| x.node());
    let wanted = inputs.each_ref().map(|x| x.is_tracked());
    let inputs = inputs.map(|x| T::from_backend(x.into_primitive()));
    let step = Step::<_, T> {
        op: op.clone(),
        tensor: PhantomData,
    };
    // The value is kept rather than computed again: an operation computes again what it likes to in
    // its backward pass.
    let y = match step.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let (y, saved) = op.forward(inputs, wanted);
            step.finish(saved, y.into_backend())
        }
        OpsKind::UnTracked(step) => step.finish(op.forward(inputs, wanted).0.into_backend()),
    };
    dispatch::<Autodiff<B, C>>(y)
}

/// An operation as a node of the graph.
#[derive(Debug)]
struct Step<O, T> {
    op: O,
    tensor: PhantomData<fn(T)>,
}

impl<B: Backend, T: Plain<B>, O: Operation<T, N>, const N: usize> Backward<B, N> for Step<O, T> {
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = T::from_backend(gradients.consume::<B>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let of_inputs = self.op.backward(ops.state, gradient, wanted);
        // An operation may compute a gradient that is not wanted, where that costs nothing.
        for (parent, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<B>(parent.id, gradient.into_backend());
            }
        }
    }
}

/// The backend's own tensor.
fn float<B: Backend>(x: DispatchTensor) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(x) {
        Ok(tensor) => tensor.float(),
        Err(message) => unreachable!("the caller has looked at the backend: {message}"),
    }
}

fn dispatch<B: Backend>(x: FloatTensor<B>) -> DispatchTensor
where
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(x))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::operation::values;

    /// `x + y`, or `x` where `y` is absent.
    #[derive(Clone, Debug)]
    struct Sum;

    impl Operation<FlexTensor, 2> for Sum {
        type Saved = ();

        fn forward(&self, [x, y]: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, ()) {
            let y = values(&y).iter().chain(std::iter::repeat(&0.0));
            let sums = values(&x).iter().zip(y).map(|(x, y)| x + y);
            (tensor(sums.collect(), x.shape()), ())
        }

        fn backward(&self, (): (), gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
            [Some(gradient.clone()), Some(gradient)]
        }
    }

    /// The CPU in the context of a graph, with both strategies.
    fn graphs() -> [Device; 2] {
        let device = Device::flex().autodiff();
        [device.clone(), device.gradient_checkpointing()]
    }

    fn line(values: [f32; 2], device: &Device) -> Tensor<1> {
        Tensor::from_data(values, device)
    }

    fn read(x: Tensor<1>) -> Vec<f32> {
        x.into_data().iter().collect()
    }

    /// Nothing runs at the levels without kernels.
    fn sum(inputs: [DispatchTensor; 2]) -> Option<Tensor<1>> {
        let sum = apply(Sum, inputs);
        assert_ne!(sum.is_err(), level::current().has_kernels());
        sum.ok().map(Tensor::from_dispatch)
    }

    #[test]
    fn an_input_may_be_absent_in_every_context() {
        let [graph, checkpointing] = graphs();
        for device in [Device::flex(), graph, checkpointing] {
            let x = line([1.0, 2.0], &device).into_dispatch();
            let absent = or_absent::<1>(None, &x);
            if let Some(y) = sum([x, absent]) {
                assert_eq!(read(y), [1.0, 2.0]);
            }
        }
    }

    #[test]
    fn gradients_reach_the_inputs_that_want_them() {
        for device in graphs() {
            let x = line([1.0, 2.0], &device).require_grad();
            let constant = line([3.0, 4.0], &device);
            let inputs = [x.clone(), constant.clone()].map(Tensor::into_dispatch);
            if let Some(y) = sum(inputs) {
                assert_eq!(read(y.clone()), [4.0, 6.0]);
                let gradients = (y * line([5.0, 6.0], &device)).sum().backward();
                assert_eq!(read(x.grad(&gradients).unwrap()), [5.0, 6.0]);
                assert!(constant.grad(&gradients).is_none());
            }
        }
    }

    #[test]
    fn other_types_and_mixed_contexts_are_handed_back() {
        let x = line([1.0, 2.0], &Device::flex());
        let wide = x.clone().cast(DType::F64).into_dispatch();
        assert!(apply(Sum, [wide.clone(), wide]).is_err());
        let [graph, _] = graphs();
        let tracked = line([1.0, 2.0], &graph).into_dispatch();
        assert!(apply(Sum, [x.into_dispatch(), tracked]).is_err());
    }
}
