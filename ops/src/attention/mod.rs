//! Softmax attention on packed queries, keys and values (Vaswani et al. 2017).
//!
//! The scores of a head, `[n, n]`, live only in the work space of the thread that computes it. The
//! backward pass computes them again from the packed input and two numbers per row: the largest score
//! and the inverse of the sum of exponentials. Their logarithm as one number would lose the digits in
//! which large scores differ.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use rayon::prelude::*;

use crate::bridge::{apply, or_absent};
use crate::buffer::{Scratch, Shared, written};
use crate::cube;
use crate::math::{add_rows, add_scaled, exp, largest, sum_of};
use crate::matmul::{Matrix, Product};
use crate::operation::{Kept, Operation, tensor, values};
use crate::simd::multiversion;

/// `softmax(q k^T / sqrt(w)) v` for `heads` heads of `w = d / heads` contiguous channels.
///
/// # Shapes
/// `qkv [b, n, 3 d]` (all queries, then keys, then values) `-> [b, n, d]`.
pub fn attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    let op = Attention {
        heads,
        windows: None,
    };
    let qkv = qkv.into_dispatch();
    let bias = or_absent::<4>(None, &qkv);
    match apply(op, [qkv, bias]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([qkv, _]) => cube::attention(heads, qkv).unwrap_or_else(|qkv| {
            crate::composed::attention(heads, qkv)
                .unwrap_or_else(|qkv| composed(Tensor::from_dispatch(qkv), heads, None))
        }),
    }
}

/// `softmax(q k^T / sqrt(w) + bias) v`, with a bias for each of the windows that an image is cut into:
/// sequence `i` has that of window `i mod windows` (Liu et al. 2021).
///
/// # Shapes
/// `qkv [b, n, 3 d]`, `bias [windows, heads, n, n]` with `b` a multiple of `windows` `-> [b, n, d]`.
pub fn attention_with_bias(qkv: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
    let [windows, heads, ..] = bias.dims();
    let op = Attention {
        heads,
        windows: Some(windows),
    };
    match apply(op, [qkv.into_dispatch(), bias.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err(inputs) => cube::attention_with_bias(inputs).unwrap_or_else(|[qkv, bias]| {
            let bias = Tensor::from_dispatch(bias);
            composed(Tensor::from_dispatch(qkv), heads, Some(bias))
        }),
    }
}

/// The weights of [`attention`], or of [`attention_with_bias`] if there is a bias, and the values that
/// they mix: what the fused operation never holds as a whole.
///
/// # Shapes
/// `qkv [b, n, 3 d]`, `bias [windows, heads, n, n] -> weights [b, heads, n, n]` (a row for each query),
/// `values [b, heads, n, d / heads]`.
pub fn attention_weights(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> [Tensor<4>; 2] {
    let [b, n, d3] = qkv.dims();
    let width = d3 / 3 / heads;
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
    [softmax(scores, 3), v]
}

/// Attention as Burn's operations.
pub(crate) fn composed(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [b, n, d3] = qkv.dims();
    let [weights, values] = attention_weights(qkv, heads, bias);
    let mixed = weights.matmul(values); // [b, h, n, w]
    mixed.swap_dims(1, 2).reshape([b, n, d3 / 3])
}

#[derive(Clone, Debug)]
struct Attention {
    heads: usize,
    /// Windows of an image, if they have a bias.
    windows: Option<usize>,
}

impl Attention {
    fn bias<'a>(&self, bias: &'a FlexTensor) -> Option<&'a [f32]> {
        self.windows.map(|_| values(bias))
    }
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    tokens: usize,
    heads: usize,
    width: usize,
    /// Windows of an image, each with a bias; 1 without a bias.
    windows: usize,
}

impl Sizes {
    fn new(op: &Attention, packed: &FlexTensor) -> Self {
        let (heads, windows) = (op.heads, op.windows.unwrap_or(1));
        let shape = packed.shape();
        let (batch, tokens) = (shape[0], shape[1]);
        assert!(
            batch.is_multiple_of(windows),
            "expected a multiple of {windows} sequences, one for each window, got {batch}"
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

    /// Offset of head `head` of sequence `image` in the output.
    fn output(self, image: usize, head: usize) -> usize {
        image * self.tokens * self.channels() + head * self.width
    }

    /// Number of scores of one head.
    fn area(self) -> usize {
        self.tokens * self.tokens
    }
}

/// Work space of one thread.
#[derive(Default)]
struct Work {
    /// Scores of one head.
    scores: Scratch,
    /// Their gradient.
    slopes: Scratch,
    products: Scratch,
}

thread_local! {
    // Kept from call to call: every head needs as much, and fresh memory costs page faults.
    static WORK: RefCell<Work> = RefCell::default();
}

/// What backward needs.
#[derive(Clone, Debug)]
struct Saved {
    packed: FlexTensor,
    bias: FlexTensor,
    /// For each row of scores `[b, h, n]`, the two numbers of [`softmax_rows`].
    statistics: Arc<Vec<f32>>,
}

impl Kept for Saved {
    fn tensors(&mut self) -> Vec<&mut FlexTensor> {
        vec![&mut self.packed, &mut self.bias]
    }
}

/// The packed input and the bias, which may be absent.
impl Operation<FlexTensor, 2> for Attention {
    type Saved = Saved;

    fn forward(&self, [packed, bias]: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, Saved) {
        let sizes = Sizes::new(self, &packed);
        let (y, statistics) = forward(sizes, values(&packed), self.bias(&bias));
        let saved = Saved {
            packed,
            bias,
            statistics: Arc::new(statistics),
        };
        (y, saved)
    }

    fn backward(
        &self,
        saved: Saved,
        gradient: FlexTensor,
        [packed_wanted, bias_wanted]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let (packed, bias) = (&saved.packed, &saved.bias);
        let (dx, dbias) = backward(
            Sizes::new(self, packed),
            values(packed),
            self.bias(bias),
            &saved.statistics,
            values(&gradient),
            bias_wanted,
        );
        [
            packed_wanted.then(|| tensor(dx, packed.shape())),
            bias_wanted.then(|| tensor(dbias, bias.shape())),
        ]
    }
}

/// Writes `q k^T` of one head to `out`, with the bias of its window if there is one, and returns the
/// factor that the scores have yet to be multiplied by.
fn scores(
    sizes: Sizes,
    [q, k]: [Matrix; 2],
    bias: Option<&[f32]>,
    (window, head): (usize, usize),
    products: &mut Scratch,
    out: &mut [f32],
) -> f32 {
    let (n, area) = (sizes.tokens, sizes.area());
    let product = Product::new([n, sizes.width, n], q, k.transposed());
    // SAFETY: `out` has n rows of n values, borrowed mutably by this function.
    unsafe { product.run_here(products, Shared::new(out), n) };
    match bias {
        // The softmax multiplies by the scale anyway, in the exponent.
        None => sizes.scale(),
        Some(bias) => {
            let bias = &bias[(window * sizes.heads + head) * area..][..area];
            scale_add(out, sizes.scale(), bias);
            1.0
        }
    }
}

/// The output, and the statistics of each row of scores from [`softmax_rows`].
fn forward(sizes: Sizes, input: &[f32], bias: Option<&[f32]>) -> (FlexTensor, Vec<f32>) {
    let Sizes {
        batch,
        tokens: n,
        heads,
        width: w,
        windows,
    } = sizes;
    let d = sizes.channels();
    let mut statistics = vec![0.0; 2 * batch * heads * n];
    // A task has one head of one sequence. Its products are too small for several threads, and its scores
    // stay in the second cache between them.
    let head = |task: usize, statistics: &mut [f32], out: Shared| {
        let (image, head) = (task / heads, task % heads);
        let part = |i| Matrix::new(&input[sizes.packed(image, head, i)..], 3 * d);
        WORK.with_borrow_mut(|work| {
            let place = (image % windows, head);
            let p = work.scores.take(sizes.area());
            let scale = scores(
                sizes,
                [part(0), part(1)],
                bias,
                place,
                &mut work.products,
                p,
            );
            softmax_rows(p, n, scale, statistics);
            // The heads are read and written where they lie in the packed tensors, so nothing is permuted.
            let product = Product::new([n, n, w], Matrix::new(p, n), part(2));
            // SAFETY: the n rows of w values of this image and head lie inside the output, d values
            // apart, and no other task has this image and head.
            unsafe {
                let place = out.from(sizes.output(image, head));
                product.run_here(&mut work.products, place, d);
            }
        });
    };
    // SAFETY: every value of the output belongs to one image and head, there is a task for each, and its
    // product writes all of its rows.
    let y = unsafe {
        written(batch * n * d, |y| {
            let out = Shared::unset(y);
            let tasks = statistics.par_chunks_mut((2 * n).max(1)).enumerate();
            tasks.for_each(|(task, statistics)| head(task, statistics, out));
        })
    };
    (tensor(y, [batch, n, d]), statistics)
}

/// About as many tasks as a backward pass has: enough for every processor, and not a function of their
/// number, because each task's part of the gradient of the bias is summed on its own.
const TASKS: usize = 256;

/// The gradients of the packed input and, if `bias_wanted`, of the bias. A task has one head of one
/// window and a part of the images, over which it sums the gradient of its bias in order, so that the
/// sum does not depend on which thread runs it.
fn backward(
    sizes: Sizes,
    input: &[f32],
    bias: Option<&[f32]>,
    statistics: &[f32],
    gradient: &[f32],
    bias_wanted: bool,
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
    // Swin has many windows, each with few images; other models have one window and many images.
    let parts = (TASKS / groups.max(1)).clamp(1, images.max(1));
    let area = if bias_wanted { sizes.area() } else { 0 };
    let mut dbias = vec![0.0; parts * groups * area];
    let sums = Shared::new(&mut dbias);
    let head = |task: usize, out: Shared| {
        let (window, head) = (task % groups / heads, task % heads);
        // SAFETY: `dbias` has `area` values for each of the `parts * groups` tasks, and this is the only
        // one with this number.
        let sum = unsafe { sums.part(task * area, area) };
        for image in (task / groups..images).step_by(parts) {
            let image = image * windows + window;
            let part = |i| Matrix::new(&input[sizes.packed(image, head, i)..], 3 * d);
            let (q, k, v) = (part(0), part(1), part(2));
            let dy = Matrix::new(&gradient[sizes.output(image, head)..], d);
            let statistics = &statistics[2 * (image * heads + head) * n..][..2 * n];
            WORK.with_borrow_mut(|work| {
                let products = &mut work.products;
                let p = work.scores.take(sizes.area());
                let left = scores(sizes, [q, k], bias, (window, head), products, p);
                softmax_again(p, n, left, statistics);
                let ds = work.slopes.take(sizes.area());
                let product = Product::new([n, w, n], dy, v.transposed());
                // SAFETY: `ds` has n rows of n values, borrowed mutably here.
                unsafe { product.run_here(products, Shared::new(ds), n) };
                softmax_backward(p, ds, n, scale);
                if bias_wanted {
                    // The bias is added after the scores are scaled.
                    add_scaled(sum, ds, 1.0 / scale);
                }
                let (p, ds) = (Matrix::new(p, n), Matrix::new(ds, n));
                // The gradients of q, k and v, which lie in the gradient as they do in the input.
                let parts = [(ds, k), (ds.transposed(), q), (p.transposed(), dy)];
                for (i, (a, b)) in parts.into_iter().enumerate() {
                    // SAFETY: the n rows of w values of this image, head and part lie inside the
                    // gradient, 3 d values apart, and no other task has this image and head.
                    unsafe {
                        let place = out.from(sizes.packed(image, head, i));
                        Product::new([n, n, w], a, b).run_here(products, place, 3 * d);
                    }
                }
            });
        }
    };
    // SAFETY: every value of the gradient belongs to one image, head and part. The tasks have every
    // image and head between them, and their products write all rows of the three parts.
    let dx = unsafe {
        written(input.len(), |dx| {
            let out = Shared::unset(dx);
            let tasks = (0..parts * groups).into_par_iter();
            tasks.for_each(|task| head(task, out));
        })
    };
    if area > 0 {
        let (whole, others) = dbias.split_at_mut(groups * area);
        add_rows(others, whole);
        dbias.truncate(groups * area);
    }
    (dx, dbias)
}

multiversion! {
    /// Each row of `n` values becomes `softmax(scale row)`. For each row, `-scale` times its largest value
    /// and the inverse of its sum of exponentials go to `statistics`.
    fn softmax_rows<S>(rows: &mut [f32], n: usize, scale: f32, statistics: &mut [f32]) {
        for (row, statistics) in rows.chunks_exact_mut(n).zip(statistics.chunks_exact_mut(2)) {
            let offset = -largest(row) * scale;
            for value in row.iter_mut() {
                *value = exp::<S>(S::fma(*value, scale, offset));
            }
            // In `f64`: the error of this one number would be in every probability of the row.
            let inverse = (1.0 / sum_of([row], |sum: f64, [value]| sum + value)) as f32;
            for value in row.iter_mut() {
                *value *= inverse;
            }
            statistics.copy_from_slice(&[offset, inverse]);
        }
    }

    /// `y <- scale y + x`.
    fn scale_add<S>(y: &mut [f32], scale: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = S::fma(*y, scale, *x);
        }
    }

    /// Scores become probabilities again, with the statistics of [`softmax_rows`].
    fn softmax_again<S>(rows: &mut [f32], n: usize, scale: f32, statistics: &[f32]) {
        for (row, statistics) in rows.chunks_exact_mut(n).zip(statistics.chunks_exact(2)) {
            let (offset, inverse) = (statistics[0], statistics[1]);
            for value in row.iter_mut() {
                *value = exp::<S>(S::fma(*value, scale, offset)) * inverse;
            }
        }
    }

    /// `dp <- scale p (dp - <p, dp>)` row by row: the gradient of the scores.
    fn softmax_backward<S>(p: &[f32], dp: &mut [f32], n: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(n).zip(dp.chunks_exact_mut(n)) {
            // In `f64`: the slopes are what is left of `dp` after this is subtracted.
            let inner = sum_of([p, dp], |sum: f64, [p, dp]| sum + p * dp) as f32;
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = scale * p * (*dp - inner);
            }
        }
    }
}
