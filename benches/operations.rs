//! Times the forward pass of an operation, and its forward and backward pass together, at the sizes of ViT-Ti/16 with 16
//! images. Ids are `operation/peft-ops/pass` and `operation/burn/pass`.
//!
//! `cargo bench --features criterion --bench operations`

mod common;

use burn::module::{Param, ParamId};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{gelu, log_softmax, relu, sigmoid, softmax};
use burn::tensor::module::{layer_norm, linear};
use burn::tensor::{Device, Tensor};
use criterion::{BatchSize, Criterion};
use peft_core::Init;
use peft_core::random::Distribution;
use peft_ops::Gelu;

const IMAGES: usize = 16;
const TOKENS: usize = 197;
const WIDTH: usize = 192;
const HIDDEN: usize = 768;
const HEADS: usize = 3;
const RANK: usize = 8;
const CLASSES: usize = 100;
const IMAGE_SIDE: usize = 224;
const PATCH: usize = 16;

/// An operation on random inputs: `[images, tokens, width]` and others.
struct Operation {
    name: &'static str,
    width: usize,
    /// Shapes of the other inputs.
    others: Vec<Vec<usize>>,
    ours: fn(Inputs) -> Tensor<3>,
    burns: fn(Inputs) -> Tensor<3>,
}

/// The tensors of one call.
struct Inputs {
    x: Tensor<3>,
    others: Vec<Tensor<1>>,
    shapes: Vec<Vec<usize>>,
}

impl Inputs {
    fn get<const D: usize>(&self, i: usize) -> Tensor<D> {
        let shape = std::array::from_fn::<usize, D, _>(|axis| self.shapes[i][axis]);
        self.others[i].clone().reshape(shape)
    }

    /// One row per token.
    fn logits(&self) -> Tensor<2> {
        self.x.clone().flatten(0, 1)
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for operation in operations() {
        let mut group = criterion.benchmark_group(operation.name);
        group.sample_size(20);
        for (by, run) in [("peft-ops", operation.ours), ("burn", operation.burns)] {
            let plain = operation.inputs(&Device::flex());
            group.bench_function(format!("{by}/forward"), |bencher| {
                bencher.iter(|| {
                    run(plain.tracked(false));
                    common::sync(&Device::flex());
                });
            });
            let tracked = operation.inputs(&Device::flex().autodiff());
            group.bench_function(format!("{by}/forward and backward"), |bencher| {
                bencher.iter(|| {
                    let gradients = run(tracked.tracked(true)).sum().backward();
                    common::sync(&Device::flex());
                    gradients
                });
            });
        }
        group.finish();
    }
    optimizers(&mut criterion);
    criterion.final_summary();
}

fn operations() -> Vec<Operation> {
    let operation = |name, width, others: &[&[usize]], ours, burns| Operation {
        name,
        width,
        others: others.iter().map(|shape| shape.to_vec()).collect(),
        ours,
        burns,
    };
    vec![
        operation("gelu", HIDDEN, &[], |i| peft_ops::gelu(i.x), |i| gelu(i.x)),
        operation(
            "quick-gelu",
            HIDDEN,
            &[],
            |i| peft_ops::quick_gelu(i.x),
            |i| i.x.clone() * sigmoid(i.x * 1.702),
        ),
        operation("relu", HIDDEN, &[], |i| peft_ops::relu(i.x), |i| relu(i.x)),
        operation(
            "layer-norm",
            WIDTH,
            &[&[WIDTH], &[WIDTH]],
            |i| peft_ops::layer_norm(i.x.clone(), i.get(0), i.get(1), 1e-6),
            |i| layer_norm(i.x.clone(), i.get(0), Some(i.get(1)), 1e-6),
        ),
        operation(
            "linear",
            WIDTH,
            &[&[HIDDEN, WIDTH], &[HIDDEN]],
            |i| peft_ops::linear(i.x.clone(), i.get(0), Some(i.get(1))),
            |i| burns_linear(i.x.clone(), i.get(0), Some(i.get(1))),
        ),
        operation(
            "linear-residual",
            WIDTH,
            &[&[HIDDEN, WIDTH], &[HIDDEN], &[IMAGES, TOKENS, HIDDEN]],
            |i| peft_ops::linear_residual(i.x.clone(), i.get(0), Some(i.get(1)), i.get(2)),
            |i| i.get::<3>(2) + burns_linear(i.x.clone(), i.get(0), Some(i.get(1))),
        ),
        operation(
            "linear-gelu",
            HIDDEN,
            &[&[WIDTH, HIDDEN], &[WIDTH]],
            |i| peft_ops::linear_gelu(i.x.clone(), Gelu::Exact, i.get(0), Some(i.get(1)), None),
            |i| burns_linear(gelu(i.x.clone()), i.get(0), Some(i.get(1))),
        ),
        operation(
            "low-rank",
            WIDTH,
            &[&[HIDDEN, WIDTH], &[HIDDEN], &[RANK, WIDTH], &[HIDDEN, RANK]],
            |i| {
                let factors = [i.get(2), i.get(3)];
                peft_ops::linear_low_rank(i.x.clone(), i.get(0), Some(i.get(1)), factors, 1.0)
            },
            |i| {
                let path = burns_linear(i.x.clone(), i.get(2), None);
                let path = burns_linear(path, i.get(3), None);
                burns_linear(i.x.clone(), i.get(0), Some(i.get(1))) + path
            },
        ),
        operation(
            "scale-shift",
            WIDTH,
            &[&[WIDTH], &[WIDTH]],
            |i| peft_ops::scale_shift(i.x.clone(), i.get(0), i.get(1)),
            |i| i.x.clone() * i.get::<1>(0).unsqueeze() + i.get::<1>(1).unsqueeze(),
        ),
        operation(
            "attention",
            3 * WIDTH,
            &[],
            |i| peft_ops::attention(i.x, HEADS),
            |i| burns_attention(i.x, None),
        ),
        operation(
            "attention-with-bias",
            3 * WIDTH,
            &[&[1, HEADS, TOKENS, TOKENS]],
            |i| peft_ops::attention_with_bias(i.x.clone(), i.get(0)),
            |i| burns_attention(i.x.clone(), Some(i.get(0))),
        ),
        operation(
            "patches",
            1,
            &[&[IMAGES, 3, IMAGE_SIDE, IMAGE_SIDE]],
            |i| peft_ops::patches(i.get(0), [PATCH; 2]),
            |i| {
                let across = IMAGE_SIDE / PATCH;
                let x = i
                    .get::<4>(0)
                    .reshape([IMAGES, 3, across, PATCH, across, PATCH]);
                let x = x.permute([0, 2, 4, 1, 3, 5]);
                x.reshape([IMAGES, across * across, 3 * PATCH * PATCH])
            },
        ),
        operation(
            "cross-entropy",
            CLASSES,
            &[&[IMAGES * TOKENS, CLASSES]],
            |i| peft_ops::cross_entropy(i.logits(), i.get(0).detach()).reshape([1, 1, 1]),
            |i| {
                let products = log_softmax(i.logits(), 1) * i.get::<2>(0).detach();
                -products.sum_dim(1).mean().reshape([1, 1, 1])
            },
        ),
    ]
}

impl Operation {
    fn inputs(&self, device: &Device) -> Inputs {
        let init = Init::seeded(&Device::flex(), 0);
        let normal = Distribution::Normal(0.0, 1.0);
        let on = |name: &str, count: usize| {
            let values = init.tensor(name, [count], normal);
            Tensor::<1>::from_data(values.into_data(), device)
        };
        let others = self.others.iter().enumerate();
        let others = others.map(|(i, shape)| on(&i.to_string(), shape.iter().product()));
        Inputs {
            x: on("x", IMAGES * TOKENS * self.width).reshape([IMAGES, TOKENS, self.width]),
            others: others.collect(),
            shapes: self.others.clone(),
        }
    }
}

impl Inputs {
    /// The same values; all of them require gradients if `tracked`.
    fn tracked(&self, tracked: bool) -> Self {
        let fresh = |x: &Tensor<1>| match tracked {
            true => x.clone().detach().require_grad(),
            false => x.clone(),
        };
        Self {
            x: match tracked {
                true => self.x.clone().detach().require_grad(),
                false => self.x.clone(),
            },
            others: self.others.iter().map(fresh).collect(),
            shapes: self.shapes.clone(),
        }
    }
}

fn burns_linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [b, n, d] = x.dims();
    let y = linear(x.reshape([b * n, d]), weight.transpose(), bias); // [b n, out]
    let outputs = y.dims()[1];
    y.reshape([b, n, outputs])
}

fn burns_attention(qkv: Tensor<3>, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [b, n, d3] = qkv.dims();
    let width = d3 / 3 / HEADS;
    let qkv = qkv
        .reshape([b, n, 3, HEADS, width])
        .permute([2, 0, 3, 1, 4]); // [3, b, h, n, w]
    let part = |i| qkv.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
    let scores = (part(0) * (width as f64).powf(-0.5)).matmul(part(1).transpose());
    let scores = bias.into_iter().fold(scores, |scores, bias| scores + bias);
    let mixed = softmax(scores, 3).matmul(part(2)); // [b, h, n, w]
    mixed.swap_dims(1, 2).reshape([b, n, d3 / 3])
}

/// A step of AdamW on as many values as ViT-Ti/16 has.
fn optimizers(criterion: &mut Criterion) {
    const SIDE: usize = 2390;
    let options = peft_ops::AdamOptions {
        betas: [0.9, 0.999],
        epsilon: 1e-8,
        weight_decay: 0.05,
    };
    let burns = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(0.05);
    let mut group = criterion.benchmark_group("adamw");
    group.sample_size(20);
    let both: [(&str, ModuleOptimizer); 2] = [
        ("peft-ops", peft_ops::adam_w(options)),
        ("burn", burns.init()),
    ];
    for (by, mut optimizer) in both {
        let init = Init::seeded(&Device::flex(), 0);
        let normal = Distribution::Normal(0.0, 1.0);
        let values = init.tensor("param", [SIDE, SIDE], normal);
        let gradient = init.tensor("gradient", [SIDE, SIDE], normal);
        let mut param = Some(Param::initialized(
            ParamId::new(),
            Tensor::<2>::from_data(values.into_data(), &Device::flex().autodiff()),
        ));
        group.bench_function(format!("{by}/step"), |bencher| {
            bencher.iter_batched(
                || gradient.clone(),
                |gradient| {
                    let before = param
                        .take()
                        .unwrap_or_else(|| unreachable!("put back below"));
                    let mut gradients = GradientsParams::new();
                    gradients.register(before.id, gradient);
                    param = Some(optimizer.step(1e-3, before, gradients));
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}
