//! Softmax attention on packed queries, keys and values (Vaswani et al. 2017), with a backward pass
//! that keeps the packed input and two numbers a row: the largest score and the inverse of the sum of
//! exponentials. Their logarithm in one number would lose what large scores differ by.

use std::cell::RefCell;
use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use rayon::prelude::*;

use crate::bridge::{CpuOp, apply, tensor, values};
use crate::buffer::{Scratch, Shared, written};
use crate::math::{add_rows, add_scaled, exp, largest, sum_of};
use crate::matmul::{Matrix, Product};
use crate::simd::multiversion;

/// `softmax(q k^T / sqrt(w)) v` for `heads` heads of `w = d / heads` contiguous channels.
///
/// # Shapes
/// `qkv [b, n, 3 d]` (all queries, then keys, then values) `-> [b, n, d]`.
pub fn attention(qkv: Tensor<3>, heads: usize) -> Tensor<3> {
    match apply(Attention { heads }, [qkv.into_dispatch()]) {
        Ok(y) => Tensor::from_dispatch(y),
        Err([qkv]) => crate::composed::attention(heads, qkv)
            .unwrap_or_else(|qkv| composed(Tensor::from_dispatch(qkv), heads, None)),
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
pub(crate) fn composed(qkv: Tensor<3>, heads: usize, bias: Option<Tensor<4>>) -> Tensor<3> {
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
    /// Kept because every head needs it.
    static WORK: RefCell<Work> = RefCell::default();
}

/// What backward needs beside the bias: the packed input, and for each row of scores `[b, h, n]` what
/// [`softmax_rows`] says of it.
type Saved = (FlexTensor, Arc<Vec<f32>>);

impl CpuOp<1> for Attention {
    type Saved = Saved;

    fn forward(
        &self,
        [packed]: [FlexTensor; 1],
        [wanted]: [bool; 1],
    ) -> (FlexTensor, Option<Saved>) {
        let sizes = Sizes::new(&packed, self.heads, 1);
        let (y, statistics) = forward(sizes, values(&packed), None);
        (y, wanted.then(|| (packed, Arc::new(statistics))))
    }

    fn backward(
        &self,
        (packed, statistics): Saved,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let sizes = Sizes::new(&packed, self.heads, 1);
        let (dx, _) = backward(
            sizes,
            values(&packed),
            None,
            &statistics,
            values(&gradient),
            false,
        );
        [Some(tensor(dx, packed.shape()))]
    }
}

impl CpuOp<2> for BiasedAttention {
    type Saved = (Saved, FlexTensor);

    fn forward(
        &self,
        [packed, bias]: [FlexTensor; 2],
        wants: [bool; 2],
    ) -> (FlexTensor, Option<Self::Saved>) {
        let sizes = Sizes::new(&packed, self.heads, self.windows);
        let (y, statistics) = forward(sizes, values(&packed), Some(values(&bias)));
        let wanted = wants.contains(&true);
        (y, wanted.then(|| ((packed, Arc::new(statistics)), bias)))
    }

    fn backward(
        &self,
        ((packed, statistics), bias): Self::Saved,
        gradient: FlexTensor,
        [of_packed, of_bias]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let sizes = Sizes::new(&packed, self.heads, self.windows);
        let of_values = Some(values(&bias));
        let gradient = values(&gradient);
        let (dx, dbias) = backward(
            sizes,
            values(&packed),
            of_values,
            &statistics,
            gradient,
            of_bias,
        );
        [
            of_packed.then(|| tensor(dx, packed.shape())),
            of_bias.then(|| tensor(dbias, bias.shape())),
        ]
    }
}

/// `q k^T` of one head into `out`, with the bias of its window if there is one; the factor that is
/// left.
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
    // SAFETY: `out` has n rows of n values.
    unsafe { product.run_here(products, Shared::new(out), n) };
    match bias {
        None => sizes.scale(),
        Some(bias) => {
            let bias = &bias[(window * sizes.heads + head) * area..][..area];
            scale_add(out, sizes.scale(), bias);
            1.0
        }
    }
}

/// The output, and what [`softmax_rows`] says of each row of scores.
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
            let product = Product::new([n, n, w], Matrix::new(p, n), part(2));
            // SAFETY: the n rows of w values of this image and head lie inside the output, and only
            // this task writes them.
            unsafe {
                let place = out.from(sizes.output(image, head));
                product.run_here(&mut work.products, place, d);
            }
        });
    };
    // SAFETY: images and heads cover the output, and each writes all of its own.
    let y = unsafe {
        written(batch * n * d, |y| {
            let out = Shared::unset(y);
            let tasks = statistics.par_chunks_mut((2 * n).max(1)).enumerate();
            tasks.for_each(|(task, statistics)| head(task, statistics, out));
        })
    };
    (tensor(y, [batch, n, d]), statistics)
}

/// Tasks of a backward pass, or a few more: enough for every processor.
const TASKS: usize = 256;

/// The gradients of the packed input and, if it is wanted, of the bias. A task has one head of one
/// window and sums the gradient of its bias over a part of the images, so that the sum does not
/// depend on who runs it.
fn backward(
    sizes: Sizes,
    input: &[f32],
    bias: Option<&[f32]>,
    statistics: &[f32],
    gradient: &[f32],
    of_bias: bool,
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
    let parts = (TASKS / groups.max(1)).clamp(1, images.max(1));
    let area = if of_bias { sizes.area() } else { 0 };
    let mut dbias = vec![0.0; parts * groups * area];
    let sums = Shared::new(&mut dbias);
    let head = |task: usize, out: Shared| {
        let (window, head) = (task % groups / heads, task % heads);
        // SAFETY: `dbias` has that many values for each task.
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
                // SAFETY: there are n rows of n slopes.
                unsafe { product.run_here(products, Shared::new(ds), n) };
                softmax_backward(p, ds, n, scale);
                if of_bias {
                    add_scaled(sum, ds, 1.0 / scale);
                }
                let (p, ds) = (Matrix::new(p, n), Matrix::new(ds, n));
                let parts = [(ds, k), (ds.transposed(), q), (p.transposed(), dy)];
                for (i, (a, b)) in parts.into_iter().enumerate() {
                    // SAFETY: the n rows of w values of this image, head and part lie inside the
                    // gradient, and only this task writes them.
                    unsafe {
                        let place = out.from(sizes.packed(image, head, i));
                        Product::new([n, n, w], a, b).run_here(products, place, 3 * d);
                    }
                }
            });
        }
    };
    // SAFETY: images, heads and parts cover the gradient, and each writes all of its own.
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
    /// Each row of `n` becomes `softmax(scale row)`. Of each, `-scale` times the largest value and the
    /// inverse of the sum of exponentials go to `statistics`.
    fn softmax_rows<S>(rows: &mut [f32], n: usize, scale: f32, statistics: &mut [f32]) {
        for (row, statistics) in rows.chunks_exact_mut(n).zip(statistics.chunks_exact_mut(2)) {
            let offset = -largest(row) * scale;
            for value in row.iter_mut() {
                *value = exp::<S>(S::fma(*value, scale, offset));
            }
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

    /// Scores become probabilities again, from what [`softmax_rows`] said of them.
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
            let inner = sum_of([p, dp], |sum: f64, [p, dp]| sum + p * dp) as f32;
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = scale * p * (*dp - inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        Case, Tensors, View, compare, noise, results, same_on_any_threads, same_where_not_finite,
        views,
    };

    /// `[b, n, 3 h w]`.
    fn case([b, n, h, w]: [usize; 4], view: View, seed: u32) -> Case {
        Case::new(seed).with(&[b, n, 3 * h * w], view)
    }

    /// With a bias for each of the windows, in which some pairs are masked.
    fn biased([images, windows, n, h, w]: [usize; 5], view: View, seed: u32) -> Case {
        let mut bias = noise(windows * h * n * n, seed + 7);
        for masked in bias.iter_mut().skip(1).step_by(5) {
            *masked = -100.0;
        }
        let case = case([images * windows, n, h, w], view, seed);
        case.with_values(&[windows, h, n, n], bias, View::Plain)
    }

    fn op(heads: usize) -> impl Fn(&Tensors) -> Tensor<3> + Sync {
        move |t| attention(t.get(0), heads)
    }

    fn burns(heads: usize) -> impl Fn(&Tensors) -> Tensor<3> {
        move |t| composed(t.get(0), heads, None)
    }

    fn op_with_bias(t: &Tensors) -> Tensor<3> {
        attention_with_bias(t.get(0), t.get(1))
    }

    fn burns_with_bias(t: &Tensors) -> Tensor<3> {
        let bias = t.get::<4>(1);
        let heads = bias.dims()[1];
        composed(t.get(0), heads, Some(bias))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn values_and_gradients_agree_with_f64(
            b in 1usize..4, n in 1usize..70, h in 1usize..4, w in 1usize..20, wanted in 0u32..2,
            view in views(), seed in 1u32..1000,
        ) {
            compare(&case([b, n, h, w], view, seed).wanting(wanted), op(h), burns(h));
        }

        #[test]
        fn with_a_bias_values_and_gradients_agree_with_f64(
            images in 1usize..4, windows in 1usize..4, n in 1usize..50, h in 1usize..4,
            w in 1usize..20, wanted in 0u32..4, view in views(), seed in 1u32..1000,
        ) {
            let case = biased([images, windows, n, h, w], view, seed).wanting(wanted);
            compare(&case, op_with_bias, burns_with_bias);
        }
    }

    #[test]
    fn several_images_share_a_task() {
        let (windows, heads) = (40, 3);
        assert_eq!(TASKS / (windows * heads), 2);
        let case = biased([5, windows, 3, heads, 2], View::Plain, 7);
        compare(&case, op_with_bias, burns_with_bias);
    }

    #[test]
    fn large_scores_are_as_close() {
        let case = case([2, 9, 2, 8], View::Plain, 3).times(30.0);
        compare(&case, op(2), burns(2));
    }

    #[test]
    fn what_is_empty_or_not_finite_stays_so() {
        for size in [[0, 5, 2, 3], [2, 0, 2, 3]] {
            let case = case(size, View::Plain, 1).wanting(0);
            assert!(results(&case, op(2))[0].1.is_empty());
        }
        for value in [f32::NAN, f32::INFINITY] {
            let mut values = noise(2 * 6 * 12, 1);
            values[30] = value;
            let case = Case::new(1).with_values(&[2, 6, 12], values, View::Plain);
            same_where_not_finite(&case, op(2), burns(2));
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let case = case([3, 40, 2, 8], View::Plain, 5);
        same_on_any_threads(|| results(&case, op(2)));
        let case = biased([9, 4, 10, 2, 8], View::Plain, 5);
        same_on_any_threads(|| results(&case, op_with_bias));
    }
}
