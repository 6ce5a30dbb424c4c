//! What a split is scored by: loss, accuracies, the confusion matrix and what follows from it, calibration
//! and areas under ROC curves. The definitions are scikit-learn's where it has them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::targets::Targets;
use crate::train::multi_label::MultiLabel;

/// The metric that chooses an epoch and is reported. Larger is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The share of images that are classified correctly.
    #[default]
    Top1,
    /// The share of images whose label is among the five most likely classes.
    Top5,
    /// The mean of the share that is classified correctly over classes, also called balanced accuracy.
    #[serde(alias = "balanced_accuracy")]
    MeanPerClass,
    /// The smallest of that share over groups.
    WorstGroup,
    /// The mean over classes of F1, the harmonic mean of precision and recall.
    F1Macro,
    /// The mean of F1 over classes, weighted by their images.
    F1Weighted,
    /// Cohen's kappa: the agreement of labels and predictions beyond that of chance, at most 1.
    Kappa,
    /// The mean over classes of the area under the ROC curve of the class against all others.
    Auroc,
    /// The mean over classes of the average precision, for several labels per image.
    Map,
    /// F1 over all pairs of an image and a class, for several labels per image.
    F1Micro,
    /// The mean over images of F1, for several labels per image.
    F1Samples,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Self; 11] = [
        Self::Top1,
        Self::Top5,
        Self::MeanPerClass,
        Self::WorstGroup,
        Self::F1Macro,
        Self::F1Weighted,
        Self::Kappa,
        Self::Auroc,
        Self::Map,
        Self::F1Micro,
        Self::F1Samples,
    ];

    /// Whether it is defined for images with one label each, or with several.
    pub fn fits(self, multi_label: bool) -> bool {
        match self {
            Self::F1Macro | Self::Auroc => true,
            Self::Map | Self::F1Micro | Self::F1Samples => multi_label,
            Self::Top1
            | Self::Top5
            | Self::MeanPerClass
            | Self::WorstGroup
            | Self::F1Weighted
            | Self::Kappa => !multi_label,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Top1 => "top-1",
            Self::Top5 => "top-5",
            Self::MeanPerClass => "mean per class",
            Self::WorstGroup => "worst group",
            Self::F1Macro => "macro F1",
            Self::F1Weighted => "weighted F1",
            Self::Kappa => "kappa",
            Self::Auroc => "AUROC",
            Self::Map => "mAP",
            Self::F1Micro => "micro F1",
            Self::F1Samples => "samples F1",
        })
    }
}

/// Metrics of a model on one split.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Images that were read.
    pub images: usize,
    /// Images that could not be read and were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: usize,
    /// Mean cross-entropy, without label smoothing and weights of classes; where images have several labels,
    /// mean binary cross-entropy over images and classes.
    pub loss: f64,
    /// Share of images whose label has the largest logit; absent where images have several labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top1: Option<f64>,
    /// Share of images whose label is among the five largest logits (all, where there are fewer); absent
    /// where images have several labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    /// Top-1 of each class; absent for a class without images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_class: Vec<Option<f64>>,
    /// Images by label (row) and prediction (column).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confusion: Vec<Vec<usize>>,
    /// Top-1 of each group that has images, by name; empty where the data set has no groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, f64>,
    /// Images by the probability of their most likely class, in bins of equal width.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<Bin>,
    /// The metric [`Metric::Auroc`], where probabilities were kept and a class has both images of its own
    /// and others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auroc: Option<f64>,
    /// The scores of images with several labels. They are absent where each image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multi_label: Option<MultiLabel>,
}

/// Number of bins of a reliability diagram, as in *On Calibration of Modern Neural Networks* (Guo et al.
/// 2017).
pub const BINS: usize = 15;

/// The images whose most likely class has a probability in one range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Number of images.
    pub images: usize,
    /// Images whose most likely class is right.
    pub correct: usize,
    /// Mean probability of the most likely class; 0 without images.
    pub confidence: f64,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Metrics {
    /// The value of `metric`, at most 1; none if there are no images, classes, groups or probabilities to
    /// take it over.
    pub fn score(&self, metric: Metric) -> Option<f64> {
        let many = self.multi_label.as_ref();
        match metric {
            Metric::Top1 => self.top1.filter(|_| self.images > 0),
            Metric::Top5 => self.top5.filter(|_| self.images > 0),
            Metric::MeanPerClass => {
                let shares: Vec<f64> = self.per_class.iter().flatten().copied().collect();
                (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
            }
            Metric::WorstGroup => self.groups.values().copied().reduce(f64::min),
            Metric::F1Macro if many.is_some() => many.and_then(|scores| scores.f1_macro),
            Metric::F1Macro => {
                let f1 = self.f1();
                (!f1.is_empty()).then(|| f1.iter().map(|(f1, _)| f1).sum::<f64>() / f1.len() as f64)
            }
            Metric::F1Weighted => {
                let f1 = self.f1();
                let images: usize = f1.iter().map(|(_, images)| images).sum();
                let sum: f64 = f1.iter().map(|(f1, images)| f1 * *images as f64).sum();
                (images > 0).then(|| sum / images as f64)
            }
            Metric::Kappa => self.kappa(),
            Metric::Auroc => self.auroc,
            Metric::Map => many.and_then(|scores| scores.map),
            Metric::F1Micro => many.and_then(|scores| scores.f1_micro),
            Metric::F1Samples => many.and_then(|scores| scores.f1_samples),
        }
    }

    /// The scores that are shown first: top-1 and top-5, or mAP and micro F1 where images have several
    /// labels.
    pub fn first(&self) -> impl Iterator<Item = (Metric, f64)> {
        let first = match self.multi_label {
            None => [Metric::Top1, Metric::Top5],
            Some(_) => [Metric::Map, Metric::F1Micro],
        };
        first
            .into_iter()
            .filter_map(|metric| Some((metric, self.score(metric)?)))
    }

    /// F1 and the number of images of each class that has images or is predicted.
    fn f1(&self) -> Vec<(f64, usize)> {
        let (labels, predictions) = self.totals();
        let counts = labels.into_iter().zip(predictions).enumerate();
        let seen = counts.filter(|(_, (labels, predictions))| labels + predictions > 0);
        seen.map(|(class, (labels, predictions))| {
            let right = self.confusion[class][class];
            (2.0 * right as f64 / (labels + predictions) as f64, labels)
        })
        .collect()
    }

    /// Cohen's kappa; none without images, or where chance alone would agree on all of them.
    fn kappa(&self) -> Option<f64> {
        let (labels, predictions) = self.totals();
        let images: f64 = labels.iter().sum::<usize>() as f64;
        let pairs = labels.iter().zip(&predictions);
        let chance: f64 =
            pairs.map(|(l, p)| *l as f64 * *p as f64).sum::<f64>() / (images * images);
        let right: usize = (0..labels.len())
            .map(|class| self.confusion[class][class])
            .sum();
        (images > 0.0 && chance < 1.0).then(|| (right as f64 / images - chance) / (1.0 - chance))
    }

    /// Images of each class by label, and by prediction.
    fn totals(&self) -> (Vec<usize>, Vec<usize>) {
        let labels = self.confusion.iter().map(|row| row.iter().sum());
        let column = |class: usize| self.confusion.iter().map(|row| row[class]).sum();
        let predictions = (0..self.confusion.len()).map(column);
        (labels.collect(), predictions.collect())
    }

    /// The expected calibration error: the mean over images of the distance between the accuracy and the
    /// confidence of their bin. None if no image was counted by its confidence.
    pub fn calibration_error(&self) -> Option<f64> {
        let images: usize = self.calibration.iter().map(|bin| bin.images).sum();
        let gaps = self
            .calibration
            .iter()
            .map(|bin| (bin.correct as f64 - bin.images as f64 * bin.confidence).abs());
        (images > 0).then(|| gaps.sum::<f64>() / images as f64)
    }

    /// The metrics without the fields that grow with the number of classes or of bins.
    pub fn brief(self) -> Self {
        Self {
            per_class: Vec::new(),
            confusion: Vec::new(),
            calibration: Vec::new(),
            multi_label: self.multi_label.map(MultiLabel::brief),
            ..self
        }
    }
}

/// Counts of a split that is still being read.
pub struct Tally {
    classes: usize,
    /// The name, the correct images and all images of each group.
    groups: Vec<(String, usize, usize)>,
    images: usize,
    loss: f64,
    /// Whether images have several labels: only their loss is counted here.
    many: bool,
    top5: usize,
    confusion: Vec<Vec<usize>>,
    /// The images, the correct ones and the sum of confidences of each bin.
    bins: [(usize, usize, f64); BINS],
}

impl Tally {
    /// Counts of zero, for this number of classes and for these groups.
    pub fn new(classes: usize, groups: &[String]) -> Self {
        Self {
            classes,
            groups: groups.iter().map(|name| (name.clone(), 0, 0)).collect(),
            images: 0,
            loss: 0.0,
            many: false,
            top5: 0,
            confusion: vec![vec![0; classes]; classes],
            bins: [(0, 0, 0.0); BINS],
        }
    }

    /// Counts a batch: `logits [b * classes]` row by row, its labels, and its groups if the data set
    /// has any.
    pub fn add(&mut self, logits: &[f32], targets: &Targets, groups: &[usize]) {
        let Some(labels) = targets.single() else {
            self.add_binary(logits, targets);
            return;
        };
        let rows = logits.chunks_exact(self.classes).zip(labels);
        for (place, (row, &label)) in rows.enumerate() {
            let (target, max) = (
                row[label],
                row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v)),
            );
            // In f64 and relative to the largest logit: the sum neither overflows nor loses the
            // small terms.
            let sum: f64 = row.iter().map(|&v| f64::from(v - max).exp()).sum();
            self.loss += sum.ln() - f64::from(target - max);
            // Ties go to the class with the smaller index, as argmax and topk do.
            let before = |(i, v): &(usize, &f32)| **v > target || (**v == target && *i < label);
            let rank = row.iter().enumerate().filter(before).count();
            self.top5 += usize::from(rank < 5);
            // Logits that are not numbers have no largest; their loss is not finite and stops a run.
            let best = row.iter().position(|&v| v == max).unwrap_or(0);
            self.confusion[label][best] += 1;
            self.images += 1;
            // Bins are closed above, as in the paper: a confidence of 1 belongs to the last.
            let confidence = 1.0 / sum;
            let bin = (confidence * BINS as f64).ceil() as usize;
            let (images, correct, confidences) = &mut self.bins[bin.clamp(1, BINS) - 1];
            *images += 1;
            *correct += usize::from(best == label);
            *confidences += confidence;
            if let Some(&group) = groups.get(place) {
                let (_, right, all) = &mut self.groups[group];
                *right += usize::from(best == label);
                *all += 1;
            }
        }
    }

    /// Counts the binary cross-entropy of images with several labels: the mean over the classes.
    fn add_binary(&mut self, logits: &[f32], targets: &Targets) {
        self.many = true;
        self.images += targets.len();
        let shown = targets.multi_hot(self.classes);
        let losses = logits.iter().zip(&shown).map(|(&logit, &shown)| {
            let x = f64::from(logit);
            // The softplus of `x`, which does not overflow, less `x` for a label.
            x.max(0.0) + (-x.abs()).exp().ln_1p() - x * f64::from(shown)
        });
        self.loss += losses.sum::<f64>() / self.classes as f64;
    }

    /// The metrics of what was counted.
    pub fn finish(self) -> Metrics {
        if self.many {
            return Metrics {
                images: self.images,
                loss: self.loss / self.images.max(1) as f64,
                ..Metrics::default()
            };
        }
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let correct = (0..self.classes).map(|c| self.confusion[c][c]).sum();
        let class = |(c, row): (usize, &Vec<usize>)| {
            let images: usize = row.iter().sum();
            (images > 0).then(|| share(row[c], images))
        };
        let groups = self.groups.into_iter().filter(|(_, _, all)| *all > 0);
        let bin = |(images, correct, confidences): (usize, usize, f64)| Bin {
            images,
            correct,
            confidence: confidences / images.max(1) as f64,
        };
        Metrics {
            images: self.images,
            skipped: 0,
            groups: groups
                .map(|(name, right, all)| (name, share(right, all)))
                .collect(),
            loss: self.loss / self.images.max(1) as f64,
            top1: Some(share(correct, self.images)),
            top5: Some(share(self.top5, self.images)),
            per_class: self.confusion.iter().enumerate().map(class).collect(),
            confusion: self.confusion,
            calibration: self.bins.map(bin).into(),
            auroc: None,
            multi_label: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_counted_values() {
        let groups = ["land", "water", "air"].map(str::to_owned);
        let mut tally = Tally::new(6, &groups);
        // Right; then rank 5 (six classes, label last); then a tie that the smaller index wins.
        let label = |label| Targets::One(vec![label]);
        tally.add(&[9.0, 0.0, 0.0, 0.0, 0.0, 0.0], &label(0), &[0]);
        tally.add(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], &label(5), &[1]);
        tally.add(&[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], &label(1), &[0]);
        let metrics = tally.finish();
        assert_eq!(metrics.images, 3);
        assert!((metrics.top1.unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert!((metrics.top5.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics.per_class[0], Some(1.0));
        assert_eq!(metrics.per_class[1], Some(0.0));
        assert_eq!(metrics.per_class[2], None);
        assert_eq!(metrics.confusion[5][0], 1);
        assert_eq!(metrics.groups["land"], 0.5);
        assert_eq!(metrics.groups["water"], 0.0);
        assert!(!metrics.groups.contains_key("air"));
        assert_eq!(metrics.score(Metric::Top1), metrics.top1);
        assert_eq!(metrics.score(Metric::Map), None);
        assert_eq!(metrics.score(Metric::MeanPerClass), Some(1.0 / 3.0));
        assert_eq!(metrics.score(Metric::WorstGroup), Some(0.0));
        assert_eq!(metrics.clone().brief().score(Metric::MeanPerClass), None);
        let first = (1.0 + 5.0 * (-9.0f64).exp()).ln();
        let second = (0..6).map(|i| f64::from(-i).exp()).sum::<f64>().ln() + 5.0;
        let third = (2.0 + 4.0 * (-1.0f64).exp()).ln();
        assert!((metrics.loss - (first + second + third) / 3.0).abs() < 1e-9);
    }

    /// Golden values, written by `fixtures/scripts/metrics.py` with scikit-learn.
    #[test]
    fn scores_are_those_of_scikit_learn() {
        #[derive(Deserialize)]
        struct Golden {
            labels: Vec<usize>,
            logits: Vec<Vec<f32>>,
            scores: BTreeMap<String, f64>,
        }
        let text = include_str!("../../../fixtures/metrics/scores.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let mut tally = Tally::new(7, &[]);
        let mut outputs = crate::train::outputs::Outputs::default();
        let logits = golden.logits.concat();
        let targets = Targets::One(golden.labels);
        tally.add(&logits, &targets, &[]);
        let places: Vec<usize> = (0..targets.len()).collect();
        outputs.add(&logits, &targets, &places);
        let metrics = Metrics {
            auroc: outputs.auroc(),
            ..tally.finish()
        };
        let mut seen = 0;
        let mut close = |name: &str, got: Option<f64>| {
            let error = (got.unwrap() - golden.scores[name]).abs();
            // Logits and probabilities are f32.
            assert!(
                error < 1e-7,
                "{name}: {got:?}, expected {}",
                golden.scores[name]
            );
            seen += 1;
        };
        for metric in Metric::ALL {
            if metric != Metric::WorstGroup && metric.fits(false) {
                let name = serde_json::to_value(metric).unwrap();
                close(name.as_str().unwrap(), metrics.score(metric));
            }
        }
        close("log_loss", Some(metrics.loss));
        close("calibration_error", metrics.calibration_error());
        assert_eq!(seen, golden.scores.len());
    }
}
