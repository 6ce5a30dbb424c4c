//! Operations on a device against their formulas in `f64` on the CPU: values, and the gradients of all
//! inputs.

use burn::tensor::activation::{log_softmax, relu, sigmoid};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData, module};

/// How far an operation is off on a device.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// The operation.
    pub operation: &'static str,
    /// The type of its inputs.
    pub dtype: DType,
    /// The largest error of the value or of a gradient, relative to the largest value of that tensor. NaN if
    /// something is not finite.
    pub error: f64,
    /// The largest error that is allowed.
    pub allowed: f64,
}

impl Check {
    /// Whether the error is allowed.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }
}

/// Runs the operations whose name is `wanted` on `device`, one at each step of the iterator. They run in
/// `f32`, and on devices that have it, except the CPU, in `bf16` too: the kernels for the CPU take only
/// `f32`.
///
/// # Panics
/// If the device cannot compile or run a kernel.
pub fn check<'a>(
    device: &'a Device,
    wanted: impl Fn(&str) -> bool + 'a,
) -> impl Iterator<Item = Check> + 'a {
    let half = *device != Device::flex() && device.supports_dtype(DType::BF16);
    let types = if half {
        vec![DType::F32, DType::BF16]
    } else {
        vec![DType::F32]
    };
    let operations = OPERATIONS
        .iter()
        .filter(move |operation| wanted(operation.name));
    operations.flat_map(move |operation| {
        let check = move |dtype| operation.check(operation.run, device, dtype);
        types.clone().into_iter().map(check)
    })
}

/// From the input and the parameters to the output.
pub(crate) type Function = fn(Tensor<3>, &[Tensor<1>]) -> Tensor<3>;

/// An operation on small sizes.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    pub(crate) run: Function,
    pub(crate) plain: Function,
    /// Whether it multiplies matrices, for which devices use fewer bits.
    pub(crate) multiplies: bool,
    pub(crate) input: [usize; 3],
    pub(crate) output: [usize; 3],
    pub(crate) parameters: &'static [usize],
}

const HEADS: usize = 3;
const WINDOWS: usize = 2;

/// The maps of the convolutions, and those that they write.
const MAP: [usize; 2] = [9, 7];
const STRIDED: usize = 5 * 4;

/// Five of seven tokens are rotated, in heads of eight channels.
fn turn() -> crate::Rotation {
    let angles: Vec<f64> = (0..5 * 4).map(|i| 0.37 * f64::from(i)).collect();
    crate::Rotation::new(crate::Pairs::Halves, 1, 4, &angles)
}

/// A 3 x 3 convolution of stride 2 with `outputs` channels.
fn convolution(
    conv: fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, ConvOptions<2>) -> Tensor<4>,
    [outputs, groups]: [usize; 2],
    x: Tensor<3>,
    weight: Tensor<1>,
) -> Tensor<3> {
    let [images, inputs, _] = x.dims();
    let x = x.reshape([images, inputs, MAP[0], MAP[1]]);
    let weight = weight.reshape([outputs, inputs / groups, 3, 3]);
    let options = ConvOptions::new([2, 2], [1, 1], [1, 1], groups);
    conv(x, weight, None, options).flatten(2, 3)
}

/// A convolution as an operation.
macro_rules! convolution {
    ($name:literal, inputs: $inputs:literal, outputs: $outputs:literal, groups: $groups:literal) => {
        Operation {
            name: $name,
            run: |x, p| convolution(crate::conv2d, [$outputs, $groups], x, p[0].clone()),
            plain: |x, p| convolution(module::conv2d, [$outputs, $groups], x, p[0].clone()),
            multiplies: true,
            input: [2, $inputs, MAP[0] * MAP[1]],
            output: [2, $outputs, STRIDED],
            parameters: &[$outputs * $inputs / $groups * 9],
        }
    };
}

// Devices compute the gradient of a convolution's weights in tiles of 8 or 16 outputs and as many of the 9 taps of
// all inputs: 16 of either fill their tiles, 9 and 7 leave ragged edges.
pub(crate) static OPERATIONS: [Operation; 19] = [
    convolution!("conv2d", inputs: 16, outputs: 16, groups: 1),
    convolution!("conv2d_ragged", inputs: 7, outputs: 9, groups: 1),
    convolution!("conv2d_ragged_outputs", inputs: 16, outputs: 9, groups: 1),
    convolution!("conv2d_ragged_inputs", inputs: 7, outputs: 16, groups: 1),
    convolution!("conv2d_grouped", inputs: 10, outputs: 6, groups: 2),
    convolution!("conv2d_depthwise", inputs: 8, outputs: 8, groups: 8),
    Operation {
        name: "depthwise_conv2d",
        run: |x, p| {
            let x = x.reshape([2, MAP[0], MAP[1], 8]);
            let weight = p[0].clone().reshape([8, 1, 3, 3]);
            crate::depthwise_conv2d(x, weight, Some(p[1].clone()), [1, 1]).flatten(1, 2)
        },
        plain: |x, p| {
            let x = x.reshape([2, MAP[0], MAP[1], 8]).permute([0, 3, 1, 2]);
            let weight = p[0].clone().reshape([8, 1, 3, 3]);
            let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 8);
            let y = module::conv2d(x, weight, Some(p[1].clone()), options);
            y.permute([0, 2, 3, 1]).flatten(1, 2)
        },
        multiplies: true,
        input: [2, MAP[0] * MAP[1], 8],
        output: [2, MAP[0] * MAP[1], 8],
        parameters: &[8 * 9, 8],
    },
    Operation {
        name: "gelu",
        run: |x, _| crate::gelu(x),
        plain: |x, _| x.clone() * ((x / std::f64::consts::SQRT_2).erf() + 1.0) * 0.5,
        multiplies: false,
        input: [3, 7, 33],
        output: [3, 7, 33],
        parameters: &[],
    },
    Operation {
        name: "gelu_with_bias",
        run: |x, p| crate::gelu_with_bias(x, p[0].clone(), crate::Gelu::Exact),
        plain: |x, p| {
            let x = x + p[0].clone().unsqueeze();
            x.clone() * ((x / std::f64::consts::SQRT_2).erf() + 1.0) * 0.5
        },
        multiplies: false,
        input: [3, 7, 33],
        output: [3, 7, 33],
        parameters: &[33],
    },
    Operation {
        name: "gelu_tanh",
        run: |x, _| crate::gelu_tanh(x),
        plain: |x, _| {
            let inner = x.clone() + x.clone().powi_scalar(3) * 0.044_715;
            let scale = (2.0 / std::f64::consts::PI).sqrt();
            x * ((inner * scale).tanh() + 1.0) * 0.5
        },
        multiplies: false,
        input: [3, 7, 33],
        output: [3, 7, 33],
        parameters: &[],
    },
    Operation {
        name: "swiglu",
        run: |x, _| crate::swiglu_packed(x),
        plain: |x, _| {
            let (gate, up) = (x.clone().narrow(2, 0, 17), x.narrow(2, 17, 17));
            gate.clone() * sigmoid(gate) * up
        },
        multiplies: false,
        input: [3, 7, 34],
        output: [3, 7, 17],
        parameters: &[],
    },
    Operation {
        name: "rotate",
        run: |x, _| crate::rotate(x, HEADS, &turn()),
        plain: |x, _| crate::rotary::composed(x, HEADS, &turn()),
        multiplies: false,
        input: [2, 7, 3 * HEADS * 8],
        output: [2, 7, 3 * HEADS * 8],
        parameters: &[],
    },
    Operation {
        name: "quick_gelu",
        run: |x, _| crate::quick_gelu(x),
        plain: |x, _| x.clone() * sigmoid(x * 1.702),
        multiplies: false,
        input: [3, 7, 33],
        output: [3, 7, 33],
        parameters: &[],
    },
    Operation {
        name: "layer_norm",
        run: |x, p| crate::layer_norm(x, p[0].clone(), p[1].clone(), 1e-6),
        plain: |x, p| {
            let centred = x.clone() - x.mean_dim(2);
            let variance = (centred.clone() * centred.clone()).mean_dim(2);
            let normed = centred / (variance + 1e-6).sqrt();
            normed * p[0].clone().unsqueeze() + p[1].clone().unsqueeze()
        },
        multiplies: false,
        input: [3, 5, 70],
        output: [3, 5, 70],
        parameters: &[70, 70],
    },
    Operation {
        name: "global_response_norm",
        run: |x, p| {
            let x = x.reshape([2, MAP[0], MAP[1], 8]);
            let y = crate::global_response_norm(x, p[0].clone(), p[1].clone(), 1e-6);
            y.flatten(1, 2)
        },
        plain: |x, p| {
            let lengths = (x.clone() * x.clone()).sum_dim(1).sqrt();
            let normed = lengths.clone() / (lengths.mean_dim(2) + 1e-6);
            x.clone() + x * normed * p[0].clone().unsqueeze() + p[1].clone().unsqueeze()
        },
        multiplies: false,
        input: [2, MAP[0] * MAP[1], 8],
        output: [2, MAP[0] * MAP[1], 8],
        parameters: &[8, 8],
    },
    Operation {
        name: "batch_norm",
        run: |x, p| {
            let (norm, residual) = fixed_norm(p);
            let x = x.reshape([2, 8, MAP[0], MAP[1]]);
            crate::batch_norm(x, norm, Some(residual), true).flatten(2, 3)
        },
        plain: |x, p| {
            let (norm, residual) = fixed_norm(p);
            relu(norm_of(x, norm) + residual.flatten(2, 3))
        },
        multiplies: false,
        input: [2, 8, MAP[0] * MAP[1]],
        output: [2, 8, MAP[0] * MAP[1]],
        parameters: &[8, 8, 2 * 8 * MAP[0] * MAP[1]],
    },
    Operation {
        name: "cross_entropy",
        run: |x, _| {
            let (logits, targets) = labelled(x);
            crate::cross_entropy(logits, targets).reshape([1, 1, 1])
        },
        plain: |x, _| {
            let (logits, targets) = labelled(x);
            let loss = -(log_softmax(logits, 1) * targets).sum_dim(1).mean();
            loss.reshape([1, 1, 1])
        },
        multiplies: false,
        input: [1, 9, 21],
        output: [1, 1, 1],
        parameters: &[],
    },
    Operation {
        name: "attention",
        run: |x, _| crate::attention(x, HEADS),
        plain: |x, _| crate::attention::composed(x, HEADS, None),
        multiplies: true,
        input: [2, 37, 3 * HEADS * 16],
        output: [2, 37, HEADS * 16],
        parameters: &[],
    },
    Operation {
        name: "attention_with_bias",
        run: |x, p| crate::attention_with_bias(x, bias(p)),
        plain: |x, p| crate::attention::composed(x, HEADS, Some(bias(p))),
        multiplies: true,
        input: [2 * WINDOWS, 9, 3 * HEADS * 8],
        output: [2 * WINDOWS, 9, HEADS * 8],
        parameters: &[WINDOWS * HEADS * 9 * 9],
    },
];

/// A norm of as many channels as gamma has, and a residual.
pub(crate) fn fixed_norm(parameters: &[Tensor<1>]) -> (crate::FixedNorm, Tensor<4>) {
    let (gamma, beta) = (parameters[0].clone(), parameters[1].clone());
    let channels = gamma.dims()[0];
    let [mean, variance] = [5, 6].map(|seed| {
        let values = Tensor::<1>::from_data(noisy([channels], seed), &gamma.device());
        values.cast(gamma.dtype())
    });
    let norm = crate::FixedNorm {
        gamma,
        beta,
        mean,
        variance: variance.abs() + 0.5,
        epsilon: 1e-5,
    };
    let residual = parameters[2]
        .clone()
        .reshape([2, channels as i32, MAP[0] as i32, -1]);
    (norm, residual)
}

/// The norm of maps `[b, c, area]`.
pub(crate) fn norm_of(x: Tensor<3>, norm: crate::FixedNorm) -> Tensor<3> {
    let of_channel = |values: Tensor<1>| {
        let channels = values.dims()[0];
        values.reshape([1, channels, 1])
    };
    let normed = (x - of_channel(norm.mean)) / (of_channel(norm.variance) + norm.epsilon).sqrt();
    normed * of_channel(norm.gamma) + of_channel(norm.beta)
}

/// Rows of logits, and targets that are positive, as probabilities are: with both signs, the terms of the loss would
/// cancel.
pub(crate) fn labelled(x: Tensor<3>) -> (Tensor<2>, Tensor<2>) {
    let [b, n, classes] = x.dims();
    let targets = Tensor::<2>::from_data(noisy([b * n, classes], 7), &x.device());
    let targets = targets.cast(x.dtype()).abs();
    (x.reshape([b * n, classes]), targets)
}

fn bias(parameters: &[Tensor<1>]) -> Tensor<4> {
    parameters[0].clone().reshape([WINDOWS, HEADS, 9, 9])
}

impl Operation {
    /// Compares `run` on `device` in `dtype` with the plain formula, on the same rounded inputs.
    pub(crate) fn check(&self, run: Function, device: &Device, dtype: DType) -> Check {
        let round = |data: TensorData| data.convert_dtype(dtype).convert::<f32>();
        let x = round(noisy(self.input, 1));
        let weights = round(noisy(self.output, 2));
        let parameters = self.parameters.iter().enumerate();
        let parameters = parameters.map(|(i, count)| round(noisy([*count], 3 + i as u32)));
        let parameters: Vec<_> = parameters.collect();
        let all =
            |f, device: &Device, dtype| everything(f, [&x, &weights], &parameters, device, dtype);
        let got = all(run, device, dtype);
        let expected = all(self.plain, &Device::flex(), DType::F64);
        let errors = got
            .iter()
            .zip(&expected)
            .map(|(got, expected)| error(got, expected));
        // Tensor cores multiply in TF32, with 10 bits of mantissa, as many as f16 has; bf16 has 7.
        let allowed = match (dtype, self.multiplies && *device != Device::flex()) {
            (DType::BF16, _) => 2e-2,
            (DType::F16, _) => 2.5e-3,
            (_, true) => 2e-3,
            (_, false) => 1e-5,
        };
        Check {
            operation: self.name,
            dtype,
            error: errors.fold(0.0, worse),
            allowed,
        }
    }
}

/// Deterministic values in about [-2, 2].
pub(crate) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 4.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

fn noisy<const D: usize>(shape: [usize; D], seed: u32) -> TensorData {
    TensorData::new(noise(shape.iter().product(), seed), shape)
}

/// The value of `f`, and the gradients of the sum of its values times `weights`.
fn everything(
    f: Function,
    [x, weights]: [&TensorData; 2],
    parameters: &[TensorData],
    device: &Device,
    dtype: DType,
) -> Vec<Vec<f64>> {
    let device = device.clone().autodiff();
    let x = Tensor::<3>::from_data(x.clone(), &device)
        .cast(dtype)
        .require_grad();
    let parameter = |data: &TensorData| {
        let parameter = Tensor::<1>::from_data(data.clone(), &device);
        parameter.cast(dtype).require_grad()
    };
    let parameters: Vec<_> = parameters.iter().map(parameter).collect();
    let y = f(x.clone(), &parameters);
    let weights = Tensor::<3>::from_data(weights.clone(), &device).cast(dtype);
    let gradients = (y.clone() * weights).sum().backward();
    let mut tensors = vec![
        Some(y.into_data()),
        x.grad(&gradients).map(Tensor::into_data),
    ];
    tensors.extend(
        parameters
            .iter()
            .map(|p| p.grad(&gradients).map(Tensor::into_data)),
    );
    let wide = |data: Option<TensorData>| {
        data.map_or_else(Vec::new, |data| {
            data.convert::<f64>().iter::<f64>().collect()
        })
    };
    tensors.into_iter().map(wide).collect()
}

/// The largest difference over the largest expected value; NaN if a value is missing.
fn error(got: &[f64], expected: &[f64]) -> f64 {
    if got.len() != expected.len() {
        return f64::NAN;
    }
    let largest = expected
        .iter()
        .fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, worse) / largest
}

/// The larger of the two; NaN if either is NaN.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_passes() {
        let device = Device::flex();
        let checks: Vec<_> = check(&device, |_| true).collect();
        assert_eq!(checks.len(), OPERATIONS.len());
        assert_eq!(check(&device, |name| name == "gelu").count(), 1);
        for check in checks {
            assert!(check.passed(), "{check:?}");
        }
    }

    #[test]
    fn missing_and_non_finite_values_do_not_pass() {
        assert!(error(&[], &[1.0]).is_nan());
        assert!(error(&[f64::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert_eq!(error(&[1.0, 3.0], &[1.0, 2.0]), 0.5);
        let passed = |error| {
            let check = Check {
                operation: "gelu",
                dtype: DType::F32,
                error,
                allowed: 1e-5,
            };
            check.passed()
        };
        assert!(passed(1e-5) && !passed(2e-5) && !passed(f64::NAN));
    }
}
