//! Operations between an activation and the tensors of adapters: casting, broadcasting, scaling.

use std::ops::Range;

use burn::tensor::{DType, Tensor};

use crate::activation::Activation;

/// Casts a parameter to the element type of `x`: a layer computes in the type of its input.
///
/// # Shapes
/// Any shape; the result has the same.
pub fn like<const D: usize, const E: usize>(param: Tensor<D>, x: &Tensor<E>) -> Tensor<D> {
    let dtype: DType = x.dtype();
    if param.dtype() == dtype {
        param
    } else {
        param.cast(dtype)
    }
}

/// The way in which a value with a batch of 1 is combined with the activation at a boundary.
#[derive(Clone, Copy)]
pub(crate) enum Join {
    Sum,
    Product,
}

/// Combines a value with the image's own part of an activation.
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
            // A prompt has the shape of the boundary, which does not count extra tokens.
            Activation::Tokens(x.map_own(|x| tensors(x, v.x, how)))
        }
        (Activation::Features(x), Activation::Features(v)) => {
            Activation::Features(tensors(x, v, how))
        }
        (x, value) => panic!(
            "expected a value for a boundary of shape {:?}, got one of shape {:?}",
            x.shape(),
            value.shape()
        ),
    }
}

/// Multiplies each image by its factor.
///
/// # Shapes
/// `factors`: `[b]`.
pub(crate) fn per_image(x: Activation, factors: Tensor<1>) -> Activation {
    fn first<const D: usize>(x: Tensor<D>, factors: Tensor<1>) -> Tensor<D> {
        let mut shape = [1; D];
        shape[0] = x.dims()[0];
        let factors = like(factors.reshape(shape), &x);
        x * factors
    }
    match x {
        Activation::Map(x) => Activation::Map(first(x, factors)),
        Activation::Grid(x) => Activation::Grid(first(x, factors)),
        Activation::Tokens(x) => Activation::Tokens(x.map(|x| first(x, factors))),
        Activation::Features(x) => Activation::Features(first(x, factors)),
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
        // The fused operation needs the channels last.
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

/// Replaces some indices of `axis` by a function of them; all if `rows` is absent.
pub(crate) fn replace_rows<const D: usize>(
    x: Tensor<D>,
    axis: usize,
    rows: Option<Range<usize>>,
    f: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let Some(Range { start, end }) = rows else {
        return f(x);
    };
    // The others pass through unchanged. Computing something neutral for them would cost a pass over
    // all of them.
    let all = x.dims()[axis];
    let mut parts = Vec::with_capacity(3);
    if start > 0 {
        parts.push(x.clone().narrow(axis, 0, start));
    }
    parts.push(f(x.clone().narrow(axis, start, end - start)));
    if end < all {
        parts.push(x.narrow(axis, end, all - end));
    }
    Tensor::cat(parts, axis)
}
