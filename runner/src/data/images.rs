//! An open data set and what became of its images.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use peft_core::data::{Dataset, Sample, Split};

use crate::config::on_error::OnError;
use crate::exit::{Failure, config_error};

/// An open data set and what became of its images.
pub struct Images {
    dataset: Box<dyn Dataset>,
    on_error: OnError,
    unreadable: Mutex<BTreeMap<(Split, usize), String>>,
}

impl Images {
    /// The images of a data set.
    pub fn new(dataset: Box<dyn Dataset>, on_error: OnError) -> Self {
        Self {
            dataset,
            on_error,
            unreadable: Mutex::default(),
        }
    }

    /// The data set.
    pub fn dataset(&self) -> &dyn Dataset {
        &*self.dataset
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<(Split, usize), String>> {
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of images of a split that were left out so far.
    pub fn skipped(&self, split: Split) -> usize {
        self.noted().keys().filter(|(of, _)| *of == split).count()
    }

    /// Why an image was left out.
    pub fn why(&self, split: Split, index: usize) -> String {
        self.noted()
            .get(&(split, index))
            .cloned()
            .unwrap_or_default()
    }

    /// All images that were left out so far, and why.
    pub fn left_out(&self) -> Vec<(Split, usize, String)> {
        let noted = self.noted();
        let entries = noted.iter();
        entries
            .map(|((split, index), why)| (*split, *index, why.clone()))
            .collect()
    }

    /// Takes over what an interrupted run left out.
    pub fn recall(&self, left_out: &[(Split, usize, String)]) {
        let entries = left_out.iter().cloned();
        self.noted()
            .extend(entries.map(|(split, index, why)| ((split, index), why)));
    }

    /// The image and its label; none if it is left out.
    ///
    /// # Errors
    /// If it cannot be read and that is not forgiven, or its label is no class.
    pub fn read(&self, split: Split, index: usize) -> Result<Option<Sample>, Failure> {
        let label = self.label(split, index)?;
        match self.dataset.image(split, index) {
            Ok(image) => Ok(Some(Sample { image, label })),
            Err(e) => self.unreadable(split, index, &e.to_string()).map(|()| None),
        }
    }

    /// The label at `index`.
    ///
    /// # Errors
    /// If it is no class.
    pub fn label(&self, split: Split, index: usize) -> Result<usize, Failure> {
        let classes = self.dataset.classes().len();
        match self.dataset.label(split, index) {
            Ok(label) if label < classes => Ok(label),
            Ok(label) => {
                let message = "is out of range: expected";
                let message = format!("the label {label} {message} 0..{classes}");
                Err(bad(split, index, &message))
            }
            Err(e) => Err(bad(split, index, &e.to_string())),
        }
    }

    /// Takes note of an image that cannot be read.
    ///
    /// # Errors
    /// If that is not forgiven.
    pub fn unreadable(&self, split: Split, index: usize, why: &str) -> Result<(), Failure> {
        if self.on_error == OnError::Fail {
            return Err(bad(split, index, why));
        }
        let first = self.noted().insert((split, index), why.to_owned());
        if first.is_none() {
            eprintln!("warning: dataset: {split} image {index} is left out: {why}");
        }
        Ok(())
    }
}

/// Splits in words.
pub fn names(splits: &[Split]) -> String {
    let names: Vec<_> = splits.iter().map(Split::to_string).collect();
    names.join(" and ")
}

pub fn bad(split: Split, index: usize, message: &str) -> Failure {
    config_error(format!("dataset: {split} image {index}: {message}"))
}
