//! Loss, top-1 and top-5 accuracy, accuracy per class and per group, and the confusion matrix.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The metric that chooses an epoch and is reported. Larger is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The share of images that are classified correctly.
    #[default]
    Top1,
    /// The mean of that share over classes.
    MeanPerClass,
    /// The smallest of that share over groups.
    WorstGroup,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Top1 => "top-1",
            Self::MeanPerClass => "mean per class",
            Self::WorstGroup => "worst group",
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
    /// Mean cross-entropy, without label smoothing.
    pub loss: f64,
    /// Share of images whose label has the largest logit.
    pub top1: f64,
    /// Share of images whose label is among the five largest logits (all, where there are fewer).
    pub top5: f64,
    /// Top-1 of each class; absent for a class without images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_class: Vec<Option<f64>>,
    /// Images by label (row) and prediction (column).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub confusion: Vec<Vec<usize>>,
    /// Top-1 of each group that has images, by name; empty where the data set has no groups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub groups: BTreeMap<String, f64>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Metrics {
    /// The value of `metric`, in `[0, 1]`; none if there are no images, classes or groups to take it over.
    pub fn score(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::Top1 => (self.images > 0).then_some(self.top1),
            Metric::MeanPerClass => {
                let shares: Vec<f64> = self.per_class.iter().flatten().copied().collect();
                (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
            }
            Metric::WorstGroup => self.groups.values().copied().reduce(f64::min),
        }
    }

    /// The metrics without the fields that grow with the number of classes.
    pub fn brief(self) -> Self {
        Self {
            per_class: Vec::new(),
            confusion: Vec::new(),
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
    top5: usize,
    confusion: Vec<Vec<usize>>,
}

impl Tally {
    /// Counts of zero, for this number of classes and for these groups.
    pub fn new(classes: usize, groups: &[String]) -> Self {
        Self {
            classes,
            groups: groups.iter().map(|name| (name.clone(), 0, 0)).collect(),
            images: 0,
            loss: 0.0,
            top5: 0,
            confusion: vec![vec![0; classes]; classes],
        }
    }

    /// Counts a batch: `logits [b * classes]` row by row, its labels, and its groups if the data set
    /// has any.
    pub fn add(&mut self, logits: &[f32], labels: &[usize], groups: &[usize]) {
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
            if let Some(&group) = groups.get(place) {
                let (_, right, all) = &mut self.groups[group];
                *right += usize::from(best == label);
                *all += 1;
            }
        }
    }

    /// The metrics of what was counted.
    pub fn finish(self) -> Metrics {
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let correct = (0..self.classes).map(|c| self.confusion[c][c]).sum();
        let class = |(c, row): (usize, &Vec<usize>)| {
            let images: usize = row.iter().sum();
            (images > 0).then(|| share(row[c], images))
        };
        let groups = self.groups.into_iter().filter(|(_, _, all)| *all > 0);
        Metrics {
            images: self.images,
            skipped: 0,
            groups: groups
                .map(|(name, right, all)| (name, share(right, all)))
                .collect(),
            loss: self.loss / self.images.max(1) as f64,
            top1: share(correct, self.images),
            top5: share(self.top5, self.images),
            per_class: self.confusion.iter().enumerate().map(class).collect(),
            confusion: self.confusion,
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
        tally.add(&[9.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[0], &[0]);
        tally.add(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], &[5], &[1]);
        tally.add(&[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], &[1], &[0]);
        let metrics = tally.finish();
        assert_eq!(metrics.images, 3);
        assert!((metrics.top1 - 1.0 / 3.0).abs() < 1e-12);
        assert!((metrics.top5 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics.per_class[0], Some(1.0));
        assert_eq!(metrics.per_class[1], Some(0.0));
        assert_eq!(metrics.per_class[2], None);
        assert_eq!(metrics.confusion[5][0], 1);
        assert_eq!(metrics.groups["land"], 0.5);
        assert_eq!(metrics.groups["water"], 0.0);
        assert!(!metrics.groups.contains_key("air"));
        assert_eq!(metrics.score(Metric::Top1), Some(metrics.top1));
        assert_eq!(metrics.score(Metric::MeanPerClass), Some(1.0 / 3.0));
        assert_eq!(metrics.score(Metric::WorstGroup), Some(0.0));
        assert_eq!(metrics.clone().brief().score(Metric::MeanPerClass), None);
        let first = (1.0 + 5.0 * (-9.0f64).exp()).ln();
        let second = (0..6).map(|i| f64::from(-i).exp()).sum::<f64>().ln() + 5.0;
        let third = (2.0 + 4.0 * (-1.0f64).exp()).ln();
        assert!((metrics.loss - (first + second + third) / 3.0).abs() < 1e-9);
    }
}
