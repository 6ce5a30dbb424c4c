//! Times the operations of a residual network on batches of 16, ours as `operation/layer/ops` and Burn's as
//! `operation/layer/burn`: values alone, and values with all gradients.
//!
//! `cargo bench --features criterion --bench convolution`

use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Distribution, Tensor, activation, module};
use criterion::{BenchmarkId, Criterion};
use peft_ops::{FixedNorm, batch_norm, batch_norm_train, conv2d, conv2d_norm, max_pool2d};

const BATCH: usize = 16;

/// A convolution of ResNet-50 on images of 224 pixels.
struct Layer {
    name: &'static str,
    /// Input and output channels.
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
}

const fn layer(
    name: &'static str,
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    stride: usize,
) -> Layer {
    Layer {
        name,
        channels,
        size,
        kernel,
        stride,
    }
}

const LAYERS: [Layer; 9] = [
    layer("stem", [3, 64], 224, 7, 2),
    layer("layer1-1x1", [256, 64], 56, 1, 1),
    layer("layer1-3x3", [64, 64], 56, 3, 1),
    layer("layer2-3x3-halving", [128, 128], 56, 3, 2),
    layer("layer2-shortcut", [256, 512], 56, 1, 2),
    layer("layer3-1x1", [1024, 256], 14, 1, 1),
    layer("layer3-3x3", [256, 256], 14, 3, 1),
    layer("layer4-1x1", [512, 2048], 7, 1, 1),
    layer("layer4-3x3", [512, 512], 7, 3, 1),
];

/// The inputs of an operation.
struct Inputs {
    x: Tensor<4>,
    weight: Tensor<4>,
    residual: Tensor<4>,
    norm: FixedNorm,
    options: ConvOptions<2>,
}

impl Layer {
    fn inputs(&self, device: &Device) -> Inputs {
        let random = |shape: [usize; 4]| Tensor::random(shape, Distribution::Default, device);
        let [inputs, outputs] = self.channels;
        let grid = self.size.div_ceil(self.stride);
        let padding = [self.kernel / 2; 2];
        let vector = || Tensor::random([outputs], Distribution::Uniform(0.5, 1.5), device);
        Inputs {
            x: random([BATCH, inputs, self.size, self.size]),
            weight: random([outputs, inputs, self.kernel, self.kernel]),
            residual: random([BATCH, outputs, grid, grid]),
            norm: FixedNorm {
                gamma: vector(),
                beta: vector(),
                mean: vector(),
                variance: vector(),
                epsilon: 1e-5,
            },
            options: ConvOptions::new([self.stride; 2], padding, [1, 1], 1),
        }
    }
}

type Operation = fn(Inputs) -> Tensor<4>;

/// Each operation by name, ours and Burn's.
const OPERATIONS: [(&str, [Operation; 2]); 4] = [
    (
        "conv2d",
        [
            |i| conv2d(i.x, i.weight, None, i.options),
            |i| module::conv2d(i.x, i.weight, None, i.options),
        ],
    ),
    (
        "conv2d-norm-relu",
        [
            |i| conv2d_norm(i.x, i.weight, i.options, i.norm, Some(i.residual), true),
            |i| {
                let y = fixed(module::conv2d(i.x, i.weight, None, i.options), i.norm);
                activation::relu(y + i.residual)
            },
        ],
    ),
    (
        "batch-norm-relu",
        [
            |i| batch_norm(i.residual, i.norm, None, true),
            |i| activation::relu(fixed(i.residual, i.norm)),
        ],
    ),
    (
        "batch-norm-train-relu",
        [
            |i| {
                let affine = [i.norm.gamma, i.norm.beta];
                batch_norm_train(i.residual, affine, 1e-5, None, true).output
            },
            |i| {
                let (gamma, beta) = (i.norm.gamma, i.norm.beta);
                activation::relu(module::batch_norm_train(i.residual, gamma, beta, 1e-5).output)
            },
        ],
    ),
];

fn fixed(x: Tensor<4>, norm: FixedNorm) -> Tensor<4> {
    let FixedNorm {
        gamma,
        beta,
        mean,
        variance,
        epsilon,
    } = norm;
    module::batch_norm(x, gamma, beta, mean, variance, epsilon)
}

/// Values only.
fn forward(inputs: Inputs, operation: Operation) {
    operation(inputs);
}

/// Values and gradients.
fn training(inputs: Inputs, operation: Operation) {
    let tracked = Inputs {
        x: inputs.x.require_grad(),
        weight: inputs.weight.require_grad(),
        residual: inputs.residual.require_grad(),
        ..inputs
    };
    operation(tracked).sum().backward();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let plain = Device::flex();
    let passes = [("forward", plain.clone()), ("training", plain.autodiff())];
    for (pass, device) in passes {
        let run = if pass == "forward" { forward } else { training };
        for (operation, sides) in OPERATIONS {
            let mut group = criterion.benchmark_group(format!("{pass}/{operation}"));
            for layer in LAYERS {
                for (side, operation) in ["ops", "burn"].into_iter().zip(sides) {
                    group.bench_function(BenchmarkId::new(layer.name, side), |bencher| {
                        bencher.iter_with_setup(
                            || layer.inputs(&device),
                            |inputs| run(inputs, operation),
                        );
                    });
                }
            }
            group.finish();
        }
        max_pool(&mut criterion, pass, &device, run);
    }
    criterion.final_summary();
}

/// The pooling after the stem.
fn max_pool(criterion: &mut Criterion, pass: &str, device: &Device, run: fn(Inputs, Operation)) {
    let stem = layer("stem", [1, 64], 112, 1, 1);
    let sides: [Operation; 2] = [
        |i| max_pool2d(i.residual, window()),
        |i| module::max_pool2d(i.residual, window()),
    ];
    let mut group = criterion.benchmark_group(format!("{pass}/max-pool"));
    for (side, operation) in ["ops", "burn"].into_iter().zip(sides) {
        group.bench_function(BenchmarkId::new(stem.name, side), |bencher| {
            bencher.iter_with_setup(|| stem.inputs(device), |inputs| run(inputs, operation));
        });
    }
    group.finish();
}

fn window() -> MaxPoolOptions<2> {
    let options = MaxPoolOptions::new([3, 3]);
    options.with_stride([2, 2]).with_padding([1, 1])
}
