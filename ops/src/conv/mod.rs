//! Two-dimensional convolution, alone and with the frozen batch normalisation, the residual sum and
//! the ReLU that follow it in one pass over its output.
//!
//! A convolution is the product of its weights with the matrix of all windows over the input. That
//! matrix is never in memory: each task packs the block of it that it is about to read, which stays in
//! the caches. Maps stay in Burn's layout `[b, c, h, w]`.

mod finish;
mod kernel;
mod left;
mod product;
mod shape;
mod weight_gradient;
mod windows;
mod winograd;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, module};

use self::finish::Finish;
use self::shape::ConvShape;
use crate::batch_norm::{Constants, FixedNorm, batch_norm};
use crate::bridge::{apply, or_absent};
use crate::composed;
use crate::operation::{Operation, tensor, values};
use crate::relu::mask;

/// Burn's `conv2d`. A gradient that nobody wants is not computed.
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
    let op = Conv {
        shape,
        bias: bias.is_some(),
    };
    let has_bias = op.bias;
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let bias = or_absent(bias, &x);
    match apply(op, [x, weight, bias]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([x, weight, bias]) => {
            let bias = has_bias.then(|| Tensor::from_dispatch(bias));
            match composed::conv2d([x, weight], &options) {
                Ok(y) => match bias {
                    Some(bias) => y + bias.reshape([1, -1, 1, 1]),
                    None => y,
                },
                Err([x, weight]) => {
                    let [x, weight] = [x, weight].map(Tensor::from_dispatch);
                    module::conv2d(x, weight, bias, options)
                }
            }
        }
    }
}

/// `relu(norm(conv2d(x)) + residual)`, with the sum and the ReLU if they are asked for. The norm is a
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
        match residual {
            Some(residual) => y + residual,
            None => y,
        }
    })
}

/// An input, a weight and a residual that are handed back.
type Refused = (Tensor<4>, Tensor<4>, Option<Tensor<4>>);

/// A convolution and what follows it as one operation.
///
/// # Errors
/// Hands the tensors back where kernels do not run, or the shapes do not fit together.
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
    let has_residual = residual.is_some();
    let op = ConvThen {
        shape,
        norm: norm.map(Arc::new),
        residual: has_residual,
        relu,
    };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let residual = or_absent(residual, &x);
    let y = apply(op, [x, weight, residual]).map_err(|[x, weight, residual]| {
        let [x, weight] = [x, weight].map(Tensor::from_dispatch);
        (
            x,
            weight,
            has_residual.then(|| Tensor::from_dispatch(residual)),
        )
    })?;
    Ok(Tensor::from_dispatch(y))
}

/// The input where the weight needs a gradient, the weight where the input does.
type Operands = (Option<FlexTensor>, Option<FlexTensor>);

/// Those of a product's factors that backward needs.
fn kept(x: FlexTensor, weight: FlexTensor, [x_wanted, weight_wanted]: [bool; 2]) -> Operands {
    (weight_wanted.then_some(x), x_wanted.then_some(weight))
}

#[derive(Clone, Debug)]
struct Conv {
    shape: ConvShape,
    bias: bool,
}

/// The input, the weight and the bias, which may be absent.
impl Operation<FlexTensor, 3> for Conv {
    type Saved = Operands;

    fn forward(
        &self,
        [x, weight, bias]: [FlexTensor; 3],
        [x_wanted, weight_wanted, _]: [bool; 3],
    ) -> (FlexTensor, Operands) {
        let finish = Finish {
            shift: self.bias.then(|| values(&bias)),
            ..Finish::default()
        };
        let y = self.shape.forward(values(&x), values(&weight), finish);
        let y = tensor(y, self.shape.output());
        (y, kept(x, weight, [x_wanted, weight_wanted]))
    }

    fn backward(
        &self,
        (x, weight): Operands,
        gradient: FlexTensor,
        [.., bias_wanted]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let gradient = values(&gradient);
        let of_x = weight.map(|weight| {
            let dx = self.shape.input_gradient(values(&weight), None, gradient);
            tensor(dx, self.shape.input())
        });
        let of_weight = x.map(|x| {
            let dw = self.shape.weight_gradient(values(&x), gradient);
            tensor(dw, self.shape.weight())
        });
        let of_bias = bias_wanted.then(|| {
            let sums = self.shape.channel_sums(gradient);
            let channels = sums.len();
            tensor(sums, [channels])
        });
        [of_x, of_weight, of_bias]
    }
}

/// A convolution and what follows it.
#[derive(Clone, Debug)]
struct ConvThen {
    shape: ConvShape,
    norm: Option<Arc<Constants>>,
    residual: bool,
    relu: bool,
}

impl ConvThen {
    fn scale(&self) -> Option<&[f32]> {
        self.norm.as_ref().map(|norm| &norm.scale[..])
    }
}

/// The input, the weight and the residual, which may be absent.
impl Operation<FlexTensor, 3> for ConvThen {
    /// The factors, and the output where it is that of a ReLU.
    type Saved = (Operands, Option<FlexTensor>);

    fn forward(
        &self,
        [x, weight, residual]: [FlexTensor; 3],
        [x_wanted, weight_wanted, _]: [bool; 3],
    ) -> (FlexTensor, Self::Saved) {
        let finish = Finish {
            mean: self.norm.as_ref().map(|norm| &norm.mean[..]),
            scale: self.scale(),
            shift: self.norm.as_ref().map(|norm| &norm.beta[..]),
            residual: self.residual.then(|| values(&residual)),
            relu: self.relu,
        };
        let y = self.shape.forward(values(&x), values(&weight), finish);
        let y = tensor(y, self.shape.output());
        let output = self.relu.then(|| y.clone());
        (y, (kept(x, weight, [x_wanted, weight_wanted]), output))
    }

    fn backward(
        &self,
        ((x, weight), output): Self::Saved,
        gradient: FlexTensor,
        [.., residual_wanted]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        // The gradient of the sum before the ReLU.
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
            // The norm's scale belongs to an output channel, which is a row of the weight: scaling the small
            // result is cheaper than scaling the maps before the product.
            let mut dw = self.shape.weight_gradient(values(&x), dz);
            let scale = self.scale().unwrap_or_default();
            let row = (dw.len() / scale.len().max(1)).max(1);
            for (row, scale) in dw.chunks_mut(row).zip(scale) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
            tensor(dw, self.shape.weight())
        });
        [of_x, of_weight, residual_wanted.then_some(gradient)]
    }
}
