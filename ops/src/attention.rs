//! Softmax attention on packed queries, keys and values (Vaswani et al. 2017), with a backward pass
//! that keeps the packed input and one log-sum-exp a row.

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use rayon::prelude::*;

use crate::bridge::{CpuOp, apply, tensor, values};
use crate::kernels;

/// `softmax(q k^T / sqrt(w)) v` for `heads` heads of `w = d / heads` contiguous channels.
///
/// # Shapes
/// `qkv [b, n, 3 d]` (all queries, then keys, then values) `-> [b, n, d]`.
pub fn attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    match apply(Attention { heads }, qkv.into_dispatch()) {
        Ok(y) => Tensor::from_dispatch(y),
        Err(qkv) => composed(Tensor::from_dispatch(qkv), heads),
    }
}

/// The same of Burn's operations.
fn composed(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let [b, n, d3] = qkv.dims();
    let (d, width) = (d3 / 3, d3 / 3 / heads);
    let qkv = qkv
        .reshape([b, n, 3, heads, width])
        .permute([2, 0, 3, 1, 4]); // [3, b, h, n, w]
    let part = |i| qkv.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
    let (q, k, v) = (part(0), part(1), part(2)); // [b, h, n, w]
    let scores = (q * (width as f64).powf(-0.5)).matmul(k.transpose()); // [b, h, n, n]
    let mixed = softmax(scores, 3).matmul(v); // [b, h, n, w]
    mixed.swap_dims(1, 2).reshape([b, n, d])
}

#[derive(Clone, Debug)]
struct Attention {
    heads: usize,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    width: usize,
}

impl Sizes {
    fn scale(self) -> f32 {
        (self.width as f32).powf(-0.5)
    }
    fn channels(self) -> usize {
        self.heads * self.width
    }
    /// Offset of head `head` of image `image` in a packed tensor; part 0 is q, 1 k, 2 v.
    fn packed(self, image: usize, head: usize, part: usize) -> usize {
        image * self.tokens * 3 * self.channels() + part * self.channels() + head * self.width
    }
    fn output(self, image: usize, head: usize) -> usize {
        image * self.tokens * self.channels() + head * self.width
    }
}

/// A strided matrix that is read.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    fn new(values: &'a [f32], row: usize) -> Self {
        Self {
            values,
            row,
            column: 1,
        }
    }
    fn transposed(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }
    fn reaches(&self, rows: usize, columns: usize) -> bool {
        rows * columns == 0
            || (rows - 1) * self.row + (columns - 1) * self.column < self.values.len()
    }
}

/// `out[i * row + j] = sum_k a[i, k] b[k, j]` on one thread.
fn product([m, k, n]: [usize; 3], a: Matrix, b: Matrix, out: *mut f32, row: usize) {
    assert!(a.reaches(m, k) && b.reaches(k, n));
    // SAFETY: reads stay inside the two slices, as asserted; the caller owns the m rows of n values
    // at `out`, `row` apart, and nobody else touches them meanwhile.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            row as isize,
            false,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A buffer that tasks write to at places that do not overlap.
#[derive(Clone, Copy)]
struct Shared(*mut f32);
// SAFETY: every task writes the columns of its own image and head only.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The place `offset` values in.
    ///
    /// # Safety
    /// `offset` lies inside the buffer.
    unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

thread_local! {
    /// Scores, and their gradient, of one head; kept because every head needs them.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// What backward needs: the packed input and the log-sum-exp `[b, h, n]`.
type Saved = (FlexTensor, Arc<Vec<f32>>);

impl Attention {
    fn sizes(&self, packed: &FlexTensor) -> Sizes {
        let shape = packed.shape();
        Sizes {
            batch: shape[0],
            tokens: shape[1],
            heads: self.heads,
            width: shape[2] / 3 / self.heads,
        }
    }
}

impl CpuOp for Attention {
    type Saved = Saved;

    fn forward(&self, packed: FlexTensor, tracked: bool) -> (FlexTensor, Option<Saved>) {
        let sizes = self.sizes(&packed);
        let Sizes {
            batch,
            tokens: n,
            heads,
            width: w,
        } = sizes;
        let (d, scale) = (sizes.channels(), sizes.scale());
        let input = values(&packed);
        let mut y = vec![0.0; batch * n * d];
        let mut lse = vec![0.0; batch * heads * n];
        let out = Shared(y.as_mut_ptr());
        lse.par_chunks_mut(n.max(1))
            .enumerate()
            .for_each(|(task, lse)| {
                let (image, head) = (task / heads, task % heads);
                let part = |i| Matrix::new(&input[sizes.packed(image, head, i)..], 3 * d);
                SCRATCH.with_borrow_mut(|[scores, _]| {
                    scores.resize(n * n, 0.0);
                    product(
                        [n, w, n],
                        part(0),
                        part(1).transposed(),
                        scores.as_mut_ptr(),
                        n,
                    );
                    kernels::softmax_rows(scores, n, scale, lse);
                    // SAFETY: the n rows of w values of this image and head lie inside `y`.
                    let place = unsafe { out.at(sizes.output(image, head)) };
                    product([n, n, w], Matrix::new(scores, n), part(2), place, d);
                });
            });
        let y = tensor(y, [batch, n, d]);
        (y, tracked.then(|| (packed, Arc::new(lse))))
    }

    fn backward(&self, (packed, lse): Saved, gradient: FlexTensor) -> FlexTensor {
        let sizes = self.sizes(&packed);
        let Sizes {
            batch,
            tokens: n,
            heads,
            width: w,
        } = sizes;
        let (d, scale) = (sizes.channels(), sizes.scale());
        let (input, gradient) = (values(&packed), values(&gradient));
        let mut dx = vec![0.0; input.len()];
        let out = Shared(dx.as_mut_ptr());
        (0..batch * heads).into_par_iter().for_each(|task| {
            let (image, head) = (task / heads, task % heads);
            let part = |i| Matrix::new(&input[sizes.packed(image, head, i)..], 3 * d);
            let (q, k, v) = (part(0), part(1), part(2));
            let dy = Matrix::new(&gradient[sizes.output(image, head)..], d);
            // SAFETY: the n rows of w values of this image, head and part lie inside `dx`.
            let place = |i| unsafe { out.at(sizes.packed(image, head, i)) };
            SCRATCH.with_borrow_mut(|[p, ds]| {
                p.resize(n * n, 0.0);
                ds.resize(n * n, 0.0);
                product([n, w, n], q, k.transposed(), p.as_mut_ptr(), n);
                kernels::softmax_again(p, n, scale, &lse[task * n..(task + 1) * n]);
                product(
                    [n, n, w],
                    Matrix::new(p, n).transposed(),
                    dy,
                    place(2),
                    3 * d,
                );
                product([n, w, n], dy, v.transposed(), ds.as_mut_ptr(), n);
                kernels::softmax_backward(p, ds, n, scale);
                product([n, n, w], Matrix::new(ds, n), k, place(0), 3 * d);
                product(
                    [n, n, w],
                    Matrix::new(ds, n).transposed(),
                    q,
                    place(1),
                    3 * d,
                );
            });
        });
        tensor(dx, packed.shape())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData};
    use proptest::prelude::*;

    use super::*;

    /// Deterministic values in about [-2, 2].
    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).max(1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 4.0 - 2.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Value and gradient of `sum(attention(x) * weights)`.
    fn both(
        f: impl Fn(Tensor<3>, usize) -> Tensor<3>,
        [b, n, h, w]: [usize; 4],
        seed: u32,
    ) -> [Vec<f32>; 2] {
        let device = Device::flex().autodiff();
        let make = |shape: [usize; 3], seed| {
            let values = noise(shape.iter().product(), seed);
            Tensor::<3>::from_data(TensorData::new(values, shape), &device)
        };
        let x = make([b, n, 3 * h * w], seed).require_grad();
        let y = f(x.clone(), h);
        let loss = (y.clone() * make([b, n, h * w], seed + 1)).sum();
        let gradient = x.grad(&loss.backward()).unwrap();
        [y, gradient].map(|t| t.into_data().iter().collect())
    }

    fn close(got: &[f32], expected: &[f32], what: &str) {
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (a, b) in got.iter().zip(expected) {
            assert!(
                (a - b).abs() <= 1e-5 * scale,
                "{what}: got {a}, expected {b}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn value_and_gradient_agree_with_the_composed_operation(
            b in 1usize..4, n in 1usize..70, h in 1usize..4, w in 1usize..20, seed in 1u32..1000,
        ) {
            let sizes = [b, n, h, w];
            let [y, dx] = both(attention, sizes, seed);
            let [expected_y, expected_dx] = both(composed, sizes, seed);
            close(&y, &expected_y, "value");
            close(&dx, &expected_dx, "gradient");
        }
    }

    #[test]
    fn a_plain_tensor_takes_the_same_path() {
        let device = Device::flex();
        let x = Tensor::<3>::from_data(TensorData::new(noise(5 * 24, 3), [1, 5, 24]), &device);
        let plain: Vec<f32> = attention(x.clone(), 2).into_data().iter().collect();
        let expected: Vec<f32> = composed(x, 2).into_data().iter().collect();
        close(&plain, &expected, "value");
    }
}
