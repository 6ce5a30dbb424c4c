//! The labels of images: one each, or any number in a multi-label set.

use std::ops::Range;

/// The labels of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its only label.
    One(usize),
    /// Its labels, ascending.
    Many(Vec<usize>),
}

impl Target {
    /// Returns the labels as rows of a head in which class `i` has the row `rows[i]`.
    pub fn renumbered(self, rows: &[usize]) -> Self {
        match self {
            Self::One(label) => Self::One(rows[label]),
            Self::Many(labels) => {
                let mut labels: Vec<usize> = labels.into_iter().map(|l| rows[l]).collect();
                labels.sort_unstable();
                Self::Many(labels)
            }
        }
    }
}

/// The labels of the images of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// The label of each image.
    One(Vec<usize>),
    /// The labels of each image, ascending.
    Many(Vec<Vec<usize>>),
}

impl Default for Targets {
    fn default() -> Self {
        Self::One(Vec::new())
    }
}

impl FromIterator<Target> for Targets {
    /// The labels of images of one data set, which are all of one kind.
    fn from_iter<T: IntoIterator<Item = Target>>(targets: T) -> Self {
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for target in targets {
            match target {
                Target::One(label) => one.push(label),
                Target::Many(labels) => many.push(labels),
            }
        }
        match many.is_empty() {
            true => Self::One(one),
            false => Self::Many(many),
        }
    }
}

impl Targets {
    /// The number of images.
    pub fn len(&self) -> usize {
        match self {
            Self::One(labels) => labels.len(),
            Self::Many(labels) => labels.len(),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels of an image.
    pub fn of(&self, image: usize) -> &[usize] {
        match self {
            Self::One(labels) => std::slice::from_ref(&labels[image]),
            Self::Many(labels) => &labels[image],
        }
    }

    /// The label of each image; none if images may have several.
    pub fn single(&self) -> Option<&[usize]> {
        match self {
            Self::One(labels) => Some(labels),
            Self::Many(_) => None,
        }
    }

    /// The images `rows` alone.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        match self {
            Self::One(labels) => Self::One(labels[rows].to_vec()),
            Self::Many(labels) => Self::Many(labels[rows].to_vec()),
        }
    }

    /// The images in the opposite order.
    pub fn reversed(&self) -> Self {
        match self {
            Self::One(labels) => Self::One(labels.iter().rev().copied().collect()),
            Self::Many(labels) => Self::Many(labels.iter().rev().cloned().collect()),
        }
    }

    /// Adds the images of another batch of the same data set.
    pub fn extend(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::One(all), Self::One(more)) => all.extend(more),
            (Self::Many(all), Self::Many(more)) => all.extend(more.iter().cloned()),
            // Nothing was added yet.
            _ => *self = other.clone(),
        }
    }

    /// `[b * classes]`, row by row: 1 where an image shows a class, 0 elsewhere.
    pub fn multi_hot(&self, classes: usize) -> Vec<f32> {
        let mut all = vec![0.0; self.len() * classes];
        for image in 0..self.len() {
            for label in self.of(image) {
                all[image * classes + label] = 1.0;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_cut_turned_and_renumbered_alike() {
        let one: Targets = [2, 0, 1].map(Target::One).into_iter().collect();
        let many = [vec![0, 2], vec![], vec![1]];
        let many: Targets = many.map(Target::Many).into_iter().collect();
        assert_eq!([one.len(), many.len()], [3, 3]);
        assert_eq!(one.rows(1..3), Targets::One(vec![0, 1]));
        assert_eq!(many.rows(1..3), Targets::Many(vec![vec![], vec![1]]));
        assert_eq!(one.reversed().single(), Some(&[1, 0, 2][..]));
        assert_eq!(many.reversed().of(2), [0, 2]);
        assert_eq!(one.multi_hot(3), [0., 0., 1., 1., 0., 0., 0., 1., 0.]);
        assert_eq!(many.multi_hot(3), [1., 0., 1., 0., 0., 0., 0., 1., 0.]);
        let target = Target::Many(vec![0, 2]).renumbered(&[7, 5, 3]);
        assert_eq!(target, Target::Many(vec![3, 7]));
        let mut all = Targets::default();
        all.extend(&many);
        all.extend(&many.rows(0..1));
        assert_eq!((all.len(), all.single()), (4, None));
    }
}
