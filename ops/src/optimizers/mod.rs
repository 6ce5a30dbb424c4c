//! Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) and SGD with momentum, each step in one
//! pass over memory. They compute what Burn's optimisers compute, operation by operation, so that values
//! are the same to the bit on the CPU. State and records are Burn's too.

#[cfg(test)]
mod tests;

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::optim::{
    Adam, AdamConfig, AdamState, AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState,
    LearningRate, ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::bridge::on_cpu;
use crate::constant::values_mut;
use crate::cube::{self, Step};
use crate::level;
use crate::math::CHUNK;
use crate::operation::values;
use crate::simd::multiversion;

/// The constants of Adam and AdamW.
#[derive(Clone, Copy, Debug)]
pub struct AdamOptions {
    /// Decay of the first and of the second moment, in `[0, 1)`.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Weight decay: Adam adds it to the gradient, AdamW takes it off the parameter.
    pub weight_decay: f32,
}

/// Adam.
pub fn adam(options: AdamOptions) -> ModuleOptimizer {
    let AdamOptions {
        betas: [beta_1, beta_2],
        epsilon,
        weight_decay,
    } = options;
    let decay =
        (weight_decay != 0.0).then(|| burn::optim::decay::WeightDecayConfig::new(weight_decay));
    let burns = AdamConfig::new()
        .with_beta_1(beta_1)
        .with_beta_2(beta_2)
        .with_epsilon(epsilon)
        .with_weight_decay(decay)
        .build();
    ModuleOptimizer::from(FusedAdam { burns, options })
}

/// AdamW.
pub fn adam_w(options: AdamOptions) -> ModuleOptimizer {
    ModuleOptimizer::from(fused_adam_w(options))
}

/// [`adam_w`] for one tensor at a time.
pub(crate) fn fused_adam_w(options: AdamOptions) -> FusedAdamW {
    let AdamOptions {
        betas: [beta_1, beta_2],
        epsilon,
        weight_decay,
    } = options;
    let burns = AdamWConfig::new()
        .with_beta_1(beta_1)
        .with_beta_2(beta_2)
        .with_epsilon(epsilon)
        .with_weight_decay(weight_decay)
        .build();
    FusedAdamW { burns, options }
}

/// The constants of SGD.
#[derive(Clone, Copy, Debug)]
pub struct SgdOptions {
    /// How much of the velocity a step keeps, in `[0, 1)`; 0 for none.
    pub momentum: f64,
    /// Whether a step looks ahead, as Nesterov's does.
    pub nesterov: bool,
    /// Weight decay, which is added to the gradient.
    pub weight_decay: f32,
}

/// Stochastic gradient descent.
pub fn sgd(options: SgdOptions) -> ModuleOptimizer {
    ModuleOptimizer::from(FusedSgd { options })
}

#[derive(Clone)]
struct FusedAdam {
    burns: Adam,
    options: AdamOptions,
}

#[derive(Clone)]
pub(crate) struct FusedAdamW {
    burns: AdamW,
    options: AdamOptions,
}

#[derive(Clone)]
struct FusedSgd {
    options: SgdOptions,
}

impl Optimizer for FusedAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        let options = &self.options;
        let decay_rate = lr * f64::from(options.weight_decay);
        // The first step makes the moments, which is left to Burn.
        let Some(state) = state.map(|state| state.momentum) else {
            return self.burns.step(lr, param, gradient, None);
        };
        let by = Step {
            betas: options.betas,
            epsilon: options.epsilon,
            corrections: corrections(options, state.time + 1),
            lr: lr as f32,
            decay: (1.0 - decay_rate) as f32,
        };
        let (param, momentum) = if fit(&[&param, &gradient, &state.moment_1, &state.moment_2]) {
            adaptive(param, gradient, state, |p, m, v, g| {
                adam_w_step(p, m, v, g, by)
            })
        } else {
            // Nobody else may hold them, so that Burn can write in place.
            let (moment_1, moment_2) = (state.moment_1, state.moment_2);
            match cube::adam_w([param, moment_1, moment_2, gradient], by) {
                Ok([param, moment_1, moment_2]) => {
                    let state = AdaptiveMomentumState {
                        time: state.time + 1,
                        moment_1,
                        moment_2,
                        ..state
                    };
                    (param, state)
                }
                Err([param, moment_1, moment_2, gradient]) => {
                    let state = AdaptiveMomentumState {
                        moment_1,
                        moment_2,
                        ..state
                    };
                    let state = Some(AdamWState::new(state));
                    return self.burns.step(lr, param, gradient, state);
                }
            }
        };
        (param, Some(AdamWState::new(momentum)))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}

impl Optimizer for FusedAdam {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        let options = &self.options;
        let (param, momentum) = match state.map(|state| state.momentum) {
            Some(state) if fit(&[&param, &gradient, &state.moment_1, &state.moment_2]) => {
                let [correction_1, correction_2] = corrections(options, state.time + 1);
                // Burn's Adam folds both corrections into the step, and epsilon with them.
                let root = correction_2.sqrt();
                let by = Step {
                    betas: options.betas,
                    epsilon: options.epsilon * root,
                    corrections: [root / correction_1, correction_2],
                    lr: lr as f32,
                    decay: options.weight_decay,
                };
                adaptive(param, gradient, state, |p, m, v, g| {
                    adam_step(p, m, v, g, by)
                })
            }
            state => {
                let state = state.map(AdamState::new);
                return self.burns.step(lr, param, gradient, state);
            }
        };
        (param, Some(AdamState::new(momentum)))
    }

    fn to_device<const D: usize>(state: AdamState<D>, device: &Device) -> AdamState<D> {
        Adam::to_device(state, device)
    }
}

/// The velocity, under the name that Burn's SGD gives it in a record.
#[derive(Clone)]
struct SgdState<const D: usize> {
    velocity: Option<Tensor<D>>,
}

const MOMENTUM: &str = "momentum";
const VELOCITY: &str = "velocity";

impl<const D: usize> RecordState for SgdState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        if let Some(velocity) = &self.velocity {
            out.push_tensor(
                &format!("{prefix}.{MOMENTUM}"),
                VELOCITY,
                velocity.to_data(),
            );
        }
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, device: &Device) -> Option<Self> {
        let data: Option<TensorData> =
            source.take_tensor(&format!("{prefix}.{MOMENTUM}"), VELOCITY);
        Some(Self {
            velocity: data.map(|data| Tensor::from_data(data, device)),
        })
    }
}

impl Optimizer for FusedSgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        let SgdOptions {
            momentum,
            nesterov,
            weight_decay,
        } = self.options;
        let velocity = state.and_then(|state| state.velocity);
        let velocity = match velocity {
            Some(velocity) if fit(&[&param, &gradient, &velocity]) => {
                let options = self.options;
                let [mut param, mut velocity] = [param, velocity].map(owned);
                let gradient = owned(gradient);
                let chunks = values_mut(&mut param).par_chunks_mut(CHUNK);
                let chunks = chunks.zip(values_mut(&mut velocity).par_chunks_mut(CHUNK));
                chunks
                    .zip(values(&gradient).par_chunks(CHUNK))
                    .for_each(|((p, v), g)| {
                        sgd_step(p, v, g, options, lr as f32);
                    });
                let [param, velocity] = [param, velocity].map(Tensor::from_primitive::<Flex>);
                let velocity = Some(velocity);
                return (param, Some(SgdState { velocity }));
            }
            velocity => velocity,
        };
        let gradient = if weight_decay == 0.0 {
            gradient
        } else {
            param.clone().mul_scalar(weight_decay).add(gradient)
        };
        if momentum == 0.0 {
            let velocity = None;
            return (param - gradient.mul_scalar(lr), Some(SgdState { velocity }));
        }
        let momentum = momentum as f32;
        let velocity = match velocity {
            Some(velocity) => gradient.clone().add(velocity.mul_scalar(momentum)),
            None => gradient.clone(),
        };
        let along = if nesterov {
            velocity.clone().mul_scalar(momentum).add(gradient)
        } else {
            velocity.clone()
        };
        let velocity = Some(velocity);
        (param - along.mul_scalar(lr), Some(SgdState { velocity }))
    }

    fn to_device<const D: usize>(state: SgdState<D>, device: &Device) -> SgdState<D> {
        SgdState {
            velocity: state.velocity.map(|velocity| velocity.to_device(device)),
        }
    }
}

/// Whether a step can run in one pass: all tensors are `f32` on the CPU backend, and kernels are not
/// switched off.
fn fit<const D: usize>(tensors: &[&Tensor<D>]) -> bool {
    let fits =
        |x: &&Tensor<D>| !x.is_autodiff() && on_cpu(&(*x).clone().into_dispatch(), DType::F32);
    level::current().has_kernels() && tensors.iter().all(fits)
}

/// A tensor that fits, to write to. [`values_mut`] copies it if somebody else holds it too.
fn owned<const D: usize>(x: Tensor<D>) -> FlexTensor {
    match x.try_into_primitive::<Flex>() {
        Ok(x) if x.is_contiguous() => x,
        Ok(x) => x.to_contiguous(),
        Err(_) => unreachable!("checked by `fit`"),
    }
}

/// One minus the powers of the betas.
fn corrections(options: &AdamOptions, time: usize) -> [f32; 2] {
    options.betas.map(|beta| 1.0 - beta.powi(time as i32))
}

/// A step of parameter and moments, chunk by chunk: values are independent of each other, so the number of
/// threads changes nothing.
fn adaptive<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<D>,
    state: AdaptiveMomentumState<D>,
    step: impl Fn(&mut [f32], &mut [f32], &mut [f32], &[f32]) + Sync,
) -> (Tensor<D>, AdaptiveMomentumState<D>) {
    let mut written = [param, state.moment_1, state.moment_2].map(owned);
    let gradient = owned(gradient);
    let [p, m, v] = &mut written;
    let chunks = values_mut(p).par_chunks_mut(CHUNK);
    let chunks = chunks.zip(values_mut(m).par_chunks_mut(CHUNK));
    let chunks = chunks.zip(values_mut(v).par_chunks_mut(CHUNK));
    let chunks = chunks.zip(values(&gradient).par_chunks(CHUNK));
    chunks.for_each(|(((p, m), v), g)| step(p, m, v, g));
    let [param, moment_1, moment_2] = written.map(Tensor::from_primitive::<Flex>);
    let state = AdaptiveMomentumState {
        time: state.time + 1,
        moment_1,
        moment_2,
        ..state
    };
    (param, state)
}

// Products and sums are not fused: Burn rounds them one by one.
multiversion! {
    fn adam_w_step<S>(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], by: Step) {
        let rest = by.betas.map(|beta| 1.0 - beta);
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *m = *m * by.betas[0] + g * rest[0];
            *v = *v * by.betas[1] + g * g * rest[1];
            let root = (*v / by.corrections[1]).sqrt() + by.epsilon;
            *p = *p * by.decay - *m / by.corrections[0] / root * by.lr;
        }
    }

    fn adam_step<S>(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], by: Step) {
        let rest = by.betas.map(|beta| 1.0 - beta);
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = if by.decay == 0.0 { *g } else { *p * by.decay + g };
            *m = *m * by.betas[0] + g * rest[0];
            *v = *v * by.betas[1] + g * g * rest[1];
            let delta = *m * by.corrections[0] / (v.sqrt() + by.epsilon);
            *p -= delta * by.lr;
        }
    }

    fn sgd_step<S>(p: &mut [f32], v: &mut [f32], g: &[f32], by: SgdOptions, lr: f32) {
        let momentum = by.momentum as f32;
        for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
            let g = if by.weight_decay == 0.0 { *g } else { *p * by.weight_decay + g };
            *v = g + *v * momentum;
            let along = if by.nesterov { *v * momentum + g } else { *v };
            *p -= along * lr;
        }
    }
}
