//! Steps against those of Burn's optimisers, to the bit.

use burn::module::{Module, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::Bytes;

use super::*;
use crate::testing::noise;

const OPTIONS: AdamOptions = AdamOptions {
    betas: [0.9, 0.99],
    epsilon: 1e-8,
    weight_decay: 0.05,
};

/// A parameter of several chunks and one of a single value.
#[derive(Module, Debug)]
struct Params {
    large: Param<Tensor<2>>,
    small: Param<Tensor<1>>,
}

impl Params {
    fn new() -> Self {
        let device = Device::flex().autodiff();
        let large = Tensor::<1>::from_data(&noise(300 * 101, 1)[..], &device);
        Self {
            large: Param::initialized(ParamId::from(1), large.reshape([300, 101])),
            small: Param::initialized(ParamId::from(2), Tensor::from_data([0.5], &device)),
        }
    }

    fn values(&self) -> Vec<f32> {
        let values = self.large.val().into_data().iter().collect::<Vec<f32>>();
        [values, self.small.val().into_data().iter().collect()].concat()
    }
}

/// Runs the steps, each with other gradients.
fn train(
    mut params: Params,
    optimizer: &mut ModuleOptimizer,
    steps: std::ops::Range<u32>,
) -> Params {
    for step in steps {
        let mut gradients = GradientsParams::new();
        let large = Tensor::<1>::from_data(&noise(300 * 101, 7 + step)[..], &Device::flex());
        gradients.register(params.large.id, large.reshape([300, 101]));
        let small = Tensor::<1>::from_data([step as f32 - 2.0], &Device::flex());
        gradients.register(params.small.id, small);
        let lr = 0.01 / f64::from(step + 1);
        params = optimizer.step(lr, params, gradients);
    }
    params
}

/// Values are Burn's to the bit: from the start, after reading Burn's record, and after Burn reads ours.
fn check(ours: impl Fn() -> ModuleOptimizer, burns: impl Fn() -> ModuleOptimizer) {
    let mut burn = burns();
    let early = train(Params::new(), &mut burn, 0..3);
    let record: Vec<u8> = burn.into_bytes().unwrap().to_vec();
    let expected = train(early.clone(), &mut burn, 3..7).values();
    assert_ne!(early.values(), expected);

    let mut own = ours();
    let got = train(Params::new(), &mut own, 0..7).values();
    assert!(got == expected, "from the start");

    let read = |optimizer: ModuleOptimizer, record: Vec<u8>| {
        optimizer.from_bytes(Bytes::from_bytes_vec(record)).unwrap()
    };
    let mut resumed = read(ours(), record);
    let got = train(early, &mut resumed, 3..5);
    let record: Vec<u8> = resumed.into_bytes().unwrap().to_vec();
    let got = train(got, &mut read(burns(), record), 5..7);
    assert!(
        got.values() == expected,
        "with Burn's record, and Burn with ours"
    );
}

#[test]
fn adam_w_is_burns_to_the_bit() {
    let decays = [OPTIONS.weight_decay, 0.0];
    for weight_decay in decays {
        let options = AdamOptions {
            weight_decay,
            ..OPTIONS
        };
        let burns = AdamWConfig::new()
            .with_beta_2(0.99)
            .with_epsilon(1e-8)
            .with_weight_decay(weight_decay);
        check(|| adam_w(options), || burns.init());
    }
}

#[test]
fn adam_is_burns_to_the_bit() {
    for decay in [None, Some(WeightDecayConfig::new(OPTIONS.weight_decay))] {
        let options = AdamOptions {
            weight_decay: decay.as_ref().map_or(0.0, |decay| decay.penalty),
            ..OPTIONS
        };
        let burns = AdamConfig::new()
            .with_beta_2(0.99)
            .with_epsilon(1e-8)
            .with_weight_decay(decay);
        check(|| adam(options), || burns.init());
    }
}

#[test]
fn sgd_is_burns_to_the_bit() {
    for (momentum, nesterov) in [(0.0, false), (0.9, false), (0.9, true)] {
        for decay in [None, Some(WeightDecayConfig::new(0.05))] {
            let options = SgdOptions {
                momentum,
                nesterov,
                weight_decay: decay.as_ref().map_or(0.0, |decay| decay.penalty),
            };
            let with_momentum = (momentum > 0.0).then_some(MomentumConfig {
                momentum,
                dampening: 0.0,
                nesterov,
            });
            let burns = SgdConfig::new()
                .with_momentum(with_momentum)
                .with_weight_decay(decay);
            check(|| sgd(options), || burns.init());
        }
    }
}

#[test]
fn a_parameter_that_others_hold_is_copied() {
    let mut optimizer = adam_w(OPTIONS);
    let params = train(Params::new(), &mut optimizer, 0..2);
    let held = params.clone();
    let before = held.values();
    let after = train(params, &mut optimizer, 2..3).values();
    assert_ne!(after, before);
    assert_eq!(held.values(), before);
}
