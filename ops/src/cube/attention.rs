//! Softmax attention with kernels around Burn's products of matrices: heads are split and joined in one pass, and the
//! softmax takes scale and bias in another.

use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::Tensor;

use super::heads::Heads;
use super::softmax::Softmaxes;
use crate::operation::Operation;

/// `softmax(q k^T / sqrt(w) + bias) v` of packed queries, keys and values, which are kept, and a bias for each window
/// as second input if there is one. Backward computes the scores again.
///
/// # Shapes
/// `qkv [b, n, 3 d]`, `bias [windows, heads, n, n] -> [b, n, d]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub heads: usize,
}

impl Attention {
    /// `1 / sqrt(w)` of packed tokens.
    fn scale(self, qkv: &DispatchTensor) -> f32 {
        let width = Tensor::<3>::from_dispatch(qkv.clone()).dims()[2] / 3 / self.heads;
        (width as f32).powf(-0.5)
    }

    /// The weights `[b, h, n, n]`.
    fn weights(
        self,
        q: Tensor<4>,
        k: Tensor<4>,
        bias: Option<DispatchTensor>,
        scale: f32,
    ) -> Tensor<4> {
        let scores = q.matmul(k.transpose()).into_dispatch();
        Tensor::from_dispatch(match bias {
            Some(bias) => Dispatch::softmax_biased(scores, bias, scale),
            None => Dispatch::softmax_scaled(scores, scale),
        })
    }
}

impl<const N: usize> Operation<DispatchTensor, N> for Attention {
    /// The inputs.
    type Saved = [DispatchTensor; N];

    fn forward(
        &self,
        inputs: [DispatchTensor; N],
        _: [bool; N],
    ) -> (DispatchTensor, [DispatchTensor; N]) {
        let qkv = inputs[0].clone();
        let scale = self.scale(&qkv);
        let (q, k, v) = Dispatch::split_qkv(qkv, self.heads);
        let [q, k, v] = [q, k, v].map(Tensor::<4>::from_dispatch);
        let p = self.weights(q, k, inputs.get(1).cloned(), scale);
        let y = Dispatch::join_heads(p.matmul(v).into_dispatch());
        (y, inputs)
    }

    fn backward(
        &self,
        inputs: [DispatchTensor; N],
        gradient: DispatchTensor,
        wanted: [bool; N],
    ) -> [Option<DispatchTensor>; N] {
        let qkv = inputs[0].clone();
        let scale = self.scale(&qkv);
        let (q, k, v) = Dispatch::split_qkv(qkv, self.heads);
        let [q, k, v] = [q, k, v].map(Tensor::<4>::from_dispatch);
        let dy = Tensor::<4>::from_dispatch(Dispatch::split_heads(gradient, self.heads));
        let p = self.weights(q.clone(), k.clone(), inputs.get(1).cloned(), scale);
        let dp = dy.clone().matmul(v.transpose()).into_dispatch(); // [b, h, n, n]
        let bias_wanted = wanted.get(1) == Some(&true);
        let of_bias = bias_wanted.then(|| {
            let slopes = Dispatch::softmax_slopes(p.clone().into_dispatch(), dp.clone(), 1.0);
            summed_over_images(Tensor::from_dispatch(slopes), inputs[1].clone())
        });
        let dqkv = wanted[0].then(|| {
            let dv = p.clone().transpose().matmul(dy);
            let ds = Dispatch::softmax_slopes(p.into_dispatch(), dp, scale);
            let ds = Tensor::<4>::from_dispatch(ds);
            let dq = ds.clone().matmul(k);
            let dk = ds.transpose().matmul(q);
            let [dq, dk, dv] = [dq, dk, dv].map(Tensor::into_dispatch);
            Dispatch::join_qkv(dq, dk, dv)
        });
        let mut gradients = [dqkv, of_bias].into_iter();
        std::array::from_fn(|_| gradients.next().flatten())
    }
}

/// The gradient of a bias from that of all scores.
fn summed_over_images(slopes: Tensor<4>, bias: DispatchTensor) -> DispatchTensor {
    let [windows, heads, n, m] = Tensor::<4>::from_dispatch(bias).dims();
    let (images, dtype) = (slopes.dims()[0] / windows, slopes.dtype());
    let slopes = slopes.reshape([images, windows, heads, n * m]);
    let sum = slopes.cast(burn::tensor::DType::F32).sum_dim(0).cast(dtype);
    sum.reshape([windows, heads, n, m]).into_dispatch()
}
