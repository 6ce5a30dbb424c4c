//! Images cut into patches, so that a patch embedding (Dosovitskiy et al. 2021) is a matrix product.

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::bridge::apply;
use crate::buffer::{Unset, written};
use crate::operation::{Operation, tensor, values};

/// The patches of `p` rows and `q` columns, from left to right and from the top down. The values of a patch
/// are in the order of channel, row and column.
///
/// # Shapes
/// `[b, c, gh p, gw q] -> [b, gh gw, c p q]`.
///
/// # Panics
/// If patches do not divide the image.
pub fn patches(x: Tensor<4>, [p, q]: [usize; 2]) -> Tensor<3> {
    let [_, _, h, w] = x.dims();
    assert!(
        h.is_multiple_of(p) && w.is_multiple_of(q),
        "expected patches that divide {h} x {w} pixels, got {p} x {q}"
    );
    match apply(Patches { size: [p, q] }, [x.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([x]) => composed(Tensor::from_dispatch(x), [p, q]),
    }
}

/// The patches as Burn's operations.
fn composed(x: Tensor<4>, [p, q]: [usize; 2]) -> Tensor<3> {
    let [b, c, h, w] = x.dims();
    let (gh, gw) = (h / p, w / q);
    x.reshape([b, c, gh, p, gw, q])
        .permute([0, 2, 4, 1, 3, 5]) // [b, gh, gw, c, p, q]
        .reshape([b, gh * gw, c * p * q])
}

#[derive(Clone, Copy, Debug)]
struct Patches {
    size: [usize; 2],
}

impl Operation<FlexTensor, 1> for Patches {
    /// The shape of the images.
    type Saved = [usize; 4];

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, [usize; 4]) {
        let shape: [usize; 4] = std::array::from_fn(|axis| x.shape()[axis]);
        let ([p, q], [b, c, h, w]) = (self.size, shape);
        let (gw, image) = (w / q, values(&x));
        // SAFETY: the output has one chunk for each row of patches, and its runs of `q` values fill the
        // chunk.
        let y = unsafe {
            written(image.len(), |y| {
                let rows = y.par_chunks_mut((c * p * w).max(1)).enumerate();
                // Written in order, read in runs: a scattered read is cheaper than a scattered write.
                rows.for_each(|(row, y)| {
                    self.runs(shape, row, |patch, pixels| {
                        let y: &mut [Unset] = &mut y[patch..patch + q];
                        y.write_copy_of_slice(&image[pixels..pixels + q]);
                    })
                });
            })
        };
        (tensor(y, [b, h / p * gw, c * p * q]), shape)
    }

    fn backward(
        &self,
        shape: [usize; 4],
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let ([p, q], [b, c, h, w]) = (self.size, shape);
        let (g, image) = (values(&gradient), c * h * w);
        // SAFETY: the output has one chunk for each image, and the runs of `q` values of all its rows of
        // patches fill the chunk.
        let dx = unsafe {
            written(b * image, |dx| {
                let images = dx.par_chunks_mut(image.max(1)).enumerate();
                images.for_each(|(index, dx)| {
                    for row in index * (h / p)..(index + 1) * (h / p) {
                        let g = &g[row * c * p * w..][..c * p * w];
                        self.runs(shape, row, |patch, pixels| {
                            let pixels = pixels - index * image;
                            dx[pixels..pixels + q].write_copy_of_slice(&g[patch..patch + q]);
                        });
                    }
                });
            })
        };
        [Some(tensor(dx, shape))]
    }
}

impl Patches {
    /// Calls `f` with the place of every run of `q` values in a row of patches, which is counted across
    /// images: the place in the row's patches, and that in the images.
    fn runs(&self, [_, c, h, w]: [usize; 4], row: usize, mut f: impl FnMut(usize, usize)) {
        let ([p, q], gh) = (self.size, h / self.size[0]);
        for channel in 0..c {
            for line in 0..p {
                let pixels = ((row / gh * c + channel) * h + row % gh * p + line) * w;
                for patch in 0..w / q {
                    let place = ((patch * c + channel) * p + line) * q;
                    f(place, pixels + patch * q);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Case, View, cases, compare, results, same_on_any_threads, views};

    proptest! {
        #![proptest_config(cases(32))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, c in 1usize..4, gh in 1usize..5, gw in 1usize..5, p in 1usize..5,
            q in 1usize..20, view in views(), seed in 1u32..1000,
        ) {
            let case = Case::new(seed).with(&[b, c, gh * p, gw * q], view);
            compare(&case, |t| patches(t.get(0), [p, q]), |t| composed(t.get(0), [p, q]));
        }
    }

    #[test]
    fn an_empty_batch_stays_empty_and_values_are_kept() {
        let empty = Case::new(1).with(&[0, 3, 4, 4], View::Plain).wanting(0);
        assert!(
            results(&empty, |t| patches(t.get(0), [2, 2]))[0]
                .1
                .is_empty()
        );
        let values = vec![f32::NAN, f32::INFINITY, 1e38, 1e-38];
        let case = Case::new(1)
            .with_values(&[1, 1, 2, 2], values, View::Plain)
            .wanting(0);
        let got = &results(&case, |t| patches(t.get(0), [1, 1]))[0].1;
        assert!(got[0].is_nan() && got[1] == f64::INFINITY);
        assert_eq!(got[2..], [1e38, 1e-38].map(|value: f32| f64::from(value)));
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = Case::new(5).with(&[3, 3, 32, 48], View::Plain);
        same_on_any_threads(|| results(&case, |t| patches(t.get(0), [8, 16])));
    }
}
