//! Composed operations on the CPU, where otherwise kernels of this crate or of Burn run.

use burn::tensor::{DType, Device, Tensor};

use super::*;
use crate::check::{Function, OPERATIONS};

fn composed(name: &str) -> Option<Function> {
    match name {
        "gelu" => Some(|x, _| gelu::node(Gate::Normal, x.into_dispatch()).unwrap()),
        "gelu_tanh" => Some(|x, _| gelu::node(Gate::Tanh, x.into_dispatch()).unwrap()),
        "quick_gelu" => Some(|x, _| gelu::node(Gate::Sigmoid, x.into_dispatch()).unwrap()),
        "layer_norm" => Some(|x, p| {
            let [gamma, beta] = [0, 1].map(|i| p[i].clone().into_dispatch());
            layer_norm::node([x.into_dispatch(), gamma, beta], 1e-6).unwrap()
        }),
        "attention" => Some(|x, _| attention::node(3, x.into_dispatch()).unwrap()),
        _ => None,
    }
}

#[test]
fn values_and_gradients_match_the_formulas() {
    let mut seen = 0;
    for operation in &OPERATIONS {
        let Some(run) = composed(operation.name) else {
            continue;
        };
        for dtype in [DType::F32, DType::BF16] {
            let check = operation.check(run, &Device::flex(), dtype);
            assert!(check.passed(), "{check:?}");
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn a_plain_tensor_is_not_tracked() {
    let x = Tensor::<1>::from_data([-1.5, 0.0, 2.0], &Device::flex());
    let y = gelu::node::<1>(Gate::Normal, x.into_dispatch()).unwrap();
    assert!(!y.is_autodiff());
    let y: Vec<f32> = y.into_data().iter().collect();
    for (y, expected) in y.into_iter().zip([-0.100_210_8, 0.0, 1.954_499_7]) {
        assert!((y - expected).abs() < 1e-6, "{y}, {expected}");
    }
}
