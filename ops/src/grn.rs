//! Global response normalisation (Woo et al. 2023, Algorithm 1), with a backward pass that keeps the input and
//! one number for each image and channel.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::bridge::apply;
use crate::buffer::{Unset, written};
use crate::math::{ROWS, column_sums, partial_sums};
use crate::operation::{Operation, tensor, values};
use crate::scale_shift::scale_shift_rows;
use crate::simd::multiversion;

/// `x + weight (x n) + bias`, where `n` is the length of a channel over all positions of an image, divided by
/// `epsilon` plus the mean of these lengths.
///
/// # Shapes
/// `x [b, h, w, c]`, `weight [c]`, `bias [c]` `-> [b, h, w, c]`.
pub fn global_response_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> Tensor<4> {
    let inputs = [
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ];
    match apply(Grn { epsilon }, inputs) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([x, weight, bias]) => {
            let [weight, bias] = [weight, bias].map(Tensor::from_dispatch);
            composed(Tensor::from_dispatch(x), weight, bias, epsilon)
        }
    }
}

/// The same of Burn's operations; at least in `f32`, because squares of halves overflow.
fn composed(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<4> {
    /// Added to a sum of squares, where it changes nothing unless all of them are zero: the root of zero has no
    /// derivative.
    const TINY: f64 = 1e-30;
    let dtype = x.dtype();
    let wide = match dtype {
        DType::F64 => x.clone(),
        _ => x.clone().cast(DType::F32),
    };
    let [b, h, w, c] = wide.dims();
    let squares = wide.clone() * wide;
    let lengths = (squares.reshape([b, h * w, c]).sum_dim(1) + TINY).sqrt(); // [b, 1, c]
    let normed = lengths.clone() / (lengths.mean_dim(2) + epsilon);
    let normed = normed.reshape([b, 1, 1, c]).cast(dtype);
    x * (normed * weight.reshape([1, 1, 1, c]) + 1.0) + bias.reshape([1, 1, 1, c])
}

#[derive(Clone, Debug)]
struct Grn {
    epsilon: f64,
}

/// The input, the weight, and the length of each channel of each image.
type Saved = (FlexTensor, FlexTensor, Arc<Vec<f64>>);

impl Grn {
    /// The divisor of the lengths of an image's channels.
    fn divisor(&self, lengths: &[f64]) -> f64 {
        lengths.iter().sum::<f64>() / lengths.len() as f64 + self.epsilon
    }

    /// `1 + weight n` for each channel of an image.
    fn factors(&self, lengths: &[f64], weight: &[f32]) -> Vec<f32> {
        let divisor = self.divisor(lengths);
        let channels = lengths.iter().zip(weight);
        let factor = |(length, weight): (&f64, &f32)| 1.0 + f64::from(*weight) * length / divisor;
        channels.map(|channel| factor(channel) as f32).collect()
    }

    /// The gradients of the weight, and of the squares of an image's values by half, from the sums of the
    /// products of its values with their gradients.
    fn slopes(&self, lengths: &[f64], weight: &[f32], products: &[f32]) -> [Vec<f64>; 2] {
        let divisor = self.divisor(lengths);
        let of_weight = lengths.iter().zip(products);
        let of_weight = of_weight.map(|(length, product)| f64::from(*product) * length / divisor);
        // That of the normed lengths.
        let of_normed: Vec<f64> = weight
            .iter()
            .zip(products)
            .map(|(weight, product)| f64::from(*weight) * f64::from(*product))
            .collect();
        let sum = |total: f64, (slope, length): (&f64, &f64)| total + slope * length;
        let along = of_normed.iter().zip(lengths).fold(0.0, sum);
        let shared = along / (divisor * divisor * lengths.len() as f64);
        let of_values = of_normed.iter().zip(lengths).map(|(slope, length)| {
            // A channel of zeros has no direction: its gradient is zero, as in PyTorch.
            match *length > 0.0 {
                true => (slope / divisor - shared) / length,
                false => 0.0,
            }
        });
        [of_weight.collect(), of_values.collect()]
    }
}

impl Operation<FlexTensor, 3> for Grn {
    type Saved = Saved;

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3], _: [bool; 3]) -> (FlexTensor, Saved) {
        let (input, factors, offsets) = (values(&x), values(&weight), values(&bias));
        let (c, image) = (factors.len(), image(&x));
        let (part, mut lengths) = ((ROWS * c).max(1), Vec::new());
        for x in input.chunks_exact(image.max(1)) {
            // As many tasks whatever the number of threads, so that sums are the same.
            let squares = partial_sums(image.div_ceil(part), c, |task, sums| {
                let end = image.min((task + 1) * part);
                add_products(&x[task * part..end], &x[task * part..end], sums);
            });
            lengths.extend(squares.into_iter().map(|sum| f64::from(sum).sqrt()));
        }
        // SAFETY: the chunks of images, and those of rows in them, cover the output, those of the input are as
        // long, and `scale_shift_rows` writes each value of its rows.
        let y = unsafe {
            written(input.len(), |y| {
                let images = y
                    .par_chunks_mut(image.max(1))
                    .zip(input.par_chunks(image.max(1)));
                let images = images.zip(lengths.par_chunks(c.max(1)));
                images.for_each(|((y, x), lengths)| {
                    let factors = self.factors(lengths, factors);
                    let chunks = y.par_chunks_mut(part).zip(x.par_chunks(part));
                    chunks.for_each(|(y, x)| scale_shift_rows(x, &factors, offsets, y));
                });
            })
        };
        let y = tensor(y, x.shape());
        (y, (x, weight, Arc::new(lengths)))
    }

    fn backward(
        &self,
        (x, weight, lengths): Saved,
        gradient: FlexTensor,
        [x_wanted, weight_wanted, bias_wanted]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let (input, factors, g) = (values(&x), values(&weight), values(&gradient));
        let (c, image) = (factors.len(), image(&x));
        let part = (ROWS * c).max(1);
        let (mut dweight, mut of_values) = (vec![0.0; c], Vec::new());
        if x_wanted || weight_wanted {
            let images = input
                .chunks_exact(image.max(1))
                .zip(g.chunks_exact(image.max(1)));
            for ((x, g), lengths) in images.zip(lengths.chunks_exact(c.max(1))) {
                let products = partial_sums(image.div_ceil(part), c, |task, sums| {
                    let rows = task * part..image.min((task + 1) * part);
                    add_products(&x[rows.clone()], &g[rows], sums);
                });
                let [own, slopes] = self.slopes(lengths, factors, &products);
                dweight
                    .iter_mut()
                    .zip(own)
                    .for_each(|(sum, own)| *sum += own);
                of_values.extend(slopes.into_iter().map(|slope| slope as f32));
            }
        }
        let dx = x_wanted.then(|| {
            // SAFETY: the chunks of images, and those of rows in them, cover the gradient, the others are as
            // long, and `input_slopes` writes each value of its rows.
            let dx = unsafe {
                written(input.len(), |dx| {
                    let images = dx.par_chunks_mut(image.max(1)).enumerate();
                    images.for_each(|(index, dx)| {
                        let channels = index * c..(index + 1) * c;
                        let factors = self.factors(&lengths[channels.clone()], factors);
                        let slopes = &of_values[channels];
                        let values = index * image..(index + 1) * image;
                        let (x, g) = (&input[values.clone()], &g[values]);
                        let chunks = dx.par_chunks_mut(part).zip(x.par_chunks(part));
                        let chunks = chunks.zip(g.par_chunks(part));
                        chunks.for_each(|((dx, x), g)| input_slopes(x, g, &factors, slopes, dx));
                    });
                })
            };
            tensor(dx, x.shape())
        });
        let dweight = dweight.into_iter().map(|sum| sum as f32);
        let dweight = weight_wanted.then(|| tensor(dweight.collect(), [c]));
        let dbias = bias_wanted.then(|| tensor(column_sums(g, c), [c]));
        [dx, dweight, dbias]
    }
}

/// Values of an image.
fn image(x: &FlexTensor) -> usize {
    x.shape()[1..].iter().product()
}

multiversion! {
    /// Adds the products of two lists of rows to `sums`, column by column.
    fn add_products<S>(x: &[f32], y: &[f32], sums: &mut [f64]) {
        let rows = x.chunks_exact(sums.len()).zip(y.chunks_exact(sums.len()));
        for (x, y) in rows {
            for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
                *sum += f64::from(*x) * f64::from(*y);
            }
        }
    }

    /// `factor g + slope x`.
    fn input_slopes<S>(x: &[f32], g: &[f32], factors: &[f32], slopes: &[f32], dx: &mut [Unset]) {
        let c = factors.len();
        let rows = x.chunks_exact(c).zip(g.chunks_exact(c)).zip(dx.chunks_exact_mut(c));
        for ((x, g), dx) in rows {
            let values = dx.iter_mut().zip(x).zip(g);
            for ((((dx, x), g), factor), slope) in values.zip(factors).zip(slopes) {
                dx.write(S::fma(*slope, *x, factor * g));
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

    fn op(t: &Tensors) -> Tensor<4> {
        global_response_norm(t.get(0), t.get(1), t.get(2), EPSILON)
    }

    fn burns(t: &Tensors) -> Tensor<4> {
        composed(t.get(0), t.get(1), t.get(2), EPSILON)
    }

    fn case([b, h, w, c]: [usize; 4], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&[b, h, w, c], view);
        case.with(&[c], View::Plain).with(&[c], View::Plain)
    }

    proptest! {
        #![proptest_config(cases(48))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, h in 1usize..12, w in 1usize..12, c in 1usize..70, wanted in 0u32..8,
            view in views(), seed in 1u32..1000,
        ) {
            compare(&case([b, h, w, c], view, seed).wanting(wanted), op, burns);
        }
    }

    #[test]
    fn a_channel_of_zeros_has_a_finite_gradient() {
        let mut values = crate::testing::noise(2 * 9 * 5, 3);
        values
            .iter_mut()
            .skip(2)
            .step_by(5)
            .for_each(|value| *value = 0.0);
        let case = Case::new(2).with_values(&[2, 3, 3, 5], values, View::Plain);
        let case = case.with(&[5], View::Plain).with(&[5], View::Plain);
        for (name, values) in results(&case, op) {
            assert!(values.iter().all(|value| value.is_finite()), "{name}");
        }
    }

    #[test]
    fn maps_that_are_empty_or_not_finite_stay_so() {
        let empty = case([0, 3, 3, 5], View::Plain, 1).wanting(0);
        assert!(results(&empty, op)[0].1.is_empty());
        for value in [f32::NAN, f32::INFINITY] {
            let mut values = crate::testing::noise(2 * 9 * 20, 1);
            values[45] = value;
            let case = Case::new(1).with_values(&[2, 3, 3, 20], values, View::Plain);
            let case = case.with(&[20], View::Plain).with(&[20], View::Plain);
            same_where_not_finite(&case, op, burns);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case([2, 20, 15, 20], View::Plain, 5);
        same_on_any_threads(|| results(&case, op));
    }
}
