//! An open data set, and which of its images were left out because they cannot be read.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use peft_core::data::{Dataset, Image, Split};

use crate::config::on_error::OnError;
use crate::data::targets::Target;
use crate::exit::{Failure, config_error};

/// Is told of every image that is left out, by whichever thread tried to read it.
pub trait Warn: Sync {
    /// Passes one line on.
    fn warn(&self, line: &str);
}

/// Prints warnings at once, for commands that have neither a live view nor a log.
pub struct ToStderr;

impl Warn for ToStderr {
    fn warn(&self, line: &str) {
        eprintln!("{line}");
    }
}

/// An open data set and what became of its images.
pub struct Images {
    dataset: Box<dyn Dataset>,
    on_error: OnError,
    /// The reasons, by split and index.
    left_out: Mutex<BTreeMap<(Split, usize), String>>,
}

impl Images {
    /// The images of a data set, of which none has been read yet.
    pub fn new(dataset: Box<dyn Dataset>, on_error: OnError) -> Self {
        Self {
            dataset,
            on_error,
            left_out: Mutex::default(),
        }
    }

    /// The data set.
    pub fn dataset(&self) -> &dyn Dataset {
        &*self.dataset
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<(Split, usize), String>> {
        // Every change is a single insertion, so the map is sound even after a panic elsewhere.
        self.left_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of images of a split that were left out so far.
    pub fn skipped(&self, split: Split) -> usize {
        self.reasons().keys().filter(|(of, _)| *of == split).count()
    }

    /// Why an image was left out; empty if it was not.
    pub fn why(&self, split: Split, index: usize) -> String {
        let reason = self.reasons().get(&(split, index)).cloned();
        reason.unwrap_or_default()
    }

    /// All images that were left out so far, and why.
    pub fn left_out(&self) -> Vec<(Split, usize, String)> {
        let entry =
            |((split, index), why): (&(Split, usize), &String)| (*split, *index, why.clone());
        self.reasons().iter().map(entry).collect()
    }

    /// Takes over what an interrupted run left out.
    pub fn recall(&self, left_out: &[(Split, usize, String)]) {
        let entries = left_out.iter().cloned();
        self.reasons()
            .extend(entries.map(|(split, index, why)| ((split, index), why)));
    }

    /// An image and its labels, or `None` if the image is left out.
    ///
    /// # Errors
    /// If the image cannot be read and `on_error` is `fail`, or a label is out of range.
    pub fn read(
        &self,
        split: Split,
        index: usize,
        warn: &dyn Warn,
    ) -> Result<Option<(Image, Target)>, Failure> {
        let target = self.target(split, index)?;
        match self.dataset.image(split, index) {
            Ok(image) => Ok(Some((image, target))),
            Err(e) => {
                self.leave_out(split, index, &e.to_string(), warn)?;
                Ok(None)
            }
        }
    }

    /// The labels of an image.
    ///
    /// # Errors
    /// If one is not the index of a class.
    pub fn target(&self, split: Split, index: usize) -> Result<Target, Failure> {
        let target = match self.dataset.is_multi_label() {
            false => self.dataset.label(split, index).map(Target::One),
            true => self.dataset.labels(split, index).map(Target::Many),
        };
        let target = target.map_err(|e| bad(split, index, &e.to_string()))?;
        let classes = self.dataset.classes().len();
        let labels = match &target {
            Target::One(label) => std::slice::from_ref(label),
            Target::Many(labels) => labels,
        };
        match labels.iter().find(|label| **label >= classes) {
            Some(label) => {
                let message = format!("the label {label} is out of range: expected 0..{classes}");
                Err(bad(split, index, &message))
            }
            None => Ok(target),
        }
    }

    /// Leaves out an image that cannot be read, and warns the first time.
    ///
    /// # Errors
    /// If `on_error` is `fail`.
    pub fn leave_out(
        &self,
        split: Split,
        index: usize,
        why: &str,
        warn: &dyn Warn,
    ) -> Result<(), Failure> {
        if self.on_error == OnError::Fail {
            return Err(bad(split, index, why));
        }
        // The lock is free again before the warning, which may wait for a slow terminal or disk.
        let before = self.reasons().insert((split, index), why.to_owned());
        if before.is_none() {
            warn.warn(&format!(
                "warning: dataset: {split} image {index} is left out: {why}"
            ));
        }
        Ok(())
    }
}

/// The names of splits, joined by `and`.
pub fn names(splits: &[Split]) -> String {
    let names: Vec<_> = splits.iter().map(Split::to_string).collect();
    names.join(" and ")
}

/// The error that names an image and says what is wrong with it.
pub fn bad(split: Split, index: usize, message: &str) -> Failure {
    config_error(format!("dataset: {split} image {index}: {message}"))
}
