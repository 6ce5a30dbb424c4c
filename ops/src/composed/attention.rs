//! Softmax attention that keeps only its packed input; backward computes the scores again.

use burn::backend::DispatchTensor;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use super::{apply, in_type, run_on, widened};
use crate::operation::Operation;

/// `softmax(q k^T / sqrt(w)) v` for `heads` heads of `w = d / heads` contiguous channels.
///
/// # Errors
/// Hands the tensor back where this does not run: use Burn's own operations then.
///
/// # Shapes
/// `qkv [b, n, 3 d] -> [b, n, d]`.
#[allow(
    clippy::result_large_err,
    reason = "the tensor is handed back, not an error"
)]
pub(crate) fn attention(heads: usize, qkv: DispatchTensor) -> Result<Tensor<3>, DispatchTensor> {
    if run_on(&qkv) {
        node(heads, qkv)
    } else {
        Err(qkv)
    }
}

/// [`attention`] on any device, the CPU too.
#[allow(
    clippy::result_large_err,
    reason = "the tensor is handed back, not an error"
)]
pub(super) fn node(heads: usize, qkv: DispatchTensor) -> Result<Tensor<3>, DispatchTensor> {
    match apply(Attention { heads }, [qkv]) {
        Ok(y) => Ok(Tensor::from_dispatch(y)),
        Err([qkv]) => Err(qkv),
    }
}

#[derive(Clone, Copy, Debug)]
struct Attention {
    heads: usize,
}

impl Attention {
    /// Queries times `1 / sqrt(w)`, keys and values, each `[b, h, n, w]`.
    fn parts(self, qkv: Tensor<3>) -> [Tensor<4>; 3] {
        let [b, n, d3] = qkv.dims();
        let width = d3 / 3 / self.heads;
        let qkv = qkv
            .reshape([b, n, 3, self.heads, width])
            .permute([2, 0, 3, 1, 4]); // [3, b, h, n, w]
        let part = |i| qkv.clone().narrow(0, i, 1).squeeze_dim::<4>(0);
        [part(0) * self.scale(width), part(1), part(2)]
    }

    fn scale(self, width: usize) -> f64 {
        (width as f64).powf(-0.5)
    }
}

/// `softmax(q k^T)`, `[b, h, n, n]`.
fn weights(q: Tensor<4>, k: Tensor<4>) -> Tensor<4> {
    softmax(widened(q.matmul(k.transpose())), 3)
}

impl Operation<DispatchTensor, 1> for Attention {
    type Saved = Tensor<3>;

    fn forward(&self, [qkv]: [DispatchTensor; 1], _: [bool; 1]) -> (DispatchTensor, Tensor<3>) {
        let qkv = Tensor::<3>::from_dispatch(qkv);
        let [b, n, d3] = qkv.dims();
        let [q, k, v] = self.parts(qkv.clone());
        let p = in_type(weights(q, k), qkv.dtype());
        let y = p.matmul(v).swap_dims(1, 2).reshape([b, n, d3 / 3]);
        (y.into_dispatch(), qkv)
    }

    fn backward(
        &self,
        qkv: Tensor<3>,
        gradient: DispatchTensor,
        _: [bool; 1],
    ) -> [Option<DispatchTensor>; 1] {
        let ([b, n, d3], dtype) = (qkv.dims(), qkv.dtype());
        let width = d3 / 3 / self.heads;
        let [q, k, v] = self.parts(qkv);
        let dy = Tensor::<3>::from_dispatch(gradient);
        let dy = dy.reshape([b, n, self.heads, width]).swap_dims(1, 2); // [b, h, n, w]
        let p = weights(q.clone(), k.clone()); // [b, h, n, n]
        let dv = in_type(p.clone(), dtype).transpose().matmul(dy.clone());
        let dp = widened(dy.matmul(v.transpose())); // [b, h, n, n]
        // Through the softmax: a row of scores moves all of its probabilities.
        let along = (p.clone() * dp.clone()).sum_dim(3); // [b, h, n, 1]
        let ds = in_type(p * (dp - along), dtype); // [b, h, n, n]
        let dq = ds.clone().matmul(k) * self.scale(width);
        let dk = ds.transpose().matmul(q);
        let dqkv = Tensor::stack::<5>(vec![dq, dk, dv], 0) // [3, b, h, n, w]
            .permute([1, 3, 0, 2, 4])
            .reshape([b, n, d3]);
        [Some(dqkv.into_dispatch())]
    }
}
