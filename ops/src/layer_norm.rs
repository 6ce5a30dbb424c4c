//! Layer normalisation (Ba, Kiros and Hinton 2016), with a backward pass that keeps the input and two
//! statistics per row.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::bridge::apply;
use crate::buffer::{Unset, written};
use crate::composed;
use crate::cube;
use crate::math::{ROWS, partial_sums, sum_of};
use crate::operation::{Operation, tensor, values};
use crate::simd::multiversion;

/// `gamma (x - mean) / sqrt(variance + epsilon) + beta` over the last axis, with the biased variance.
///
/// # Shapes
/// `x [.., d]`, `gamma [d]`, `beta [d]` `-> [.., d]`.
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let inputs = [
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
    ];
    match apply(LayerNorm { epsilon }, inputs) {
        Ok(y) => Tensor::from_dispatch(y),
        Err(inputs) => cube::layer_norm(inputs, epsilon).unwrap_or_else(|inputs| {
            composed::layer_norm(inputs, epsilon).unwrap_or_else(|[x, gamma, beta]| {
                let [gamma, beta] = [gamma, beta].map(Tensor::from_dispatch);
                let x = Tensor::from_dispatch(x);
                burn::tensor::module::layer_norm(x, gamma, Some(beta), epsilon)
            })
        }),
    }
}

#[derive(Clone, Debug)]
struct LayerNorm {
    epsilon: f64,
}

/// What backward needs: the input, gamma, and mean and inverse deviation of each row.
type Saved = (FlexTensor, FlexTensor, Arc<Vec<f64>>);

impl Operation<FlexTensor, 3> for LayerNorm {
    type Saved = Saved;

    fn forward(&self, [x, gamma, beta]: [FlexTensor; 3], _: [bool; 3]) -> (FlexTensor, Saved) {
        let (input, factors, offsets) = (values(&x), values(&gamma), values(&beta));
        let d = factors.len();
        let rows = input.len() / d.max(1);
        let mut statistics = vec![0.0; 2 * rows];
        // SAFETY: the chunks of rows cover the output, those of the input are as long, and `normalise` writes
        // each value of its rows.
        let y = unsafe {
            written(input.len(), |y| {
                let chunk = (ROWS * d).max(1);
                let chunks = y.par_chunks_mut(chunk).zip(input.par_chunks(chunk));
                let chunks = chunks.zip(statistics.par_chunks_mut(2 * ROWS));
                chunks.for_each(|((y, x), statistics)| {
                    normalise(x, factors, offsets, self.epsilon, y, statistics);
                });
            })
        };
        let y = tensor(y, x.shape());
        (y, (x, gamma, Arc::new(statistics)))
    }

    fn backward(
        &self,
        (x, gamma, statistics): Saved,
        gradient: FlexTensor,
        [x_wanted, gamma_wanted, beta_wanted]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let (input, factors, gradient) = (values(&x), values(&gamma), values(&gradient));
        let d = factors.len();
        let chunk = (ROWS * d).max(1);
        let of = |task: usize| {
            let part = task * chunk..input.len().min((task + 1) * chunk);
            let statistics = &statistics[2 * part.start / d..2 * part.end / d];
            (&input[part.clone()], &gradient[part], statistics)
        };
        let dx = x_wanted.then(|| {
            // SAFETY: the chunks of rows cover the gradient, those of `of` are as long, and `slopes` writes
            // each value of its rows.
            let dx = unsafe {
                written(input.len(), |dx| {
                    let chunks = dx.par_chunks_mut(chunk).enumerate();
                    chunks.for_each(|(task, dx)| {
                        let (x, g, statistics) = of(task);
                        slopes(x, factors, statistics, g, dx);
                    });
                })
            };
            tensor(dx, x.shape())
        });
        let [mut dgamma, mut dbeta] = [None, None];
        if gamma_wanted || beta_wanted {
            let tasks = input.len().div_ceil(chunk);
            let mut sums = partial_sums(tasks, 2 * d, |task, sums| {
                let (x, g, statistics) = of(task);
                parameter_slopes(x, statistics, g, sums);
            });
            let of_offsets = sums.split_off(d);
            dgamma = gamma_wanted.then(|| tensor(sums, [d]));
            dbeta = beta_wanted.then(|| tensor(of_offsets, [d]));
        }
        [dx, dgamma, dbeta]
    }
}

multiversion! {
    // All of it in `f64`: in a row of few values, almost nothing is left of the input's gradient once its
    // mean and its projection are taken off. It takes no longer, because these loops wait for memory.

    /// Normalises rows as long as `gamma`. The mean and the inverse deviation of each go to `statistics`.
    fn normalise<S>(
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f64,
        y: &mut [Unset],
        statistics: &mut [f64],
    ) {
        let d = gamma.len();
        let share = 1.0 / d as f64;
        let rows = x.chunks_exact(d).zip(y.chunks_exact_mut(d));
        for ((x, y), statistics) in rows.zip(statistics.chunks_exact_mut(2)) {
            let mean = sum_of([x], |sum: f64, [x]| sum + x) * share;
            // A second pass: the mean of squares less the square of the mean would cancel. The row is in
            // the first cache by now.
            let squares = sum_of([x], |sum: f64, [x]| sum + (x - mean) * (x - mean));
            let scale = 1.0 / (squares * share + epsilon).sqrt();
            for (((y, x), gamma), beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                let normed = (f64::from(*x) - mean) * scale;
                y.write((normed * f64::from(*gamma) + f64::from(*beta)) as f32);
            }
            statistics.copy_from_slice(&[mean, scale]);
        }
    }

    /// With `n` the normalised row and `h = gamma g`: `dx = scale (h - mean(h) - n mean(h n))`.
    fn slopes<S>(x: &[f32], gamma: &[f32], statistics: &[f64], g: &[f32], dx: &mut [Unset]) {
        let d = gamma.len();
        let share = 1.0 / d as f64;
        let rows = x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d));
        for (((x, g), dx), statistics) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, scale) = (statistics[0], statistics[1]);
            let of_h = sum_of([g, gamma], |sum: f64, [g, gamma]| sum + g * gamma) * share;
            let of_both = sum_of([x, g, gamma], |sum: f64, [x, g, gamma]| {
                sum + g * gamma * (x - mean)
            });
            let of_both = of_both * scale * share;
            for (((dx, x), g), gamma) in dx.iter_mut().zip(x).zip(g).zip(gamma) {
                let normed = (f64::from(*x) - mean) * scale;
                let h = f64::from(*g) * f64::from(*gamma);
                dx.write((scale * (h - of_h - normed * of_both)) as f32);
            }
        }
    }

    /// Adds `g n` to the first half of `sums` and `g` to the second.
    fn parameter_slopes<S>(x: &[f32], statistics: &[f64], g: &[f32], sums: &mut [f64]) {
        let d = sums.len() / 2;
        let (dgamma, dbeta) = sums.split_at_mut(d);
        let rows = x.chunks_exact(d).zip(g.chunks_exact(d));
        for ((x, g), statistics) in rows.zip(statistics.chunks_exact(2)) {
            let (mean, scale) = (statistics[0], statistics[1]);
            let sums = dgamma.iter_mut().zip(dbeta.iter_mut());
            for (((dgamma, dbeta), x), g) in sums.zip(x).zip(g) {
                let g = f64::from(*g);
                *dgamma += g * (f64::from(*x) - mean) * scale;
                *dbeta += g;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        Case, Tensors, View, cases, compare, results, same_on_any_threads, same_where_not_finite,
        views,
    };

    const EPSILON: f64 = 1e-6;

    fn op(t: &Tensors) -> Tensor<3> {
        layer_norm(t.get(0), t.get(1), t.get(2), EPSILON)
    }

    fn composed(t: &Tensors) -> Tensor<3> {
        burn::tensor::module::layer_norm(t.get(0), t.get(1), Some(t.get(2)), EPSILON)
    }

    fn case([b, n, d]: [usize; 3], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&[b, n, d], view);
        case.with(&[d], View::Plain).with(&[d], View::Plain)
    }

    proptest! {
        #![proptest_config(cases(48))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, n in 1usize..100, d in 2usize..200, wanted in 0u32..8, view in views(),
            seed in 1u32..1000,
        ) {
            compare(&case([b, n, d], view, seed).wanting(wanted), op, composed);
        }
    }

    #[test]
    fn huge_and_tiny_values_are_as_close() {
        for factor in [1e15, 1e3, 1e-3, 1e-15] {
            let case = Case::new(3).with(&[2, 5, 33], View::Plain).times(factor);
            let case = case.with(&[33], View::Plain).with(&[33], View::Plain);
            compare(&case, op, composed);
        }
    }

    #[test]
    fn rows_that_are_empty_or_not_finite_stay_so() {
        assert!(
            results(&case([2, 0, 5], View::Plain, 1), op)[0]
                .1
                .is_empty()
        );
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = crate::testing::noise(3 * 40, 1);
            values[45] = value;
            let case = Case::new(1).with_values(&[1, 3, 40], values, View::Plain);
            let case = case.with(&[40], View::Plain).with(&[40], View::Plain);
            same_where_not_finite(&case, op, composed);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case([2, 300, 20], View::Plain, 5);
        same_on_any_threads(|| results(&case, op));
    }
}
