//! Cross-entropy, the loss of every recipe.

use burn::tensor::{Int, Tensor};

use crate::channels::like;

/// Mean cross-entropy of `logits [b, classes]` and `labels [b]`; with smoothing `s` the target is
/// `1 - s` on the label plus `s / classes` everywhere (Szegedy et al. 2016, Sec. 7).
///
/// # Shapes
/// `-> [1]`.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let targets = one_hot(labels, &logits);
    peft_ops::cross_entropy(logits, smoothed(targets, smoothing))
}

/// Mean cross-entropy of images that are mixed with others: the target is `lambda` on the image's label
/// plus `1 - lambda` on its partner's, smoothed as that of [`cross_entropy`] (mixup, Zhang et al. 2018).
///
/// # Shapes
/// - logits: `[b, classes]`
/// - labels, partners, lambda: `[b]`
/// - returns `[1]`
pub fn mixed_cross_entropy(
    logits: Tensor<2>,
    [labels, partners]: [Tensor<1, Int>; 2],
    lambda: Tensor<1>,
    smoothing: f64,
) -> Tensor<1> {
    let lambda = like(lambda.unsqueeze_dim::<2>(1), &logits); // [b, 1]
    let own = one_hot(labels, &logits);
    let other = one_hot(partners, &logits);
    let targets = own * lambda.clone() + other * (-lambda + 1.0);
    peft_ops::cross_entropy(logits, smoothed(targets, smoothing))
}

/// `[b] -> [b, classes]`, in the element type of the logits.
fn one_hot(labels: Tensor<1, Int>, logits: &Tensor<2>) -> Tensor<2> {
    let classes = logits.dims()[1];
    like(labels.one_hot::<2>(classes).float(), logits)
}

fn smoothed(targets: Tensor<2>, smoothing: f64) -> Tensor<2> {
    let classes = targets.dims()[1] as f64;
    match smoothing {
        0.0 => targets,
        s => targets * (1.0 - s) + s / classes,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use serde::Deserialize;

    use super::*;

    /// `fixtures/scripts/augment.py` made these with timm's `Mixup` and `SoftTargetCrossEntropy`.
    #[test]
    fn mixed_targets_agree_with_timm() {
        #[derive(Deserialize)]
        struct Row {
            lambda: f32,
        }
        #[derive(Deserialize)]
        struct Case {
            classes: usize,
            labels: Vec<i64>,
            mix: Vec<Row>,
            logits: Vec<f32>,
            smoothing: f64,
            loss: f32,
        }
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../fixtures/augment/mixes.json")).unwrap();
        let device = Device::flex();
        for case in cases {
            let rows = case.labels.len();
            let logits = TensorData::new(case.logits, [rows, case.classes]);
            let logits = Tensor::from_data(logits, &device);
            let labels = Tensor::<1, Int>::from_data(TensorData::new(case.labels, [rows]), &device);
            // timm mixes image `i` of `b` with image `b - 1 - i`.
            let partners = labels.clone().flip([0]);
            let lambda: Vec<f32> = case.mix.iter().map(|row| row.lambda).collect();
            let lambda = Tensor::from_data(TensorData::new(lambda, [rows]), &device);
            let loss = mixed_cross_entropy(logits, [labels, partners], lambda, case.smoothing);
            let loss: f32 = loss.into_scalar();
            assert!((loss - case.loss).abs() < 1e-5, "{loss} {}", case.loss);
        }
    }
}
