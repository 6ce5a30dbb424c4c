//! The statistics of each channel, fixed ones or those of a batch.

use std::sync::Arc;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::FixedNorm;
use super::kernels::{squares, sum};
use super::maps::Maps;
use crate::constant::constant;
use crate::operation::values;

/// The statistics of each channel, all `[c]`.
#[derive(Clone, Debug)]
pub(super) struct Statistics {
    pub(super) mean: Arc<Vec<f32>>,
    pub(super) variance: Arc<Vec<f32>>,
    /// `1 / sqrt(variance + epsilon)`.
    pub(super) inverse: Arc<Vec<f32>>,
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

    /// Those of a norm, if they are `f32` on the CPU.
    pub(super) fn fixed(norm: &FixedNorm) -> Option<Self> {
        let mean = values(&constant(norm.mean.clone())?).to_vec();
        let variance = values(&constant(norm.variance.clone())?).to_vec();
        Some(Self::new(mean, variance, norm.epsilon))
    }

    /// The mean and the biased variance of each channel, if the batch is `f32` on the CPU. In two passes:
    /// as the mean of squares less the square of the mean, the variance would lose its digits where the
    /// mean is large.
    pub(super) fn of_batch(x: &Tensor<4>, epsilon: f64) -> Option<Self> {
        let x = constant(x.clone())?;
        let (maps, x) = Maps::of(&x).gathered(values(&x));
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

    /// Whether all sizes are those of the input's channels. If not, Burn's operation reports the error.
    pub(super) fn fits(
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

/// The sum of each channel of maps `[b, channels, area]`.
pub(crate) fn channel_sums(x: &[f32], channels: usize, area: usize) -> Vec<f32> {
    let maps = Maps {
        images: x.len().checked_div(channels * area).unwrap_or(0),
        channels,
        area,
    };
    let (maps, x) = maps.gathered(x);
    let of_channel = |channel: usize| {
        let sums = maps
            .starts(channel)
            .map(|start| sum(&x[start..start + maps.area]));
        sums.sum::<f64>() as f32
    };
    (0..channels).into_par_iter().map(of_channel).collect()
}
