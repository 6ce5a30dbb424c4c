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
    match apply(Attention { heads }, [qkv.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([qkv]) => composed(Tensor::from_dispatch(qkv), heads, None),
    }
}

/// `softmax(q k^T / sqrt(w) + bias) v`: with a bias of each of the windows that an image is cut into,
/// sequence `i` having that of window `i mod windows` (Liu et al. 2021).
///
/// # Shapes
/// `qkv [b, n, 3 d]`, `bias [windows, heads, n, n]` with `b` a multiple of `windows` `-> [b, n, d]`.
pub fn attention_with_bias(qkv: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
    let [windows, heads, ..] = bias.dims();
    match apply(
        BiasedAttention { windows, heads },
        [qkv.into_dispatch(), bias.into_dispatch()],
    ) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([qkv, bias]) => {
            let bias = Tensor::from_dispatch(bias);
            composed(Tensor::from_dispatch(qkv), heads, Some(bias))
        }
    }
}

/// The same of Burn's operations.
fn composed(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [b, n, d3] = qkv.dims();
    let (d, width) = (d3 / 3, d3 / 3 / heads);
    let qkv = qkv
        .reshape([b, n, 3, heads, width])
        .permute([2, 0, 3, 1, 4]); // [3, b, h, n, w]
    let part = |i| qkv.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
    let (q, k, v) = (part(0), part(1), part(2)); // [b, h, n, w]
    let mut scores = (q * (width as f64).powf(-0.5)).matmul(k.transpose()); // [b, h, n, n]
    if let Some(bias) = bias {
        let windows = bias.dims()[0];
        let by_window = scores.reshape([b / windows, windows, heads, n, n]);
        scores = (by_window + bias.unsqueeze()).reshape([b, heads, n, n]);
    }
    let mixed = softmax(scores, 3).matmul(v); // [b, h, n, w]
    mixed.swap_dims(1, 2).reshape([b, n, d])
}

#[derive(Clone, Debug)]
struct Attention {
    heads: usize,
}

#[derive(Clone, Debug)]
struct BiasedAttention {
    windows: usize,
    heads: usize,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    width: usize,
    /// Of which each has a bias; 1 without one.
    windows: usize,
}

impl Sizes {
    fn new(packed: &FlexTensor, heads: usize, windows: usize) -> Self {
        let shape = packed.shape();
        let (batch, tokens) = (shape[0], shape[1]);
        assert!(
            batch.is_multiple_of(windows),
            "{batch} sequences of {windows} windows"
        );
        Self {
            batch,
            tokens,
            heads,
            width: shape[2] / 3 / heads,
            windows,
        }
    }
    fn scale(self) -> f32 {
        (self.width as f32).powf(-0.5)
    }
    fn channels(self) -> usize {
        self.heads * self.width
    }
    /// Offset of head `head` of sequence `image` in a packed tensor; part 0 is q, 1 k, 2 v.
    fn packed(self, image: usize, head: usize, part: usize) -> usize {
        image * self.tokens * 3 * self.channels() + part * self.channels() + head * self.width
    }
    fn output(self, image: usize, head: usize) -> usize {
        image * self.tokens * self.channels() + head * self.width
    }
    /// Scores of one head.
    fn area(self) -> usize {
        self.tokens * self.tokens
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
// SAFETY: every task writes the columns of its own image and head, and its own sum, only.
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

/// What backward needs beside the bias: the packed input and the log-sum-exp `[b, h, n]`.
type Saved = (FlexTensor, Arc<Vec<f32>>);

impl CpuOp<1> for Attention {
    type Saved = Saved;

    fn forward(&self, [packed]: [FlexTensor; 1], tracked: bool) -> (FlexTensor, Option<Saved>) {
        let sizes = Sizes::new(&packed, self.heads, 1);
        let (y, lse) = forward(sizes, values(&packed), None);
        (y, tracked.then(|| (packed, Arc::new(lse))))
    }

    fn backward(&self, (packed, lse): Saved, gradient: FlexTensor) -> [FlexTensor; 1] {
        let sizes = Sizes::new(&packed, self.heads, 1);
        let (dx, _) = backward(sizes, values(&packed), None, &lse, values(&gradient));
        [tensor(dx, packed.shape())]
    }
}

impl CpuOp<2> for BiasedAttention {
    type Saved = (Saved, FlexTensor);

    fn forward(
        &self,
        [packed, bias]: [FlexTensor; 2],
        tracked: bool,
    ) -> (FlexTensor, Option<Self::Saved>) {
        let sizes = Sizes::new(&packed, self.heads, self.windows);
        let (y, lse) = forward(sizes, values(&packed), Some(values(&bias)));
        (y, tracked.then(|| ((packed, Arc::new(lse)), bias)))
    }

    fn backward(
        &self,
        ((packed, lse), bias): Self::Saved,
        gradient: FlexTensor,
    ) -> [FlexTensor; 2] {
        let sizes = Sizes::new(&packed, self.heads, self.windows);
        let values_of_bias = Some(values(&bias));
        let (dx, dbias) = backward(
            sizes,
            values(&packed),
            values_of_bias,
            &lse,
            values(&gradient),
        );
        [tensor(dx, packed.shape()), tensor(dbias, bias.shape())]
    }
}

/// `q k^T` of one head into `out`, with the bias of its window if there is one; the factor that is
/// left.
fn scores(
    sizes: Sizes,
    [q, k]: [Matrix; 2],
    bias: Option<&[f32]>,
    (window, head): (usize, usize),
    out: &mut Vec<f32>,
) -> f32 {
    let (n, area) = (sizes.tokens, sizes.area());
    out.resize(area, 0.0);
    product([n, sizes.width, n], q, k.transposed(), out.as_mut_ptr(), n);
    match bias {
        None => sizes.scale(),
        Some(bias) => {
            let bias = &bias[(window * sizes.heads + head) * area..][..area];
            kernels::scale_add(out, sizes.scale(), bias);
            1.0
        }
    }
}

/// The output and its log-sum-exp.
fn forward(sizes: Sizes, input: &[f32], bias: Option<&[f32]>) -> (FlexTensor, Vec<f32>) {
    let Sizes {
        batch,
        tokens: n,
        heads,
        width: w,
        windows,
    } = sizes;
    let d = sizes.channels();
    let mut y = vec![0.0; batch * n * d];
    let mut lse = vec![0.0; batch * heads * n];
    let out = Shared(y.as_mut_ptr());
    lse.par_chunks_mut(n.max(1))
        .enumerate()
        .for_each(|(task, lse)| {
            let (image, head) = (task / heads, task % heads);
            let part = |i| Matrix::new(&input[sizes.packed(image, head, i)..], 3 * d);
            SCRATCH.with_borrow_mut(|[p, _]| {
                let place = (image % windows, head);
                let scale = scores(sizes, [part(0), part(1)], bias, place, p);
                kernels::softmax_rows(p, n, scale, lse);
                // SAFETY: the n rows of w values of this image and head lie inside `y`.
                let place = unsafe { out.at(sizes.output(image, head)) };
                product([n, n, w], Matrix::new(p, n), part(2), place, d);
            });
        });
    (tensor(y, [batch, n, d]), lse)
}

/// Tasks of a backward pass, or a few more: enough for every processor.
const TASKS: usize = 256;

/// The gradients of the packed input and of the bias. A task has one head of one window and sums the
/// gradient of its bias over a part of the images, so that the sum does not depend on who runs it.
fn backward(
    sizes: Sizes,
    input: &[f32],
    bias: Option<&[f32]>,
    lse: &[f32],
    gradient: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let Sizes {
        batch,
        tokens: n,
        heads,
        width: w,
        windows,
    } = sizes;
    let (d, scale) = (sizes.channels(), sizes.scale());
    let (images, groups) = (batch / windows, windows * heads);
    let parts = (TASKS / groups).clamp(1, images.max(1));
    let mut dx = vec![0.0; input.len()];
    let out = Shared(dx.as_mut_ptr());
    let area = bias.map_or(0, |_| sizes.area());
    let mut dbias = vec![0.0; parts * groups * area];
    let sums = Shared(dbias.as_mut_ptr());
    (0..parts * groups).into_par_iter().for_each(|task| {
        let (window, head) = (task % groups / heads, task % heads);
        // SAFETY: `dbias` has that many values for each task.
        let sum = unsafe { std::slice::from_raw_parts_mut(sums.at(task * area), area) };
        for image in (task / groups..images).step_by(parts) {
            let image = image * windows + window;
            let part = |i| Matrix::new(&input[sizes.packed(image, head, i)..], 3 * d);
            let (q, k, v) = (part(0), part(1), part(2));
            let dy = Matrix::new(&gradient[sizes.output(image, head)..], d);
            let lse = &lse[(image * heads + head) * n..][..n];
            // SAFETY: the n rows of w values of this image, head and part lie inside `dx`.
            let place = |i| unsafe { out.at(sizes.packed(image, head, i)) };
            SCRATCH.with_borrow_mut(|[p, ds]| {
                let left = scores(sizes, [q, k], bias, (window, head), p);
                ds.resize(n * n, 0.0);
                kernels::softmax_again(p, n, left, lse);
                let transposed = Matrix::new(p, n).transposed();
                product([n, n, w], transposed, dy, place(2), 3 * d);
                product([n, w, n], dy, v.transposed(), ds.as_mut_ptr(), n);
                kernels::softmax_backward(p, ds, n, scale);
                kernels::add_scaled(sum, ds, 1.0 / scale);
                let ds = Matrix::new(ds, n);
                product([n, n, w], ds, k, place(0), 3 * d);
                product([n, n, w], ds.transposed(), q, place(1), 3 * d);
            });
        }
    });
    let (whole, others) = dbias.split_at_mut(groups * area);
    for other in others.chunks_exact((groups * area).max(1)) {
        kernels::add_scaled(whole, other, 1.0);
    }
    dbias.truncate(groups * area);
    (dx, dbias)
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
            let plain = |x, h| composed(x, h, None);
            let [expected_y, expected_dx] = both(plain, sizes, seed);
            close(&y, &expected_y, "value");
            close(&dx, &expected_dx, "gradient");
        }

        #[test]
        fn with_a_bias_value_and_gradients_agree_with_the_composed_operation(
            images in 1usize..4, windows in 1usize..4, n in 1usize..50, h in 1usize..4,
            w in 1usize..20, seed in 1u32..1000,
        ) {
            agree_with_bias([images, windows, n, h, w], seed);
        }
    }

    #[test]
    fn several_images_share_a_task() {
        let (windows, heads) = (40, 3);
        assert_eq!(TASKS / (windows * heads), 2);
        agree_with_bias([5, windows, 3, heads, 2], 7);
    }

    /// The value, and the gradients of input and bias, with some pairs masked.
    fn agree_with_bias([images, windows, n, h, w]: [usize; 5], seed: u32) {
        let device = Device::flex().autodiff();
        let packed = noise(images * windows * n * 3 * h * w, seed);
        let packed = TensorData::new(packed, [images * windows, n, 3 * h * w]);
        let mut bias = noise(windows * h * n * n, seed + 1);
        for masked in bias.iter_mut().skip(1).step_by(5) {
            *masked = -100.0;
        }
        let bias = TensorData::new(bias, [windows, h, n, n]);
        let weights = noise(images * windows * n * h * w, seed + 2);
        let weights = TensorData::new(weights, [images * windows, n, h * w]);
        let run = |f: &dyn Fn(Tensor<3>, Tensor<4>) -> Tensor<3>| {
            let x = Tensor::<3>::from_data(packed.clone(), &device).require_grad();
            let bias = Tensor::<4>::from_data(bias.clone(), &device).require_grad();
            let y = f(x.clone(), bias.clone());
            let weights = Tensor::<3>::from_data(weights.clone(), &device);
            let gradients = (y.clone() * weights).sum().backward();
            let dx = x.grad(&gradients).unwrap().into_data();
            let dbias = bias.grad(&gradients).unwrap().into_data();
            [y.into_data(), dx, dbias].map(|data| data.iter().collect::<Vec<f32>>())
        };
        let got = run(&attention_with_bias);
        let expected = run(&|x, bias| composed(x, h, Some(bias)));
        let names = ["value", "gradient", "gradient of the bias"];
        for ((got, expected), what) in got.iter().zip(&expected).zip(names) {
            assert_eq!(got.len(), expected.len(), "{what}");
            close(got, expected, what);
        }
    }

    #[test]
    fn a_plain_tensor_takes_the_same_path() {
        let device = Device::flex();
        let x = Tensor::<3>::from_data(TensorData::new(noise(5 * 24, 3), [1, 5, 24]), &device);
        let plain: Vec<f32> = attention(x.clone(), 2).into_data().iter().collect();
        let expected: Vec<f32> = composed(x.clone(), 2, None).into_data().iter().collect();
        close(&plain, &expected, "value");
        let bias = TensorData::new(noise(2 * 25, 4), [1, 2, 5, 5]);
        let bias = Tensor::<4>::from_data(bias, &device);
        let plain = attention_with_bias(x.clone(), bias.clone());
        let plain: Vec<f32> = plain.into_data().iter().collect();
        let expected = composed(x, 2, Some(bias)).into_data();
        let expected: Vec<f32> = expected.iter().collect();
        close(&plain, &expected, "value with a bias");
    }
}
