//! Cross-entropy, the loss of every recipe.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

/// Mean cross-entropy of `logits [b, classes]` and `labels [b]`; with smoothing `s` the target is
/// `1 - s` on the label plus `s / classes` everywhere (Szegedy et al. 2016, Sec. 7).
///
/// # Shapes
/// `-> [1]`.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let rows = labels.dims()[0];
    let log_p = log_softmax(logits, 1); // [b, classes]
    let picked = log_p.clone().gather(1, labels.reshape([rows, 1])).mean();
    if smoothing == 0.0 {
        return -picked;
    }
    -(picked * (1.0 - smoothing) + log_p.mean() * smoothing)
}
