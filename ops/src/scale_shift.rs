//! A factor and an offset for each channel (Lian et al. 2022; LayerScale, Touvron et al. 2021) in one
//! pass over memory.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::bridge::apply;
use crate::buffer::{Unset, written};
use crate::math::{ROWS, partial_sums};
use crate::operation::{Operation, tensor, values};
use crate::simd::multiversion;

/// `scale x + shift` along the last axis.
///
/// # Shapes
/// `x [.., c]`, `scale [c]`, `shift [c]` `-> [.., c]`.
pub fn scale_shift<const D: usize>(x: Tensor<D>, scale: Tensor<1>, shift: Tensor<1>) -> Tensor<D> {
    let inputs = [
        x.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
    ];
    match apply(ScaleShift, inputs) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([x, scale, shift]) => {
            let [scale, shift] = [scale, shift].map(Tensor::<1>::from_dispatch);
            Tensor::<D>::from_dispatch(x) * scale.unsqueeze() + shift.unsqueeze()
        }
    }
}

#[derive(Clone, Debug)]
struct ScaleShift;

/// What backward needs: the input, if the scale wants a gradient, and the scale.
type Saved = (Option<FlexTensor>, FlexTensor);

impl Operation<FlexTensor, 3> for ScaleShift {
    type Saved = Saved;

    fn forward(
        &self,
        [x, scale, shift]: [FlexTensor; 3],
        [_, scale_wanted, _]: [bool; 3],
    ) -> (FlexTensor, Saved) {
        let y = scaled(values(&x), values(&scale), Some(values(&shift)));
        let y = tensor(y, x.shape());
        (y, (scale_wanted.then_some(x), scale))
    }

    fn backward(
        &self,
        (x, scale): Saved,
        gradient: FlexTensor,
        [x_wanted, scale_wanted, shift_wanted]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let (factors, g) = (values(&scale), values(&gradient));
        let c = factors.len();
        let dx = x_wanted.then(|| tensor(scaled(g, factors, None), gradient.shape()));
        // Tasks of whole rows, as many whatever the number of threads, so that sums are the same.
        let part = (ROWS * c).max(1);
        let tasks = g.len().div_ceil(part);
        let of = |task: usize| task * part..g.len().min((task + 1) * part);
        let [mut dscale, mut dshift] = [None, None];
        match x.filter(|_| scale_wanted) {
            Some(x) => {
                let x = values(&x);
                let mut sums = partial_sums(tasks, 2 * c, |task, sums| {
                    both_slopes(&x[of(task)], &g[of(task)], sums);
                });
                let offsets = sums.split_off(c);
                dscale = Some(tensor(sums, [c]));
                dshift = shift_wanted.then(|| tensor(offsets, [c]));
            }
            // Without the scale's gradient the input was not kept, and is not needed.
            None if shift_wanted => dshift = Some(tensor(crate::math::column_sums(g, c), [c])),
            None => {}
        }
        [dx, dscale, dshift]
    }
}

/// `scale x + shift`, without the shift if there is none.
fn scaled(x: &[f32], scale: &[f32], shift: Option<&[f32]>) -> Vec<f32> {
    let part = (ROWS * scale.len()).max(1);
    // SAFETY: the chunks of rows cover the output, those of the input are as long, and both kernels write
    // each value of their rows.
    unsafe {
        written(x.len(), |y| {
            let chunks = y.par_chunks_mut(part).zip(x.par_chunks(part));
            chunks.for_each(|(y, x)| match shift {
                Some(shift) => scale_shift_rows(x, scale, shift, y),
                None => scale_rows(x, scale, y),
            });
        })
    }
}

multiversion! {
    /// `scale x + shift` for rows as long as both.
    pub(crate) fn scale_shift_rows<S>(x: &[f32], scale: &[f32], shift: &[f32], y: &mut [Unset]) {
        let rows = x.chunks_exact(scale.len()).zip(y.chunks_exact_mut(scale.len()));
        for (x, y) in rows {
            for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                y.write(S::fma(*x, *scale, *shift));
            }
        }
    }

    fn scale_rows<S>(x: &[f32], scale: &[f32], y: &mut [Unset]) {
        let rows = x.chunks_exact(scale.len()).zip(y.chunks_exact_mut(scale.len()));
        for (x, y) in rows {
            for ((y, x), scale) in y.iter_mut().zip(x).zip(scale) {
                y.write(x * scale);
            }
        }
    }

    /// Adds `g x` to the first half of `sums` and `g` to the second, so that `g` is read once.
    fn both_slopes<S>(x: &[f32], g: &[f32], sums: &mut [f64]) {
        let c = sums.len() / 2;
        let (dscale, dshift) = sums.split_at_mut(c);
        for (x, g) in x.chunks_exact(c).zip(g.chunks_exact(c)) {
            let sums = dscale.iter_mut().zip(dshift.iter_mut());
            for (((dscale, dshift), x), g) in sums.zip(x).zip(g) {
                let g = f64::from(*g);
                *dscale += g * f64::from(*x);
                *dshift += g;
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

    fn op(t: &Tensors) -> Tensor<3> {
        scale_shift(t.get(0), t.get(1), t.get(2))
    }

    fn composed(t: &Tensors) -> Tensor<3> {
        t.get::<3>(0) * t.get::<1>(1).unsqueeze() + t.get::<1>(2).unsqueeze()
    }

    fn case([b, n, c]: [usize; 3], view: View, seed: u32) -> Case {
        let case = Case::new(seed).with(&[b, n, c], view);
        case.with(&[c], View::Plain).with(&[c], View::Plain)
    }

    proptest! {
        #![proptest_config(cases(48))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, n in 1usize..100, c in 1usize..100, wanted in 0u32..8, view in views(),
            seed in 1u32..1000,
        ) {
            compare(&case([b, n, c], view, seed).wanting(wanted), op, composed);
        }
    }

    #[test]
    fn what_is_empty_or_not_finite_stays_so() {
        assert!(
            results(&case([2, 0, 5], View::Plain, 1), op)[0]
                .1
                .is_empty()
        );
        for value in [f32::NAN, f32::INFINITY, 1e38] {
            let mut values = crate::testing::noise(3 * 40, 1);
            values
                .iter_mut()
                .skip(45)
                .step_by(3)
                .for_each(|v| *v *= value);
            let case = Case::new(1).with_values(&[1, 3, 40], values, View::Plain);
            let case = case
                .with(&[40], View::Plain)
                .times(10.0)
                .with(&[40], View::Plain);
            same_where_not_finite(&case, op, composed);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case([2, 300, 20], View::Plain, 5);
        same_on_any_threads(|| results(&case, op));
    }
}
