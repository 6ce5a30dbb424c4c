//! Tensors that meet an activation: in its element type, channel by channel.

use burn::tensor::{DType, Tensor};

use crate::activation::Activation;

/// A parameter in the element type of the activation that it meets: a layer computes in its
/// input's type.
pub fn like<const D: usize, const E: usize>(param: Tensor<D>, x: &Tensor<E>) -> Tensor<D> {
    let dtype: DType = x.dtype();
    if param.dtype() == dtype {
        param
    } else {
        param.cast(dtype)
    }
}

/// How a value of batch 1 joins the activation at a boundary.
#[derive(Clone, Copy)]
pub(crate) enum Join {
    Sum,
    Product,
}

/// Joins a value to the image's own part of an activation.
pub(crate) fn join(x: Activation, value: Activation, how: Join) -> Activation {
    fn tensors<const D: usize>(x: Tensor<D>, value: Tensor<D>, how: Join) -> Tensor<D> {
        let value = like(value, &x);
        match how {
            Join::Sum => x + value,
            Join::Product => x * value,
        }
    }
    match (x, value) {
        (Activation::Map(x), Activation::Map(v)) => Activation::Map(tensors(x, v, how)),
        (Activation::Grid(x), Activation::Grid(v)) => Activation::Grid(tensors(x, v, how)),
        (Activation::Tokens(x), Activation::Tokens(v)) => {
            Activation::Tokens(x.map_own(|x| tensors(x, v.x, how)))
        }
        (Activation::Features(x), Activation::Features(v)) => {
            Activation::Features(tensors(x, v, how))
        }
        (x, value) => panic!(
            "a boundary of shape {:?} got a value of shape {:?}",
            x.shape(),
            value.shape()
        ),
    }
}

/// Per-channel scale and shift along `axis`.
pub(crate) fn scale_shift<const D: usize>(
    x: Tensor<D>,
    axis: usize,
    scale: Option<Tensor<1>>,
    shift: Option<Tensor<1>>,
) -> Tensor<D> {
    let (scale, shift) = match (scale, shift) {
        (Some(scale), Some(shift)) if axis == D - 1 => {
            return peft_ops::scale_shift(x.clone(), like(scale, &x), like(shift, &x));
        }
        other => other,
    };
    let channels = |v: Tensor<1>, x: &Tensor<D>| {
        let mut shape = [1; D];
        shape[axis] = v.dims()[0];
        like(v.reshape(shape), x)
    };
    let x = match scale {
        Some(scale) => {
            let scale = channels(scale, &x);
            x * scale
        }
        None => x,
    };
    match shift {
        Some(shift) => {
            let shift = channels(shift, &x);
            x + shift
        }
        None => x,
    }
}

pub(crate) fn scale_shift_activation(
    value: Activation,
    scale: Option<Tensor<1>>,
    shift: Option<Tensor<1>>,
) -> Activation {
    match value {
        Activation::Map(x) => Activation::Map(scale_shift(x, 1, scale, shift)),
        Activation::Grid(x) => Activation::Grid(scale_shift(x, 3, scale, shift)),
        Activation::Tokens(x) => Activation::Tokens(x.map(|x| scale_shift(x, 2, scale, shift))),
        Activation::Features(x) => Activation::Features(scale_shift(x, 1, scale, shift)),
    }
}
