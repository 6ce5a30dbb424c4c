//! Batch normalisation (Ioffe and Szegedy 2015) of maps `[b, c, h, w]`, with fixed statistics or with
//! those of the batch, and the residual sum and the ReLU that follow it in the same pass.

mod kernels;
mod maps;
mod statistics;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::module::{self, BatchNormTrainOutput};
use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use self::kernels::{Channel, denormalise, normalise, reduce};
use self::maps::Maps;
use self::statistics::Statistics;
use crate::bridge::{apply, or_absent};
use crate::buffer::{Shared, written};
use crate::constant::{constant, values_mut};
use crate::cube;
use crate::operation::{Kept, Operation, tensor, values};
use crate::relu::mask;

pub(crate) use self::statistics::channel_sums;

/// A normalisation with fixed statistics: `gamma (x - mean) / sqrt(variance + epsilon) + beta`.
#[derive(Clone, Debug)]
pub struct FixedNorm {
    /// `[c]`.
    pub gamma: Tensor<1>,
    /// `[c]`.
    pub beta: Tensor<1>,
    /// `[c]`; a constant.
    pub mean: Tensor<1>,
    /// `[c]`; a constant.
    pub variance: Tensor<1>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl FixedNorm {
    /// Its values, if they are `f32` on the CPU.
    pub(crate) fn constants(&self) -> Option<Constants> {
        let [gamma, beta, mean, variance] = [&self.gamma, &self.beta, &self.mean, &self.variance]
            .map(|values| constant(values.clone()));
        let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
        let scale = values(&gamma).iter().zip(values(&variance));
        let scale = scale.map(|(&gamma, &variance)| {
            (f64::from(gamma) / (f64::from(variance) + self.epsilon).sqrt()) as f32
        });
        Some(Constants {
            mean: values(&mean).to_vec(),
            scale: scale.collect(),
            beta: values(&beta).to_vec(),
        })
    }

    /// The norm as Burn's operation.
    fn composed(self, x: Tensor<4>) -> Tensor<4> {
        let Self {
            gamma,
            beta,
            mean,
            variance,
            epsilon,
        } = self;
        module::batch_norm(x, gamma, beta, mean, variance, epsilon)
    }
}

/// A [`FixedNorm`] as `(x - mean) scale + beta`. As `scale x + shift`, what is left of `x` after a large
/// mean is subtracted would drown in the rounding of `scale x`.
#[derive(Debug)]
pub(crate) struct Constants {
    pub(crate) mean: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// `relu(norm(x) + residual)`, with the sum and the ReLU if they are asked for. Gradients reach the
/// input, the residual, gamma and beta.
///
/// # Shapes
/// `x`, `residual [b, c, h, w] -> [b, c, h, w]`.
pub fn batch_norm(
    x: Tensor<4>,
    norm: FixedNorm,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> Tensor<4> {
    let statistics = Statistics::fixed(&norm);
    let Some(statistics) = statistics.filter(|s| s.fits(&x, &norm.gamma, &norm.beta, &residual))
    else {
        return elsewhere(x, norm, residual, relu);
    };
    let op = Norm {
        statistics,
        batch: false,
        residual: residual.is_some(),
        relu,
    };
    match op.run(x, norm.gamma.clone(), norm.beta.clone(), residual) {
        Ok(y) => y,
        Err((x, residual)) => finished(norm.composed(x), residual, relu),
    }
}

/// [`batch_norm`] on other devices than the CPU.
fn elsewhere(x: Tensor<4>, norm: FixedNorm, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
    let statistics = [norm.mean.clone(), norm.variance.clone()];
    let inputs = [
        x.clone().into_dispatch(),
        norm.gamma.clone().into_dispatch(),
        norm.beta.clone().into_dispatch(),
    ];
    let y = match &residual {
        // Burn broadcasts, or reports the shapes.
        Some(residual) if residual.dims() != x.dims() => None,
        Some(residual) => {
            let [x, gamma, beta] = inputs;
            let inputs = [x, gamma, beta, residual.clone().into_dispatch()];
            cube::batch_norm(inputs, statistics, norm.epsilon, relu).ok()
        }
        None => cube::batch_norm(inputs, statistics, norm.epsilon, relu).ok(),
    };
    y.unwrap_or_else(|| finished(norm.composed(x), residual, relu))
}

/// [`batch_norm`] with the statistics of the batch, which it returns: the mean and the biased variance,
/// as constants. Gradients take into account that the statistics depend on the input.
///
/// # Shapes
/// `x`, `residual [b, c, h, w]`, `gamma`, `beta [c]` `-> [b, c, h, w]`, `[c]`, `[c]`.
pub fn batch_norm_train(
    x: Tensor<4>,
    [gamma, beta]: [Tensor<1>; 2],
    epsilon: f64,
    residual: Option<Tensor<4>>,
    relu: bool,
) -> BatchNormTrainOutput<4> {
    let composed = |x, gamma, beta, residual| {
        let batch = module::batch_norm_train(x, gamma, beta, epsilon);
        BatchNormTrainOutput {
            output: finished(batch.output, residual, relu),
            ..batch
        }
    };
    let statistics = Statistics::of_batch(&x, epsilon);
    let Some(statistics) = statistics.filter(|s| s.fits(&x, &gamma, &beta, &residual)) else {
        return composed(x, gamma, beta, residual);
    };
    let device = x.device();
    let op = Norm {
        statistics: statistics.clone(),
        batch: true,
        residual: residual.is_some(),
        relu,
    };
    match op.run(x, gamma.clone(), beta.clone(), residual) {
        Ok(output) => BatchNormTrainOutput {
            output,
            mean: Tensor::from_data(&statistics.mean[..], &device),
            variance: Tensor::from_data(&statistics.variance[..], &device),
        },
        Err((x, residual)) => composed(x, gamma, beta, residual),
    }
}

/// The sum and the ReLU that follow a norm, as Burn's operations.
fn finished(y: Tensor<4>, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
    let y = match residual {
        Some(residual) => y + residual,
        None => y,
    };
    if relu { activation::relu(y) } else { y }
}

/// A normalisation and what follows it.
#[derive(Clone, Debug)]
struct Norm {
    statistics: Statistics,
    /// Whether the statistics are functions of the input.
    batch: bool,
    residual: bool,
    relu: bool,
}

/// What backward needs.
#[derive(Clone, Debug)]
struct Saved {
    gamma: FlexTensor,
    beta: FlexTensor,
    /// The input, where gamma needs a gradient or the statistics depend on it.
    x: Option<FlexTensor>,
    /// The ReLU's output, where it does not follow from the input.
    y: Option<FlexTensor>,
}

/// The input and the residual, which a [`Norm`] that does not apply hands back.
type Refused = (Tensor<4>, Option<Tensor<4>>);

impl Norm {
    #[allow(
        clippy::result_large_err,
        reason = "the tensors are handed back, not an error"
    )]
    fn run(
        self,
        x: Tensor<4>,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        residual: Option<Tensor<4>>,
    ) -> Result<Tensor<4>, Refused> {
        let (x, has_residual) = (x.into_dispatch(), residual.is_some());
        let residual = or_absent(residual, &x);
        let inputs = [x, gamma.into_dispatch(), beta.into_dispatch(), residual];
        let y = apply(self, inputs).map_err(|[x, _, _, residual]| {
            let residual = has_residual.then(|| Tensor::from_dispatch(residual));
            (Tensor::from_dispatch(x), residual)
        })?;
        Ok(Tensor::from_dispatch(y))
    }

    fn channel(&self, channel: usize, gamma: &FlexTensor, beta: &FlexTensor) -> Channel {
        Channel {
            mean: self.statistics.mean[channel],
            inverse: self.statistics.inverse[channel],
            gamma: values(gamma)[channel],
            beta: values(beta)[channel],
        }
    }

    /// The gradients of the input, of gamma and of beta, from that of the norm's output. Without `x` the
    /// one of gamma is zero. Where the ReLU's output was not kept, `relu` cuts the gradient off here.
    fn slopes(
        &self,
        saved: &Saved,
        mut gradient: FlexTensor,
        relu: bool,
    ) -> (FlexTensor, Vec<f32>, Vec<f32>) {
        let own = Maps::of(&gradient);
        let x = saved.x.as_ref().map(|x| own.gathered(values(x)).1);
        let x = x.as_deref().unwrap_or_default();
        // The gradient of the output becomes that of the input in place, gathered or not.
        let (maps, mut gathered) = match own.gathered(values(&gradient)) {
            (maps, Cow::Owned(gathered)) => (maps, Some(gathered)),
            (maps, Cow::Borrowed(_)) => (maps, None),
        };
        let dx = match &mut gathered {
            Some(gathered) => Shared::new(gathered),
            None => Shared::new(values_mut(&mut gradient)),
        };
        let count = (maps.images * maps.area) as f32;
        // A task for each channel: its sums are added in the order of the images, and in the second loop
        // its maps are still in a cache if they are small.
        let (dgamma, dbeta) = (0..maps.channels)
            .into_par_iter()
            .map(|channel| {
                let of = self.channel(channel, &saved.gamma, &saved.beta);
                let input = |start: usize| x.get(start..start + maps.area).unwrap_or_default();
                let mut sums = [0.0; 2];
                for start in maps.starts(channel) {
                    // SAFETY: a map of this channel lies inside the gradient, and this task alone uses
                    // the maps of this channel, one at a time.
                    let gradient = unsafe { dx.part(start, maps.area) };
                    let mut partial = [0.0; 2];
                    reduce(of, input(start), relu, gradient, &mut partial);
                    sums = [0, 1].map(|i| sums[i] + partial[i]);
                }
                let [dbeta, dgamma] = sums.map(|sum| sum as f32);
                let means = if self.batch {
                    [dbeta / count, dgamma / count]
                } else {
                    [0.0; 2]
                };
                for start in maps.starts(channel) {
                    // SAFETY: a map of this channel lies inside the gradient, and this task alone uses
                    // the maps of this channel; those of the loop before are no longer borrowed.
                    let gradient = unsafe { dx.part(start, maps.area) };
                    denormalise(of, input(start), means, gradient);
                }
                (dgamma, dbeta)
            })
            .unzip::<_, _, Vec<f32>, Vec<f32>>();
        if let Some(gathered) = gathered {
            // SAFETY: there are as many values gathered as in the gradient, and `scatter` writes all of
            // them.
            let dx = unsafe { written(gathered.len(), |out| own.scatter(&gathered, out)) };
            gradient = tensor(dx, gradient.shape());
        }
        (gradient, dgamma, dbeta)
    }
}

impl Kept for Saved {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        let always = [&mut self.gamma, &mut self.beta];
        always
            .into_iter()
            .chain(&mut self.x)
            .chain(&mut self.y)
            .collect()
    }
}

/// The input, gamma, beta and the residual, which may be absent.
impl Operation<FlexTensor, 4> for Norm {
    type Saved = Saved;

    fn forward(
        &self,
        [x, gamma, beta, residual]: [FlexTensor; 4],
        [_, gamma_wanted, ..]: [bool; 4],
    ) -> (FlexTensor, Saved) {
        let (own, shape) = (Maps::of(&x), x.shape());
        let (maps, input) = own.gathered(values(&x));
        let added = self.residual.then(|| own.gathered(values(&residual)).1);
        // SAFETY: every value belongs to a map of one of the channels, and `normalise` writes all of
        // the part that it is given: input and residual are as long.
        let y = unsafe {
            written(input.len(), |y| {
                let y = Shared::unset(y);
                (0..maps.channels).into_par_iter().for_each(|channel| {
                    let of = self.channel(channel, &gamma, &beta);
                    for start in maps.starts(channel) {
                        let part = start..start + maps.area;
                        let added = added.as_ref().map_or(&[][..], |r| &r[part.clone()]);
                        // SAFETY: the map lies inside the output, and no other task has this channel.
                        let y = y.unset_part(start, maps.area);
                        normalise(of, &input[part], added, self.relu, y);
                    }
                });
            })
        };
        let y = if maps.area == own.area {
            y
        } else {
            // SAFETY: there are as many values in both orders, and `scatter` writes all of them.
            unsafe { written(y.len(), |out| own.scatter(&y, out)) }
        };
        let y = tensor(y, shape);
        let x = (gamma_wanted || self.batch).then_some(x);
        // With the input at hand, backward computes again where the ReLU cut off, rather than keep the
        // output too; a residual is not kept, so with one it cannot.
        let known = x.is_some() && !self.residual;
        let output = (self.relu && !known).then(|| y.clone());
        let saved = Saved {
            gamma,
            beta,
            x,
            y: output,
        };
        (y, saved)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        [.., residual_wanted]: [bool; 4],
    ) -> [Option<FlexTensor>; 4] {
        let gradient = match &saved.y {
            Some(y) => mask(gradient, values(y)),
            None => gradient,
        };
        let of_residual = residual_wanted.then(|| gradient.clone());
        let relu = self.relu && saved.y.is_none();
        let channels = [self.statistics.mean.len()];
        let (dx, dgamma, dbeta) = self.slopes(&saved, gradient, relu);
        let [dgamma, dbeta] = [dgamma, dbeta].map(|sums| Some(tensor(sums, channels)));
        [Some(dx), dgamma, dbeta, of_residual]
    }
}
