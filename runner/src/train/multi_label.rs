//! Scores of images with several labels: precision over all thresholds, and F1 at one. The definitions are
//! scikit-learn's; what would be 0/0, such as a class without images, is left out of a mean.

use serde::{Deserialize, Serialize};

use crate::train::outputs::Outputs;

/// An image shows the classes whose probability is at least this.
pub const THRESHOLD: f32 = 0.5;

/// Scores of images with several labels. Labels are predicted where the probability is at least
/// [`THRESHOLD`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MultiLabel {
    /// The mean over classes of the average precision.
    pub map: Option<f64>,
    /// F1 over all pairs of an image and a class.
    pub f1_micro: Option<f64>,
    /// The mean over classes of F1.
    pub f1_macro: Option<f64>,
    /// The mean over images of F1.
    pub f1_samples: Option<f64>,
    /// The share of images all of whose labels are predicted, and no other.
    pub exact_match: f64,
    /// The average precision of each class; absent for a class without images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub average_precision: Vec<Option<f64>>,
    /// F1 of each class; absent for a class that has no images and is not predicted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub f1: Vec<Option<f64>>,
    /// The images of each class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<usize>,
}

/// Pairs of an image and a class.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Labels that are predicted.
    right: usize,
    labels: usize,
    predictions: usize,
}

impl Counts {
    fn add(&mut self, label: bool, prediction: bool) {
        self.right += usize::from(label && prediction);
        self.labels += usize::from(label);
        self.predictions += usize::from(prediction);
    }

    /// The harmonic mean of precision and recall.
    fn f1(self) -> Option<f64> {
        let all = self.labels + self.predictions;
        (all > 0).then(|| 2.0 * self.right as f64 / all as f64)
    }
}

impl MultiLabel {
    /// Scores what a model says of the images of a split.
    pub fn of(outputs: &Outputs) -> Self {
        let classes = outputs.classes();
        let mut by_class = vec![Counts::default(); classes];
        let mut pairs = Counts::default();
        let (mut by_image, mut exact) = (Vec::new(), 0);
        for (_, labels, probabilities) in outputs.rows() {
            let mut own = Counts::default();
            for (class, &probability) in probabilities.iter().enumerate() {
                let (label, prediction) = (labels.contains(&class), probability >= THRESHOLD);
                for counts in [&mut own, &mut by_class[class], &mut pairs] {
                    counts.add(label, prediction);
                }
            }
            exact += usize::from(own.right == own.labels && own.right == own.predictions);
            by_image.push(own.f1());
        }
        let precision: Vec<Option<f64>> = (0..classes)
            .map(|class| average_precision(outputs, class))
            .collect();
        let f1: Vec<Option<f64>> = by_class.iter().map(|counts| counts.f1()).collect();
        Self {
            map: mean(&precision),
            f1_micro: pairs.f1(),
            f1_macro: mean(&f1),
            f1_samples: mean(&by_image),
            exact_match: exact as f64 / by_image.len().max(1) as f64,
            average_precision: precision,
            f1,
            images: by_class.iter().map(|counts| counts.labels).collect(),
        }
    }

    /// The scores without those of each class.
    pub fn brief(self) -> Self {
        Self {
            average_precision: Vec::new(),
            f1: Vec::new(),
            images: Vec::new(),
            ..self
        }
    }
}

/// The sum over thresholds, from the largest probability on, of the precision times the gain in recall.
/// Images of one probability are on the same side of every threshold. None for a class without images.
fn average_precision(outputs: &Outputs, class: usize) -> Option<f64> {
    let mut images: Vec<(f32, bool)> = outputs
        .rows()
        .map(|(_, labels, row)| (row[class], labels.contains(&class)))
        .collect();
    images.sort_by(|a, b| b.0.total_cmp(&a.0));
    let all = images.iter().filter(|(_, own)| *own).count();
    let (mut right, mut seen, mut sum) = (0, 0, 0.0);
    for tied in images.chunk_by(|a, b| a.0 == b.0) {
        let own = tied.iter().filter(|(_, own)| *own).count();
        right += own;
        seen += tied.len();
        sum += own as f64 * right as f64 / seen as f64;
    }
    (all > 0).then(|| sum / all as f64)
}

/// The mean of what is defined.
fn mean(values: &[Option<f64>]) -> Option<f64> {
    let defined: Vec<f64> = values.iter().flatten().copied().collect();
    (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::targets::Targets;
    use crate::train::metrics::{Metric, Metrics, Tally};

    /// Golden values, written by `fixtures/scripts/metrics.py` with scikit-learn.
    #[test]
    fn scores_are_those_of_scikit_learn() {
        #[derive(Deserialize)]
        struct Golden {
            labels: Vec<Vec<usize>>,
            logits: Vec<Vec<f32>>,
            scores: BTreeMap<String, f64>,
            average_precision: Vec<Option<f64>>,
        }
        let text = include_str!("../../../fixtures/metrics/multi_label.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let (images, classes) = (golden.labels.len(), golden.logits[0].len());
        let (logits, targets) = (golden.logits.concat(), Targets::Many(golden.labels));
        let mut tally = Tally::new(classes, &[]);
        tally.add(&logits, &targets, &[]);
        let mut outputs = Outputs::default();
        outputs.add(&logits, &targets, &(0..images).collect::<Vec<_>>());
        let metrics = Metrics {
            auroc: outputs.auroc(),
            multi_label: Some(MultiLabel::of(&outputs)),
            ..tally.finish()
        };
        let mut seen = 0;
        let mut close = |name: &str, got: Option<f64>| {
            let error = (got.unwrap() - golden.scores[name]).abs();
            assert!(error < 1e-7, "{name}: {got:?}, {}", golden.scores[name]);
            seen += 1;
        };
        for metric in Metric::ALL {
            let name = serde_json::to_value(metric).unwrap();
            match metric.fits(true) {
                true => close(name.as_str().unwrap(), metrics.score(metric)),
                false => assert_eq!(metrics.score(metric), None, "{metric}"),
            }
        }
        close("log_loss", Some(metrics.loss));
        let scores = metrics.multi_label.unwrap();
        close("exact_match", Some(scores.exact_match));
        assert_eq!(seen, golden.scores.len());
        for (got, expected) in scores
            .average_precision
            .iter()
            .zip(golden.average_precision)
        {
            assert_eq!(got.is_some(), expected.is_some());
            assert!((got.unwrap_or_default() - expected.unwrap_or_default()).abs() < 1e-7);
        }
        assert_eq!(scores.images.len(), classes);
        assert_eq!(scores.images.last(), Some(&0));
    }
}
