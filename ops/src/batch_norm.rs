//! Batch normalisation (Ioffe and Szegedy 2015) of maps `[b, c, h, w]`, with fixed statistics or with
//! the batch's own, and the residual sum and the ReLU that follow it in the same pass.

use std::borrow::Cow;
use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::module::{self, BatchNormTrainOutput};
use burn::tensor::{Tensor, activation};
use rayon::prelude::*;

use crate::bridge::{CpuOp, apply, tensor, values};
use crate::buffer::{Shared, Unset, written};
use crate::constant::{constant, values_mut};
use crate::math::sum_of;
use crate::relu::mask;
use crate::simd::multiversion;

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
    /// Its values, if they are at hand on the CPU.
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

    /// Of Burn's operation.
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

/// A [`FixedNorm`] as `(x - mean) scale + beta`: as `scale x + shift` it would lose what is left of
/// large means.
#[derive(Debug)]
pub(crate) struct Constants {
    pub(crate) mean: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) beta: Vec<f32>,
}

/// `relu(norm(x) + residual)`, the sum and the ReLU where they are asked for. Gradients reach the
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
        return finished(norm.composed(x), residual, relu);
    };
    let op = Norm {
        statistics,
        batch: false,
        relu,
    };
    match op.run(x, norm.gamma.clone(), norm.beta.clone(), residual) {
        Ok(y) => y,
        Err((x, residual)) => finished(norm.composed(x), residual, relu),
    }
}

/// [`batch_norm`] with the statistics of the batch, which it returns: the mean and the biased variance,
/// as constants. Gradients take their dependence on the input into account.
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

/// What follows a norm, of Burn's operations.
fn finished(y: Tensor<4>, residual: Option<Tensor<4>>, relu: bool) -> Tensor<4> {
    let y = match residual {
        Some(residual) => y + residual,
        None => y,
    };
    if relu { activation::relu(y) } else { y }
}

/// The statistics of each channel, all `[c]`.
#[derive(Clone, Debug)]
struct Statistics {
    mean: Arc<Vec<f32>>,
    variance: Arc<Vec<f32>>,
    /// `1 / sqrt(variance + epsilon)`.
    inverse: Arc<Vec<f32>>,
}

impl Statistics {
    fn new(mean: Vec<f32>, variance: Vec<f32>, epsilon: f64) -> Self {
        let inverse = |&variance: &f32| (1.0 / (f64::from(variance) + epsilon).sqrt()) as f32;
        Self {
            inverse: Arc::new(variance.iter().map(inverse).collect()),
            mean: Arc::new(mean),
            variance: Arc::new(variance),
        }
    }

    fn fixed(norm: &FixedNorm) -> Option<Self> {
        let mean = values(&constant(norm.mean.clone())?).to_vec();
        let variance = values(&constant(norm.variance.clone())?).to_vec();
        Some(Self::new(mean, variance, norm.epsilon))
    }

    /// The mean and the biased variance of each channel, in two passes.
    fn of_batch(x: &Tensor<4>, epsilon: f64) -> Option<Self> {
        let x = constant(x.clone())?;
        let (maps, x) = Maps::of(&x).beside(values(&x));
        let count = (maps.images * maps.area) as f64;
        let of_channel = |channel: usize| {
            let planes = || (maps.starts(channel)).map(|start| &x[start..start + maps.area]);
            let sum: f64 = planes().map(sum).sum();
            let mean = (sum / count) as f32;
            let squares = planes().map(|plane| squares(plane, mean));
            (mean, (squares.sum::<f64>() / count) as f32)
        };
        let (mean, variance) = (0..maps.channels).into_par_iter().map(of_channel).unzip();
        Some(Self::new(mean, variance, epsilon))
    }

    /// Whether the sizes are those of this many channels: Burn's operation reports others.
    fn fits(
        &self,
        x: &Tensor<4>,
        gamma: &Tensor<1>,
        beta: &Tensor<1>,
        residual: &Option<Tensor<4>>,
    ) -> bool {
        let channels = [x.dims()[1]];
        let lengths = [
            [self.mean.len()],
            [self.variance.len()],
            gamma.dims(),
            beta.dims(),
        ];
        let residual = residual
            .as_ref()
            .is_none_or(|residual| residual.dims() == x.dims());
        residual && lengths.iter().all(|length| *length == channels)
    }
}

/// A normalisation and what follows it.
#[derive(Clone, Debug)]
struct Norm {
    statistics: Statistics,
    /// Whether the statistics are functions of the input.
    batch: bool,
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

/// What handed back its inputs: the input and the residual.
type Refused = (Tensor<4>, Option<Tensor<4>>);

/// Sizes of maps `[b, c, h, w]`, positions as one.
#[derive(Clone, Copy)]
struct Maps {
    images: usize,
    channels: usize,
    area: usize,
}

impl Maps {
    fn of(x: &FlexTensor) -> Self {
        let shape = x.shape();
        Self {
            images: shape[0],
            channels: shape[1],
            area: shape[2] * shape[3],
        }
    }

    /// Where the maps of a channel start.
    fn starts(self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.images).map(move |image| (image * self.channels + channel) * self.area)
    }

    /// Short maps side by side, those of each channel as one of one image: each costs a few calls.
    fn beside(self, x: &[f32]) -> (Self, Cow<'_, [f32]>) {
        if self.area >= SHORT || self.images < 2 {
            return (self, Cow::Borrowed(x));
        }
        let one = Self {
            images: 1,
            area: self.images * self.area,
            ..self
        };
        // SAFETY: the maps of all channels cover the output.
        let gathered = unsafe {
            written(x.len(), |out| {
                let channels = out.par_chunks_mut(one.area.max(1)).enumerate();
                channels.for_each(|(channel, out)| {
                    for (out, start) in out.chunks_mut(self.area).zip(self.starts(channel)) {
                        out.write_copy_of_slice(&x[start..start + self.area]);
                    }
                });
            })
        };
        (one, Cow::Owned(gathered))
    }

    /// Maps that stand [`beside`](Self::beside) one another in `x`, where they belong.
    fn apart(self, x: &[f32], out: &mut [Unset]) {
        let images = out.par_chunks_mut((self.channels * self.area).max(1));
        images.enumerate().for_each(|(image, out)| {
            for (channel, out) in out.chunks_mut(self.area).enumerate() {
                let start = (channel * self.images + image) * self.area;
                out.write_copy_of_slice(&x[start..start + self.area]);
            }
        });
    }
}

/// Values of a map that is worth its calls.
const SHORT: usize = 64;

/// One channel of a [`Norm`].
#[derive(Clone, Copy)]
struct Channel {
    mean: f32,
    inverse: f32,
    gamma: f32,
    beta: f32,
}

impl Channel {
    /// The normalised value, and `gamma` times it plus `beta`.
    #[inline(always)]
    fn normed(self, x: f32) -> (f32, f32) {
        let normed = (x - self.mean) * self.inverse;
        (normed, normed * self.gamma + self.beta)
    }
}

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
        let inputs = [
            x.into_dispatch(),
            gamma.into_dispatch(),
            beta.into_dispatch(),
        ];
        let done = match residual {
            None => apply(self, inputs).map_err(|[x, ..]| (x, None)),
            Some(residual) => {
                let [x, gamma, beta] = inputs;
                apply(self, [x, gamma, beta, residual.into_dispatch()])
                    .map_err(|[x, _, _, residual]| (x, Some(Tensor::from_dispatch(residual))))
            }
        };
        done.map(Tensor::from_dispatch)
            .map_err(|(x, residual)| (Tensor::from_dispatch(x), residual))
    }

    fn channel(&self, channel: usize, gamma: &[f32], beta: &[f32]) -> Channel {
        Channel {
            mean: self.statistics.mean[channel],
            inverse: self.statistics.inverse[channel],
            gamma: gamma[channel],
            beta: beta[channel],
        }
    }

    fn forward(
        &self,
        [x, gamma, beta]: [FlexTensor; 3],
        residual: Option<&[f32]>,
        of_gamma: bool,
    ) -> (FlexTensor, Option<Saved>) {
        let (own, shape) = (Maps::of(&x), x.shape());
        let (maps, input) = own.beside(values(&x));
        let residual_beside = residual.map(|residual| own.beside(residual).1);
        // SAFETY: each channel writes all of its maps, which are no other's.
        let y = unsafe {
            written(input.len(), |y| {
                let y = Shared::unset(y);
                (0..maps.channels).into_par_iter().for_each(|channel| {
                    let of = self.channel(channel, values(&gamma), values(&beta));
                    for start in maps.starts(channel) {
                        let part = start..start + maps.area;
                        let residual = residual_beside.as_ref();
                        let residual = residual.map_or(&[][..], |r| &r[part.clone()]);
                        let y = y.unset_part(start, maps.area);
                        normalise(of, &input[part], residual, self.relu, y);
                    }
                });
            })
        };
        let y = match maps.area == own.area {
            true => y,
            // SAFETY: it has as many maps.
            false => unsafe { written(y.len(), |out| own.apart(&y, out)) },
        };
        let y = tensor(y, shape);
        let x = (of_gamma || self.batch).then_some(x);
        let known = x.is_some() && residual.is_none();
        let output = (self.relu && !known).then(|| y.clone());
        (
            y,
            Some(Saved {
                gamma,
                beta,
                x,
                y: output,
            }),
        )
    }

    /// The gradients of the input, of gamma and beta, and of the sum before the ReLU if it is that of a
    /// residual.
    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        of_residual: bool,
    ) -> [Option<FlexTensor>; 4] {
        let mut gradient = match &saved.y {
            Some(y) => mask(gradient, values(y)),
            None => gradient,
        };
        let own = Maps::of(&gradient);
        // Without `y`, the ReLU's output is what the input gives again.
        let relu = self.relu && saved.y.is_none();
        let x = saved.x.as_ref().map(|x| own.beside(values(x)).1);
        let x = x.as_deref().unwrap_or_default();
        let of_sum = of_residual.then(|| gradient.clone());
        let (maps, mut beside) = match own.beside(values(&gradient)) {
            (maps, Cow::Owned(beside)) => (maps, Some(beside)),
            (maps, Cow::Borrowed(_)) => (maps, None),
        };
        let count = (maps.images * maps.area) as f32;
        let dx = match &mut beside {
            Some(beside) => Shared::new(beside),
            None => Shared::new(values_mut(&mut gradient)),
        };
        let (dgamma, dbeta) = (0..maps.channels)
            .into_par_iter()
            .map(|channel| {
                let of = self.channel(channel, values(&saved.gamma), values(&saved.beta));
                let input = |start: usize| x.get(start..start + maps.area).unwrap_or_default();
                let mut sums = [0.0; 2];
                for start in maps.starts(channel) {
                    // SAFETY: a map of this channel, which no other task touches.
                    let gradient = unsafe { dx.part(start, maps.area) };
                    let mut partial = [0.0; 2];
                    reduce(of, input(start), relu, gradient, &mut partial);
                    sums = [0, 1].map(|i| sums[i] + partial[i]);
                }
                let [dbeta, dgamma] = sums.map(|sum| sum as f32);
                let means = match self.batch {
                    true => [dbeta / count, dgamma / count],
                    false => [0.0; 2],
                };
                for start in maps.starts(channel) {
                    // SAFETY: as above; the part lent before is dropped.
                    let gradient = unsafe { dx.part(start, maps.area) };
                    denormalise(of, input(start), means, gradient);
                }
                (dgamma, dbeta)
            })
            .unzip::<_, _, Vec<f32>, Vec<f32>>();
        if let Some(beside) = beside {
            // SAFETY: it has as many maps.
            let apart = unsafe { written(beside.len(), |out| own.apart(&beside, out)) };
            gradient = tensor(apart, gradient.shape());
        }
        let channels = [maps.channels];
        let [dgamma, dbeta] = [dgamma, dbeta].map(|sums| Some(tensor(sums, channels)));
        [Some(gradient), dgamma, dbeta, of_sum]
    }
}

impl CpuOp<3> for Norm {
    type Saved = Saved;

    fn forward(
        &self,
        inputs: [FlexTensor; 3],
        [_, of_gamma, _]: [bool; 3],
    ) -> (FlexTensor, Option<Saved>) {
        self.forward(inputs, None, of_gamma)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        _: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let [dx, dgamma, dbeta, _] = self.backward(saved, gradient, false);
        [dx, dgamma, dbeta]
    }
}

impl CpuOp<4> for Norm {
    type Saved = Saved;

    fn forward(
        &self,
        [x, gamma, beta, residual]: [FlexTensor; 4],
        [_, of_gamma, ..]: [bool; 4],
    ) -> (FlexTensor, Option<Saved>) {
        self.forward([x, gamma, beta], Some(values(&residual)), of_gamma)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        [.., of_residual]: [bool; 4],
    ) -> [Option<FlexTensor>; 4] {
        self.backward(saved, gradient, of_residual)
    }
}

/// The sum of each channel of maps `[b, channels, area]`.
pub(crate) fn channel_sums(x: &[f32], channels: usize, area: usize) -> Vec<f32> {
    let maps = Maps {
        images: x.len().checked_div(channels * area).unwrap_or(0),
        channels,
        area,
    };
    let (maps, x) = maps.beside(x);
    let of_channel = |channel: usize| {
        let sums = maps
            .starts(channel)
            .map(|start| sum(&x[start..start + maps.area]));
        sums.sum::<f64>() as f32
    };
    (0..channels).into_par_iter().map(of_channel).collect()
}

fn sum(x: &[f32]) -> f64 {
    let mut sum = [0.0];
    add_up(x, &mut sum);
    sum[0]
}

fn squares(x: &[f32], mean: f32) -> f64 {
    let mut sum = [0.0];
    add_squares(x, mean, &mut sum);
    sum[0]
}

multiversion! {
    fn add_up<S>(x: &[f32], out: &mut [f64; 1]) {
        *out = [sum_of([x], |sum, [x]| sum + x)];
    }

    fn add_squares<S>(x: &[f32], mean: f32, out: &mut [f64; 1]) {
        let mean = f64::from(mean);
        *out = [sum_of([x], |sum, [x]| sum + (x - mean) * (x - mean))];
    }

    /// One map, with what follows; no residual if it is empty.
    fn normalise<S>(channel: Channel, x: &[f32], residual: &[f32], relu: bool, y: &mut [Unset]) {
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        let bounded = |value: f32| if value <= floor { floor } else { value };
        if residual.is_empty() {
            for (y, x) in y.iter_mut().zip(x) {
                y.write(bounded(channel.normed(*x).1));
            }
        } else {
            for (y, (x, residual)) in y.iter_mut().zip(x.iter().zip(residual)) {
                y.write(bounded(channel.normed(*x).1 + residual));
            }
        }
    }

    /// Where the ReLU was zero the gradient becomes it; the sums of the gradient, and of the gradient
    /// times the normalised value. Without `x`, the second is zero.
    fn reduce<S>(channel: Channel, x: &[f32], relu: bool, gradient: &mut [f32], sums: &mut [f64; 2]) {
        if x.is_empty() {
            *sums = [sum_of([gradient], |sum, [g]| sum + g), 0.0];
            return;
        }
        if relu {
            for (gradient, x) in gradient.iter_mut().zip(x) {
                *gradient = if channel.normed(*x).1 <= 0.0 { 0.0 } else { *gradient };
            }
        }
        let (mean, inverse) = (f64::from(channel.mean), f64::from(channel.inverse));
        *sums = [
            sum_of([gradient], |sum, [g]| sum + g),
            sum_of([gradient, x], |sum: f64, [g, x]| sum + g * (x - mean)) * inverse,
        ];
    }

    /// From the gradient of the output to that of the input: `gamma / sqrt(..)` times what is left
    /// when the means of [`reduce`]'s terms are taken off.
    fn denormalise<S>(channel: Channel, x: &[f32], means: [f32; 2], gradient: &mut [f32]) {
        let factor = channel.gamma * channel.inverse;
        if x.is_empty() || means == [0.0; 2] {
            for gradient in gradient.iter_mut() {
                *gradient *= factor;
            }
            return;
        }
        for (gradient, x) in gradient.iter_mut().zip(x) {
            *gradient = factor * (*gradient - means[0] - channel.normed(*x).0 * means[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        Case, Tensors, View, compare, noise, results, same_on_any_threads, same_where_not_finite,
        views,
    };

    /// Which statistics, and what follows.
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
            match self.batch {
                true => {
                    let affine = [t.get(1), t.get(2)];
                    batch_norm_train(t.get(0), affine, 1e-5, residual, self.relu).output
                }
                false => batch_norm(t.get(0), fixed(t), residual, self.relu),
            }
        }

        fn composed(self, t: &Tensors) -> Tensor<4> {
            let y = match self.batch {
                true => module::batch_norm_train(t.get::<4>(0), t.get(1), t.get(2), 1e-5).output,
                false => fixed(t).composed(t.get(0)),
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
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn values_and_gradients_agree_with_the_composed_operation(
            shape in [1usize..5, 4usize..9, 1usize..12, 1usize..12], view in views(),
            [batch, residual, relu]: [bool; 3], wanted in 1u32..8, seed in 1u32..1000,
        ) {
            // Of a few values the statistics are differences of what is nearly equal.
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
    fn what_is_no_number_stays_where_burn_leaves_it() {
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
}
