//! Two-dimensional convolution, alone and with the frozen batch normalisation, the residual sum and
//! the ReLU that follow it in one pass over its output.
//!
//! Maps stay in Burn's layout `[b, c, h, w]`. The product reads windows that are packed block by
//! block in the caches, so that no matrix of them is ever in memory.

mod kernel;
mod product;
mod shape;
mod weight_gradient;
mod windows;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, module};

use self::product::Finish;
use self::shape::ConvShape;
use crate::batch_norm::{Constants, FixedNorm, batch_norm};
use crate::bridge::{CpuOp, apply, tensor, values};
use crate::relu::mask;

/// Burn's `conv2d`. The product that gives a gradient nobody asks for is not computed.
///
/// # Shapes
/// `x [b, c, h, w]`, `weight [o, c / groups, kh, kw]`, `bias [o]` `-> [b, o, h', w']`.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let Some(shape) = ConvShape::new(x.dims(), weight.dims(), &options) else {
        return module::conv2d(x, weight, bias, options);
    };
    let (op, x, weight) = (Conv { shape }, x.into_dispatch(), weight.into_dispatch());
    let done = match bias {
        None => apply(op, [x, weight]).map_err(|[x, weight]| (x, weight, None)),
        Some(bias) => apply(op, [x, weight, bias.into_dispatch()])
            .map_err(|[x, weight, bias]| (x, weight, Some(Tensor::from_dispatch(bias)))),
    };
    match done {
        Ok(y) => Tensor::from_dispatch(y),
        Err((x, weight, bias)) => {
            let [x, weight] = [x, weight].map(Tensor::from_dispatch);
            module::conv2d(x, weight, bias, options)
        }
    }
}

/// `relu(norm(conv2d(x)) + residual)`, the sum and the ReLU where they are asked for. The norm is a
/// constant: no gradient reaches its parameters.
///
/// # Shapes
/// As [`conv2d`]; `residual [b, o, h', w']`.
pub fn conv2d_norm(
    x: Tensor<4>,
    weight: Tensor<4>,
    options: ConvOptions<2>,
    norm: FixedNorm,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Tensor<4> {
    let constants = norm.constants();
    let done = match constants.filter(|norm| norm.scale.len() == weight.dims()[0]) {
        Some(constants) => fused(x, weight, &options, Some(constants), residual, relu),
        None => Err((x, weight, residual)),
    };
    done.unwrap_or_else(|(x, weight, residual)| {
        batch_norm(conv2d(x, weight, None, options), norm, residual, relu)
    })
}

/// `conv2d(x) + residual`.
///
/// # Shapes
/// As [`conv2d`]; `residual [b, o, h', w']`.
pub fn conv2d_residual(
    x: Tensor<4>,
    weight: Tensor<4>,
    residual: Tensor<4>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let done = fused(x, weight, &options, None, Some(residual), false);
    done.unwrap_or_else(|(x, weight, residual)| {
        let y = conv2d(x, weight, None, options);
        residual.into_iter().fold(y, |y, residual| y + residual)
    })
}

/// An input, a weight and a residual that are handed back.
type Refused = (Tensor<4>, Tensor<4>, Option<Tensor<4>>);

/// A convolution and what follows it as one operation, where that can be.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
fn fused(
    x: Tensor<4>,
    weight: Tensor<4>,
    options: &ConvOptions<2>,
    norm: Option<Constants>,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Result<Tensor<4>, Refused> {
    let Some(shape) = ConvShape::new(x.dims(), weight.dims(), options) else {
        return Err((x, weight, residual));
    };
    if residual
        .as_ref()
        .is_some_and(|residual| residual.dims() != shape.output())
    {
        return Err((x, weight, residual));
    }
    let norm = norm.map(Arc::new);
    let op = ConvThen { shape, norm, relu };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let done = match residual {
        None => apply(op, [x, weight]).map_err(|[x, weight]| (x, weight, None)),
        Some(residual) => apply(op, [x, weight, residual.into_dispatch()])
            .map_err(|[x, weight, residual]| (x, weight, Some(Tensor::from_dispatch(residual)))),
    };
    let refused = |(x, weight, residual)| {
        (
            Tensor::from_dispatch(x),
            Tensor::from_dispatch(weight),
            residual,
        )
    };
    done.map(Tensor::from_dispatch).map_err(refused)
}

/// The input where the weight needs a gradient, the weight where the input does.
type Operands = (Option<FlexTensor>, Option<FlexTensor>);

/// What of a product's factors backward needs.
fn kept(x: FlexTensor, weight: FlexTensor, [of_x, of_weight]: [bool; 2]) -> Operands {
    (of_weight.then_some(x), of_x.then_some(weight))
}

#[derive(Clone, Debug)]
struct Conv {
    shape: ConvShape,
}

impl Conv {
    fn forward(&self, [x, weight]: [&FlexTensor; 2], shift: Option<&[f32]>) -> FlexTensor {
        let finish = Finish {
            shift,
            ..Finish::default()
        };
        let y = self.shape.forward(values(x), values(weight), finish);
        tensor(y, self.shape.output())
    }

    fn backward(&self, (x, weight): Operands, gradient: &[f32]) -> [Option<FlexTensor>; 2] {
        let of_x = weight.map(|weight| {
            let dx = self.shape.input_gradient(values(&weight), None, gradient);
            tensor(dx, self.shape.input())
        });
        let of_weight = x.map(|x| {
            let dw = self.shape.weight_gradient(values(&x), gradient);
            tensor(dw, self.shape.weight())
        });
        [of_x, of_weight]
    }
}

impl CpuOp<2> for Conv {
    type Saved = Operands;

    fn forward(
        &self,
        [x, weight]: [FlexTensor; 2],
        needs: [bool; 2],
    ) -> (FlexTensor, Option<Operands>) {
        let y = self.forward([&x, &weight], None);
        (y, Some(kept(x, weight, needs)))
    }

    fn backward(
        &self,
        saved: Operands,
        gradient: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        self.backward(saved, values(&gradient))
    }
}

impl CpuOp<3> for Conv {
    type Saved = Operands;

    fn forward(
        &self,
        [x, weight, bias]: [FlexTensor; 3],
        [of_x, of_weight, _]: [bool; 3],
    ) -> (FlexTensor, Option<Operands>) {
        let y = self.forward([&x, &weight], Some(values(&bias)));
        (y, Some(kept(x, weight, [of_x, of_weight])))
    }

    fn backward(
        &self,
        saved: Operands,
        gradient: FlexTensor,
        [.., of_bias]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let gradient = values(&gradient);
        let [dx, dw] = self.backward(saved, gradient);
        let db = of_bias.then(|| {
            let sums = self.shape.channel_sums(gradient);
            let channels = sums.len();
            tensor(sums, [channels])
        });
        [dx, dw, db]
    }
}

/// A convolution and what follows it.
#[derive(Clone, Debug)]
struct ConvThen {
    shape: ConvShape,
    norm: Option<Arc<Constants>>,
    relu: bool,
}

/// What backward needs of a convolution and what follows: the factors, and the output where it is a
/// ReLU's.
type SavedThen = (Operands, Option<FlexTensor>);

impl ConvThen {
    fn scale(&self) -> Option<&[f32]> {
        self.norm.as_ref().map(|norm| &norm.scale[..])
    }

    fn forward(
        &self,
        x: FlexTensor,
        weight: FlexTensor,
        residual: Option<&[f32]>,
        needs: [bool; 2],
    ) -> (FlexTensor, Option<SavedThen>) {
        let finish = Finish {
            mean: self.norm.as_ref().map(|norm| &norm.mean[..]),
            scale: self.scale(),
            shift: self.norm.as_ref().map(|norm| &norm.beta[..]),
            residual,
            relu: self.relu,
        };
        let y = self.shape.forward(values(&x), values(&weight), finish);
        let y = tensor(y, self.shape.output());
        let output = self.relu.then(|| y.clone());
        (y, Some((kept(x, weight, needs), output)))
    }

    /// The gradients of the factors and that of the sum before the ReLU.
    fn backward(
        &self,
        ((x, weight), output): SavedThen,
        gradient: FlexTensor,
    ) -> ([Option<FlexTensor>; 2], FlexTensor) {
        let gradient = match output {
            Some(output) => mask(gradient, values(&output)),
            None => gradient,
        };
        let dz = values(&gradient);
        let of_x = weight.map(|weight| {
            let dx = self.shape.input_gradient(values(&weight), self.scale(), dz);
            tensor(dx, self.shape.input())
        });
        let of_weight = x.map(|x| {
            let mut dw = self.shape.weight_gradient(values(&x), dz);
            let scale = self.scale().unwrap_or_default();
            let row = (dw.len() / scale.len().max(1)).max(1);
            for (row, scale) in dw.chunks_mut(row).zip(scale) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
            tensor(dw, self.shape.weight())
        });
        ([of_x, of_weight], gradient)
    }
}

impl CpuOp<2> for ConvThen {
    type Saved = SavedThen;

    fn forward(
        &self,
        [x, weight]: [FlexTensor; 2],
        needs: [bool; 2],
    ) -> (FlexTensor, Option<SavedThen>) {
        self.forward(x, weight, None, needs)
    }

    fn backward(
        &self,
        saved: SavedThen,
        gradient: FlexTensor,
        _: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        self.backward(saved, gradient).0
    }
}

impl CpuOp<3> for ConvThen {
    type Saved = SavedThen;

    fn forward(
        &self,
        [x, weight, residual]: [FlexTensor; 3],
        [of_x, of_weight, _]: [bool; 3],
    ) -> (FlexTensor, Option<SavedThen>) {
        self.forward(x, weight, Some(values(&residual)), [of_x, of_weight])
    }

    fn backward(
        &self,
        saved: SavedThen,
        gradient: FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let ([dx, dw], dresidual) = self.backward(saved, gradient);
        [dx, dw, Some(dresidual)]
    }
}
