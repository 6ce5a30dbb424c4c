//! Values and gradients against the formulas in `f64` on the CPU, at sizes that vectors and units tile and at sizes that
//! they do not.

use burn::optim::Optimizer;
use burn::tensor::activation::sigmoid;
use burn::tensor::{DType, Tensor, TensorData};

use super::{device, types};
use crate::AdamOptions;
use crate::check::{OPERATIONS, Operation, fixed_norm, noise, norm_of};
use crate::cube::node::{RUNS, STEPS};

/// Compares operations in all types, and looks that kernels ran.
fn compare(operations: &[Operation]) {
    for operation in operations {
        for dtype in types() {
            let before = RUNS.get();
            let check = operation.check(operation.run, &device(), dtype);
            println!(
                "{} {:?} {dtype:?} {:.1e}",
                operation.name, operation.input, check.error
            );
            assert!(check.passed(), "{:?} {check:?}", operation.input);
            assert_eq!(
                RUNS.get(),
                before + 1,
                "{} {:?}",
                operation.name,
                operation.input
            );
        }
    }
}

fn named(name: &str) -> &'static Operation {
    let mut all = OPERATIONS.iter();
    all.find(|operation| operation.name == name).unwrap()
}

/// The operation of that name, which keeps its shape, for other sizes of input.
fn sized(name: &'static str, sizes: &[[usize; 3]]) -> Vec<Operation> {
    let of_name = named(name);
    let with = |input: [usize; 3], output: [usize; 3], parameters: Vec<usize>| Operation {
        name,
        input,
        output,
        parameters: parameters.leak(),
        ..*of_name
    };
    let sized = sizes.iter().map(|&[b, n, d]| match name {
        "layer_norm" => with([b, n, d], [b, n, d], vec![d, d]),
        "gelu_with_bias" => with([b, n, d], [b, n, d], vec![d]),
        "attention" => with([b, n, 3 * d], [b, n, d], Vec::new()),
        "cross_entropy" => with([b, n, d], [1, 1, 1], Vec::new()),
        _ => with([b, n, d], [b, n, d], Vec::new()),
    });
    sized.collect()
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn layer_norm_matches() {
    // The last has more rows than cubes that sum over them.
    let sizes = [
        [3, 5, 70],
        [2, 3, 1],
        [2, 3, 33],
        [1, 4, 64],
        [2, 7, 768],
        [1, 3, 1023],
        [1, 2, 4096],
        [2, 1300, 20],
    ];
    compare(&sized("layer_norm", &sizes));
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn gelu_matches() {
    let sizes = [[3, 7, 33], [1, 1, 1], [2, 5, 384]];
    for name in ["gelu", "gelu_tanh", "quick_gelu", "gelu_with_bias"] {
        compare(&sized(name, &sizes));
    }
    let quick = Operation {
        name: "quick_gelu_with_bias",
        run: |x, p| crate::gelu_with_bias(x, p[0].clone(), crate::Gelu::Quick),
        plain: |x, p| {
            let x = x + p[0].clone().unsqueeze();
            x.clone() * sigmoid(x * 1.702)
        },
        ..*named("gelu_with_bias")
    };
    compare(&[quick]);
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn attention_matches() {
    let sizes = [[2, 37, 48], [1, 5, 9], [2, 64, 96], [1, 197, 24]];
    compare(&sized("attention", &sizes));
    compare(&[*named("attention_with_bias")]);
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn cross_entropy_matches() {
    let sizes = [[1, 9, 21], [1, 64, 10], [3, 2, 1000], [1, 2, 4096]];
    compare(&sized("cross_entropy", &sizes));
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn batch_norm_matches() {
    let of_maps = *named("batch_norm");
    // The same with the channels of a place side by side, and without residual and ReLU.
    let last = Operation {
        name: "batch_norm_last",
        run: |x, p| {
            let (norm, residual) = fixed_norm(p);
            // The product by a new tensor is written in the order of its own axes.
            let last = |maps: Tensor<4>| {
                let maps = maps.permute([0, 2, 3, 1]);
                let ones = Tensor::<4>::ones(maps.dims(), &maps.device()).cast(maps.dtype());
                (maps * ones).permute([0, 3, 1, 2])
            };
            let x = x.reshape([2, 8, 9, 7]);
            crate::batch_norm(last(x), norm, Some(last(residual)), true).flatten(2, 3)
        },
        ..of_maps
    };
    let alone = Operation {
        name: "batch_norm_alone",
        run: |x, p| {
            let (norm, _) = fixed_norm(p);
            let residual = p[2].clone().sum() * 0.0;
            let y = crate::batch_norm(x.reshape([2, 8, 9, 7]), norm, None, false);
            y.flatten(2, 3) + residual.unsqueeze()
        },
        plain: |x, p| {
            let (norm, _) = fixed_norm(p);
            let residual = p[2].clone().sum() * 0.0;
            let y = norm_of(x, norm);
            y + residual.unsqueeze()
        },
        ..of_maps
    };
    compare(&[of_maps, last, alone]);
}

#[test]
#[ignore = "needs an accelerator: scripts/lavapipe.sh kernels"]
fn adam_w_matches() {
    let (betas, epsilon, decay, lr) = ([0.9, 0.99], 1e-6, 0.1, 0.02);
    let options = AdamOptions {
        betas: betas.map(|beta| beta as f32),
        epsilon: epsilon as f32,
        weight_decay: decay as f32,
    };
    for dtype in types() {
        let optimizer = crate::optimizers::fused_adam_w(options);
        let [mut p, mut m, mut v] = [noise(5 * 33, 1), vec![0.0; 165], vec![0.0; 165]]
            .map(|values| values.into_iter().map(f64::from).collect::<Vec<f64>>());
        let on_device = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values, [5, 33]), &device()).cast(dtype)
        };
        let mut param = on_device(noise(5 * 33, 1));
        let mut state = None;
        for time in 1..=4 {
            let gradient = noise(5 * 33, 1 + time as u32);
            for (i, g) in gradient.iter().map(|&g| f64::from(g)).enumerate() {
                m[i] = betas[0] * m[i] + (1.0 - betas[0]) * g;
                v[i] = betas[1] * v[i] + (1.0 - betas[1]) * g * g;
                let [first, second] = betas.map(|beta| 1.0 - f64::powi(beta, time));
                let along = m[i] / first / ((v[i] / second).sqrt() + epsilon);
                p[i] = p[i] * (1.0 - lr * decay) - lr * along;
            }
            let before = STEPS.get();
            (param, state) = optimizer.step(lr, param, on_device(gradient), state);
            // The first step makes the moments, which is left to Burn.
            assert_eq!(STEPS.get() - before, usize::from(time > 1));
        }
        let got: Vec<f64> = param.into_data().convert::<f64>().iter().collect();
        let largest = p.iter().fold(0.0, |largest: f64, p| largest.max(p.abs()));
        let error = got
            .iter()
            .zip(&p)
            .fold(0.0, |e: f64, (a, b)| e.max((a - b).abs()))
            / largest;
        println!("adam_w {dtype:?} {error:.1e}");
        let allowed = match dtype {
            DType::F32 => 1e-5,
            DType::F16 => 2.5e-3,
            _ => 2e-2,
        };
        assert!(error <= allowed, "{dtype:?} {error}");
    }
}
