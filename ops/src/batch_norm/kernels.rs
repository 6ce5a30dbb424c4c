//! Loops over one map of one channel.

use crate::buffer::Unset;
use crate::math::sum_of;
use crate::simd::multiversion;

/// A norm's numbers for one channel.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) mean: f32,
    /// `1 / sqrt(variance + epsilon)`.
    pub(super) inverse: f32,
    pub(super) gamma: f32,
    pub(super) beta: f32,
}

impl Channel {
    /// The normalised value, and `gamma` times it plus `beta`.
    #[inline(always)]
    fn normed(self, x: f32) -> (f32, f32) {
        let normed = (x - self.mean) * self.inverse;
        (normed, normed * self.gamma + self.beta)
    }
}

/// The sum of the values. In `f64`, as all sums over a batch: thousands of values would round away
/// the last digits of an `f32`.
pub(super) fn sum(x: &[f32]) -> f64 {
    let mut sum = [0.0];
    add_up(x, &mut sum);
    sum[0]
}

/// The sum of the squared distances from the mean.
pub(super) fn squares(x: &[f32], mean: f32) -> f64 {
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

    /// Normalises one map and adds the residual, if it is not empty. The ReLU is a lower bound, minus
    /// infinity where there is none, so that one loop serves both; NaN passes either.
    pub(super) fn normalise<S>(channel: Channel, x: &[f32], residual: &[f32], relu: bool, y: &mut [Unset]) {
        // `f32::max` would drop NaN; this comparison keeps it.
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

    /// Clears the gradient where the ReLU cut a value off. `sums` becomes the sum of the gradient and that
    /// of the gradient times the normalised value, which is zero where `x` is empty.
    pub(super) fn reduce<S>(channel: Channel, x: &[f32], relu: bool, gradient: &mut [f32], sums: &mut [f64; 2]) {
        if x.is_empty() {
            *sums = [sum_of([gradient], |sum, [g]| sum + g), 0.0];
            return;
        }
        if relu {
            for (gradient, x) in gradient.iter_mut().zip(x) {
                *gradient = if channel.normed(*x).1 <= 0.0 { 0.0 } else { *gradient };
            }
        }
        // Centred in `f64` from the input, not from the rounded normalised value: of the two sums only a
        // small difference is left in the gradient. The factor is the same for all values.
        let (mean, inverse) = (f64::from(channel.mean), f64::from(channel.inverse));
        *sums = [
            sum_of([gradient], |sum, [g]| sum + g),
            sum_of([gradient, x], |sum: f64, [g, x]| sum + g * (x - mean)) * inverse,
        ];
    }

    /// From the gradient of the output to that of the input: `gamma / sqrt(variance + epsilon)` times what
    /// is left of it after subtracting the means of the terms that [`reduce`] sums. With fixed statistics
    /// these means are zero, and `x` is not needed.
    pub(super) fn denormalise<S>(channel: Channel, x: &[f32], means: [f32; 2], gradient: &mut [f32]) {
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
