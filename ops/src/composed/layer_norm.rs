//! LayerNorm that keeps its input and two numbers per row.

use burn::backend::DispatchTensor;
use burn::tensor::Tensor;

use super::{apply, in_type, run_on, widened};
use crate::operation::Operation;

/// `gamma (x - mean) / sqrt(var + epsilon) + beta` over the last axis. The three inputs have one type.
///
/// # Errors
/// Hands the tensors back where this does not run: use Burn's own operation then.
///
/// # Shapes
/// `x [.., d]`, `gamma [d]`, `beta [d] -> [.., d]`.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
pub(crate) fn layer_norm<const D: usize>(
    inputs: [DispatchTensor; 3],
    epsilon: f64,
) -> Result<Tensor<D>, [DispatchTensor; 3]> {
    if run_on(&inputs[0]) {
        node(inputs, epsilon)
    } else {
        Err(inputs)
    }
}

/// [`layer_norm`] on any device, the CPU too.
#[allow(
    clippy::result_large_err,
    reason = "the tensors are handed back, not an error"
)]
pub(super) fn node<const D: usize>(
    inputs: [DispatchTensor; 3],
    epsilon: f64,
) -> Result<Tensor<D>, [DispatchTensor; 3]> {
    apply(LayerNorm::<D> { epsilon }, inputs).map(Tensor::from_dispatch)
}

#[derive(Clone, Copy, Debug)]
struct LayerNorm<const D: usize> {
    epsilon: f64,
}

/// The input, gamma, and `[.., 1]` the mean and the inverse deviation of each row.
type Saved<const D: usize> = (Tensor<D>, Tensor<1>, Tensor<D>, Tensor<D>);

impl<const D: usize> Operation<DispatchTensor, 3> for LayerNorm<D> {
    type Saved = Saved<D>;

    fn forward(
        &self,
        [x, gamma, beta]: [DispatchTensor; 3],
        _: [bool; 3],
    ) -> (DispatchTensor, Saved<D>) {
        let x = Tensor::<D>::from_dispatch(x);
        let gamma = Tensor::<1>::from_dispatch(gamma);
        let beta = widened(Tensor::<1>::from_dispatch(beta));
        let wide = widened(x.clone());
        let mean = wide.clone().mean_dim(D - 1); // [.., 1]
        let centred = wide - mean.clone();
        let variance = (centred.clone() * centred.clone()).mean_dim(D - 1);
        let inverse = (variance + self.epsilon).sqrt().recip(); // [.., 1]
        let y = centred * inverse.clone() * widened(gamma.clone()).unsqueeze() + beta.unsqueeze();
        let y = in_type(y, x.dtype());
        (y.into_dispatch(), (x, gamma, mean, inverse))
    }

    fn backward(
        &self,
        (x, gamma, mean, inverse): Saved<D>,
        gradient: DispatchTensor,
        [x_wanted, gamma_wanted, beta_wanted]: [bool; 3],
    ) -> [Option<DispatchTensor>; 3] {
        let dtype = x.dtype();
        let gradient = widened(Tensor::<D>::from_dispatch(gradient));
        let normed = (widened(x) - mean) * inverse.clone(); // [.., d]
        let over_rows = |values: Tensor<D>| {
            let width = values.dims()[D - 1];
            let rows = values.reshape([-1, width as i32]); // [rows, d]
            in_type(rows.sum_dim(0).squeeze_dim::<1>(0), dtype).into_dispatch()
        };
        let dbeta = beta_wanted.then(|| over_rows(gradient.clone()));
        let dgamma = gamma_wanted.then(|| over_rows(gradient.clone() * normed.clone()));
        let dx = x_wanted.then(|| {
            let scaled = gradient * widened(gamma).unsqueeze();
            let mean = scaled.clone().mean_dim(D - 1); // [.., 1]
            let along = (scaled.clone() * normed.clone()).mean_dim(D - 1); // [.., 1]
            let dx = (scaled - mean - normed * along) * inverse;
            in_type(dx, dtype).into_dispatch()
        });
        [dx, dgamma, dbeta]
    }
}
