//! Accuracies by the boundary of a prompt.

use crate::study::trained::plan::{Count, Skeleton};
use crate::study::trained::rows::Row;

/// A row: what its method is, where it acts, what it costs and what it came to.
pub struct Place {
    pub row: Row,
    /// The boundary; none for a line.
    pub boundary: Option<usize>,
    /// The method's name: `ap` or `vpt`, or the label of a line.
    pub method: String,
    pub count: Count,
}

/// Everything about the sweep on one backbone and data set.
pub struct Sweep<'a> {
    pub skeleton: &'a Skeleton,
    pub dataset: String,
    pub places: Vec<Place>,
}

impl Sweep<'_> {
    /// The rows of a swept method, in the order of boundaries.
    pub fn of(&self, method: &str) -> Vec<&Place> {
        let own = self.places.iter().filter(|place| place.method == method);
        own.filter(|place| place.boundary.is_some()).collect()
    }

    /// A line, by the label that its method has.
    pub fn line(&self, label: &str) -> Option<&Place> {
        let mut lines = self.places.iter().filter(|place| place.boundary.is_none());
        lines.find(|place| place.method == label)
    }

    pub fn title(&self) -> String {
        format!("{}, {}", self.skeleton.label, self.dataset)
    }
}
