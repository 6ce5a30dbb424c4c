//! Cross-entropy, the loss of images with one label, and binary cross-entropy, that of images with several.

use burn::tensor::{Int, Tensor, TensorData};

use crate::channels::like;

pub use peft_ops::binary_cross_entropy;

/// Cross-entropy with label smoothing and weights of classes, as torch's `CrossEntropyLoss` defines it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// The weight `s` of the uniform distribution: the target is `1 - s` on the label plus `s / classes`
    /// everywhere (Szegedy et al. 2016, Sec. 7).
    pub smoothing: f64,
    /// The weight of each class; none weighs all classes the same.
    pub weights: Option<Vec<f32>>,
}

impl CrossEntropy {
    /// The mean over images of `-sum_c w_c target_c log p_c`. With weights it is the sum over images divided
    /// by the sum of the weights of their labels.
    ///
    /// # Shapes
    /// - logits: `[b, classes]`
    /// - labels: `[b]`
    /// - returns `[1]`
    pub fn of(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
        let own = one_hot(labels, &logits);
        let targets = smoothed(own.clone(), self.smoothing);
        let Some(weights) = self.weights_of(&logits) else {
            return peft_ops::cross_entropy(logits, targets);
        };
        let images = logits.dims()[0] as f64;
        let sum = (own * weights.clone()).sum();
        peft_ops::cross_entropy(logits, targets * weights) * (sum.recip() * images)
    }

    /// The mean over images that are mixed with others: the target is `lambda` on the image's label plus
    /// `1 - lambda` on its partner's, then smoothed (mixup, Zhang et al. 2018). It is divided by the number
    /// of images with weights too, as torch divides for targets that are probabilities.
    ///
    /// # Shapes
    /// - logits: `[b, classes]`
    /// - labels, partners, lambda: `[b]`
    /// - returns `[1]`
    pub fn mixed(
        &self,
        logits: Tensor<2>,
        [labels, partners]: [Tensor<1, Int>; 2],
        lambda: Tensor<1>,
    ) -> Tensor<1> {
        let lambda = like(lambda.unsqueeze_dim::<2>(1), &logits); // [b, 1]
        let own = one_hot(labels, &logits);
        let other = one_hot(partners, &logits);
        let targets = own * lambda.clone() + other * (-lambda + 1.0);
        let targets = smoothed(targets, self.smoothing);
        match self.weights_of(&logits) {
            None => peft_ops::cross_entropy(logits, targets),
            Some(weights) => peft_ops::cross_entropy(logits, targets * weights),
        }
    }

    /// `[1, classes]`, beside the logits.
    fn weights_of(&self, logits: &Tensor<2>) -> Option<Tensor<2>> {
        let weights = self.weights.as_ref()?;
        let weights = TensorData::new(weights.clone(), [1, weights.len()]);
        Some(like(Tensor::from_data(weights, &logits.device()), logits))
    }
}

/// Mean cross-entropy of `logits [b, classes]` and `labels [b]` with label smoothing: [`CrossEntropy`] without
/// weights.
///
/// # Shapes
/// `-> [1]`.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let loss = CrossEntropy {
        smoothing,
        weights: None,
    };
    loss.of(logits, labels)
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
    use burn::tensor::Device;
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
            let loss = CrossEntropy {
                smoothing: case.smoothing,
                weights: None,
            };
            let loss: f32 = loss.mixed(logits, [labels, partners], lambda).into_scalar();
            assert!((loss - case.loss).abs() < 1e-5, "{loss} {}", case.loss);
        }
    }
    /// `fixtures/scripts/losses.py` made these with torch's `CrossEntropyLoss`.
    #[test]
    fn weighted_losses_and_gradients_are_those_of_torch() {
        #[derive(Deserialize)]
        struct Case {
            name: String,
            logits: Vec<Vec<f32>>,
            labels: Vec<i64>,
            partners: Vec<i64>,
            lambda: Vec<f32>,
            weights: Option<Vec<f32>>,
            smoothing: f64,
            loss: f32,
            gradient: Vec<Vec<f32>>,
        }
        #[derive(Deserialize)]
        struct Golden {
            cross_entropy: Vec<Case>,
        }
        let text = include_str!("../../fixtures/losses/losses.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let device = Device::flex().autodiff();
        for case in golden.cross_entropy {
            let shape = [case.logits.len(), case.logits[0].len()];
            let logits = TensorData::new(case.logits.concat(), shape);
            let logits = Tensor::<2>::from_data(logits, &device).require_grad();
            let line = |values: Vec<i64>| {
                let count = values.len();
                Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
            };
            let loss = CrossEntropy {
                smoothing: case.smoothing,
                weights: case.weights,
            };
            let labels = line(case.labels);
            let loss = match case.lambda.len() {
                0 => loss.of(logits.clone(), labels),
                rows => {
                    let lambda = TensorData::new(case.lambda, [rows]);
                    let lambda = Tensor::from_data(lambda, &device);
                    loss.mixed(logits.clone(), [labels, line(case.partners)], lambda)
                }
            };
            let gradients = loss.backward();
            let loss: f32 = loss.into_scalar();
            assert!((loss - case.loss).abs() < 1e-5, "{}: {loss}", case.name);
            let gradient = logits.grad(&gradients).unwrap();
            assert_close(gradient, &case.gradient, &case.name);
        }
    }

    /// `fixtures/scripts/losses.py` made these with torch's `binary_cross_entropy_with_logits`.
    #[test]
    fn binary_losses_and_gradients_are_those_of_torch() {
        #[derive(Deserialize)]
        struct Case {
            name: String,
            logits: Vec<Vec<f32>>,
            targets: Vec<Vec<f32>>,
            loss: f32,
            gradient: Vec<Vec<f32>>,
        }
        #[derive(Deserialize)]
        struct Golden {
            binary: Vec<Case>,
        }
        let text = include_str!("../../fixtures/losses/losses.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let device = Device::flex().autodiff();
        for case in golden.binary {
            let shape = [case.logits.len(), case.logits[0].len()];
            let tensor = |rows: &[Vec<f32>]| {
                Tensor::<2>::from_data(TensorData::new(rows.concat(), shape), &device)
            };
            let logits = tensor(&case.logits).require_grad();
            let loss = binary_cross_entropy(logits.clone(), tensor(&case.targets));
            let gradients = loss.backward();
            let loss: f32 = loss.into_scalar();
            let error = (loss - case.loss).abs();
            assert!(error <= 1e-5 * case.loss.abs(), "{}: {loss}", case.name);
            let gradient = logits.grad(&gradients).unwrap();
            assert_close(gradient, &case.gradient, &case.name);
        }
    }

    /// Within 2e-5 of the largest value.
    fn assert_close(got: Tensor<2>, expected: &[Vec<f32>], name: &str) {
        let got: Vec<f32> = got.into_data().iter().collect();
        let expected = expected.concat();
        let largest = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            let close = (got - expected).abs() <= 2e-5 * largest;
            assert!(close, "{name}: {got}, expected {expected}");
        }
    }
}
