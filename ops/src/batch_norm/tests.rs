//! Norms against Burn's operations, in `f32` and in `f64`.

use burn::tensor::{DType, Device, TensorData};
use proptest::prelude::*;

use super::*;
use crate::testing::{
    Case, Tensors, View, cases, compare, noise, results, same_on_any_threads,
    same_where_not_finite, views,
};

/// A norm: which statistics it has, and what follows it.
#[derive(Clone, Copy, Debug)]
struct Kind {
    batch: bool,
    residual: bool,
    relu: bool,
}

impl Kind {
    /// The input, gamma, beta and the residual.
    fn case(self, shape: [usize; 4], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&shape, view);
        let case = case
            .with(&shape[1..2], View::Plain)
            .with(&shape[1..2], View::Plain);
        if self.residual {
            case.with(&shape, view)
        } else {
            case
        }
    }

    fn fast(self, t: &Tensors) -> Tensor<4> {
        let residual = self.residual.then(|| t.get(3));
        if self.batch {
            let affine = [t.get(1), t.get(2)];
            batch_norm_train(t.get(0), affine, 1e-5, residual, self.relu).output
        } else {
            batch_norm(t.get(0), fixed(t), residual, self.relu)
        }
    }

    fn composed(self, t: &Tensors) -> Tensor<4> {
        let y = if self.batch {
            module::batch_norm_train(t.get::<4>(0), t.get(1), t.get(2), 1e-5).output
        } else {
            fixed(t).composed(t.get(0))
        };
        finished(y, self.residual.then(|| t.get(3)), self.relu)
    }
}

fn fixed(t: &Tensors) -> FixedNorm {
    let x = t.get::<4>(0);
    let channels = x.dims()[1];
    let vector = |seed: u32, offset: f32| {
        let values: Vec<f32> = noise(channels, seed)
            .into_iter()
            .map(|v| v + offset)
            .collect();
        let data = TensorData::new(values, [channels]);
        let values = Tensor::<1>::from_data(data, &Device::flex()).cast(x.dtype());
        if x.is_autodiff() {
            Tensor::from_inner(values)
        } else {
            values
        }
    };
    FixedNorm {
        gamma: t.get(1),
        beta: t.get(2),
        mean: vector(71, 0.0),
        variance: vector(72, 2.2),
        epsilon: 1e-5,
    }
}

proptest! {
    #![proptest_config(cases(96))]
    #[test]
    fn values_and_gradients_agree_with_the_composed_operation(
        shape in [1usize..5, 4usize..9, 1usize..12, 1usize..12], view in views(),
        [batch, residual, relu]: [bool; 3], wanted in 1u32..8, seed in 1u32..1000,
    ) {
        // The statistics of a few values are differences of nearly equal numbers.
        prop_assume!(!batch || shape[0] * shape[2] * shape[3] > 8);
        let kind = Kind { batch, residual, relu };
        let case = kind.case(shape, view, seed).wanting(wanted | 8);
        compare(&case, |t| kind.fast(t), |t| kind.composed(t));
    }
}

#[test]
fn the_statistics_are_those_of_the_batch() {
    let device = Device::flex();
    let values: Vec<f32> = noise(360, 5)
        .into_iter()
        .map(|value| value + 30.0)
        .collect();
    let x = Tensor::<4>::from_data(TensorData::new(values, [3, 4, 5, 6]), &device);
    let affine = || [Tensor::<1>::ones([4], &device), Tensor::zeros([4], &device)];
    let ours = batch_norm_train(x.clone(), affine(), 1e-5, None, false);
    let [gamma, beta] = affine().map(|vector| vector.cast(DType::F64));
    let theirs = module::batch_norm_train(x.cast(DType::F64), gamma, beta, 1e-5);
    let pairs = [(ours.mean, theirs.mean), (ours.variance, theirs.variance)];
    for (ours, theirs) in pairs {
        let read = |t: Tensor<1>| t.into_data().iter::<f64>().collect::<Vec<_>>();
        for (a, b) in read(ours).into_iter().zip(read(theirs)) {
            assert!((a - b).abs() <= 2e-6 * b.abs(), "{a}, {b}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for batch in [true, false] {
        let kind = Kind {
            batch,
            residual: true,
            relu: true,
        };
        let case = kind.case([3, 9, 13, 11], View::Plain, 7);
        same_on_any_threads(|| results(&case, |t| kind.fast(t)));
    }
}

#[test]
fn what_is_not_finite_stays_where_burn_leaves_it() {
    for (batch, relu) in [(false, false), (false, true), (true, true)] {
        let kind = Kind {
            batch,
            residual: false,
            relu,
        };
        let shape = [2, 3, 4, 5];
        let mut values = noise(120, 3);
        (values[2], values[30], values[50]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let case = Case::new(3).with_values(&shape, values, View::Plain);
        let case = case.with(&[3], View::Plain).with(&[3], View::Plain);
        same_where_not_finite(&case, |t| kind.fast(t), |t| kind.composed(t));
    }
}
