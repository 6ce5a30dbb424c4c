//! Facts about the images: how many of each class, and how large.

use peft_core::data::{Dataset, Split};
use peft_core::random::Generator;
use rayon::prelude::*;

use crate::exit::{Failure, config_error};

/// The images whose sizes are looked at.
const LOOKED_AT: usize = 64;

/// Facts about a data set that decide what is written.
pub struct Facts {
    /// Training images.
    pub train: usize,
    /// Classes.
    pub classes: usize,
    /// Training images of the largest and of the smallest class.
    pub largest: usize,
    pub smallest: usize,
    /// Whether an image may show several classes, or none.
    pub multi_label: bool,
}

impl Facts {
    /// Counts the training images.
    ///
    /// # Errors
    /// If a label cannot be read.
    pub fn of(dataset: &dyn Dataset) -> Result<Self, Failure> {
        let mut counts = vec![0; dataset.classes().len()];
        let train = dataset.len(Split::Train);
        for index in 0..train {
            for label in dataset.labels(Split::Train, index).map_err(config_error)? {
                counts[label] += 1;
            }
        }
        Ok(Self {
            train,
            classes: counts.len(),
            largest: counts.iter().copied().max().unwrap_or(0),
            smallest: counts.iter().copied().min().unwrap_or(0),
            multi_label: dataset.is_multi_label(),
        })
    }

    /// Whether plain accuracy says more about the large classes than about the others.
    pub fn is_unbalanced(&self) -> bool {
        self.largest >= 5 * self.smallest.max(1)
    }
}

/// The sizes of some training images: the median and the range of each side.
///
/// # Errors
/// If an image cannot be read.
pub fn sizes(dataset: &dyn Dataset) -> Result<String, Failure> {
    let mut order = Generator::new(0, "init").permutation(dataset.len(Split::Train));
    order.truncate(LOOKED_AT);
    let sizes: Vec<(usize, usize)> = (order.par_iter())
        .map(|&index| {
            let image = dataset.image(Split::Train, index)?;
            Ok((image.width, image.rgb.len() / 3 / image.width.max(1)))
        })
        .collect::<peft_core::Result<_>>()
        .map_err(config_error)?;
    let of = |side: fn(&(usize, usize)) -> usize| {
        let mut all: Vec<usize> = sizes.iter().map(side).collect();
        all.sort_unstable();
        let (Some(least), Some(most)) = (all.first(), all.last()) else {
            return String::new();
        };
        match least == most {
            true => least.to_string(),
            false => format!("{} ({least} to {most})", all[all.len() / 2]),
        }
    };
    Ok(format!(
        "{} x {} pixels, of {} images that were looked at",
        of(|size| size.0),
        of(|size| size.1),
        sizes.len()
    ))
}
