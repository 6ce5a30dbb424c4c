//! The probabilities that a model gives the classes of each image, for what cannot be scored image by
//! image.

use crate::data::targets::Targets;

/// What a model says of the images of a split.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// The place of each image in its loader.
    pub places: Vec<usize>,
    /// The labels of each image.
    pub targets: Targets,
    /// `[images * classes]`, row by row.
    pub probabilities: Vec<f32>,
}

impl Outputs {
    /// Adds a batch: `logits [b * classes]` row by row, its labels, and the places of its images. Where images
    /// have several labels, each class has a probability of its own.
    pub fn add(&mut self, logits: &[f32], targets: &Targets, places: &[usize]) {
        self.targets.extend(targets);
        self.places.extend(places);
        if targets.single().is_none() {
            let logistic = |&v: &f32| (1.0 / (1.0 + f64::from(-v).exp())) as f32;
            self.probabilities.extend(logits.iter().map(logistic));
            return;
        }
        for row in logits.chunks_exact((logits.len() / targets.len().max(1)).max(1)) {
            let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
            let exponential = |&v: &f32| f64::from(v - max).exp();
            let sum: f64 = row.iter().map(exponential).sum();
            let probabilities = row.iter().map(|v| (exponential(v) / sum) as f32);
            self.probabilities.extend(probabilities);
        }
    }

    /// The places of the images with their labels and probabilities.
    pub fn rows(&self) -> impl Iterator<Item = (usize, &[usize], &[f32])> {
        let classes = self.classes();
        let rows = self.probabilities.chunks_exact(classes.max(1));
        let images = self.places.iter().enumerate();
        images
            .zip(rows)
            .map(|((image, place), row)| (*place, self.targets.of(image), row))
    }

    /// The number of classes; 0 before the first image.
    pub fn classes(&self) -> usize {
        self.probabilities.len() / self.targets.len().max(1)
    }

    /// The mean over classes of the area under the ROC curve of the class against all others, by the ranks
    /// of their probabilities (Mann and Whitney). Classes that all images or none belong to have no curve;
    /// none if that is so of all.
    pub fn auroc(&self) -> Option<f64> {
        let areas: Vec<f64> = (0..self.classes()).filter_map(|c| self.area(c)).collect();
        (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
    }

    fn area(&self, class: usize) -> Option<f64> {
        let mut images: Vec<(f32, bool)> = self
            .rows()
            .map(|(_, labels, row)| (row[class], labels.contains(&class)))
            .collect();
        images.sort_by(|a, b| a.0.total_cmp(&b.0));
        let own = images.iter().filter(|(_, own)| *own).count();
        // Twice the number of pairs of an image of the class and another one that are in the right order.
        // Ties count for one half, so that the sum is a whole number.
        let (mut pairs, mut others) = (0, 0);
        for tied in images.chunk_by(|a, b| a.0 == b.0) {
            let own = tied.iter().filter(|(_, own)| *own).count();
            pairs += own * (2 * others + tied.len() - own);
            others += tied.len() - own;
        }
        (own > 0 && others > 0).then(|| pairs as f64 / (2 * own * others) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_count_pairs_in_order() {
        let mut outputs = Outputs::default();
        let log = |p: f32| [0.0, (p / (1.0 - p)).ln()];
        // Of class 1: 0.8 and 0.4; of class 0: 0.4, 0.2 and 0.9.
        for (label, p) in [(1, 0.8), (0, 0.4), (1, 0.4), (0, 0.2), (0, 0.9)] {
            let place = outputs.places.len();
            outputs.add(&log(p), &Targets::One(vec![label]), &[place]);
        }
        // 0.8 is above two of three, 0.4 above one and level with one.
        assert_eq!(outputs.auroc(), Some((2.0 + 1.5) / 6.0));
        let (place, labels, row) = outputs.rows().last().unwrap();
        assert_eq!((place, labels), (4, &[0][..]));
        assert!((row[1] - 0.9).abs() < 1e-6 && (row[0] - 0.1).abs() < 1e-6);
        assert_eq!(Outputs::default().auroc(), None);
    }
}
