//! Loss, top-1, top-5, per class and confusion, counted on the host.

use serde::{Deserialize, Serialize};

/// What a split scored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Images.
    pub images: usize,
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
}

/// Counts until the split is through.
pub struct Tally {
    classes: usize,
    images: usize,
    loss: f64,
    top5: usize,
    confusion: Vec<Vec<usize>>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            images: 0,
            loss: 0.0,
            top5: 0,
            confusion: vec![vec![0; classes]; classes],
        }
    }

    /// Counts a batch: `logits [b * classes]` row by row, and its labels.
    pub fn add(&mut self, logits: &[f32], labels: &[usize]) {
        for (row, &label) in logits.chunks_exact(self.classes).zip(labels) {
            let (target, max) = (
                row[label],
                row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v)),
            );
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
        }
    }

    /// The result.
    pub fn finish(self) -> Metrics {
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let correct = (0..self.classes).map(|c| self.confusion[c][c]).sum();
        let class = |(c, row): (usize, &Vec<usize>)| {
            let images: usize = row.iter().sum();
            (images > 0).then(|| share(row[c], images))
        };
        Metrics {
            images: self.images,
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
        let mut tally = Tally::new(6);
        // Right; then rank 5 (six classes, label last); then a tie that the smaller index wins.
        tally.add(&[9.0, 0.0, 0.0, 0.0, 0.0, 0.0], &[0]);
        tally.add(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0], &[5]);
        tally.add(&[1.0, 1.0, 0.0, 0.0, 0.0, 0.0], &[1]);
        let metrics = tally.finish();
        assert_eq!(metrics.images, 3);
        assert!((metrics.top1 - 1.0 / 3.0).abs() < 1e-12);
        assert!((metrics.top5 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics.per_class[0], Some(1.0));
        assert_eq!(metrics.per_class[1], Some(0.0));
        assert_eq!(metrics.per_class[2], None);
        assert_eq!(metrics.confusion[5][0], 1);
        let first = (1.0 + 5.0 * (-9.0f64).exp()).ln();
        let second = (0..6).map(|i| f64::from(-i).exp()).sum::<f64>().ln() + 5.0;
        let third = (2.0 + 4.0 * (-1.0f64).exp()).ln();
        assert!((metrics.loss - (first + second + third) / 3.0).abs() < 1e-9);
    }
}
