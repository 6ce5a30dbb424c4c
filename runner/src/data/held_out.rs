//! The data of a trial, and the rule that keeps its test honest: batches of the test split are handed
//! out only in exchange for a [`Choice`], and a choice is made only of something that is [`Settled`].

use std::sync::Arc;

use peft_core::DatasetConfig;
use peft_core::data::{Dataset, Split};
use peft_datasets::Preprocess;

use crate::config::on_error::OnError;
use crate::data::images::Images;
use crate::data::loader::Loader;
use crate::data::subset::{Part, at_dataset};
use crate::data::targets::Target;
use crate::exit::{Failure, config_error};

/// Implemented by what exists only once a model is final: the result of a training, the summary of a
/// finished run, a model that was loaded to be used. Nothing that a search handles while it compares
/// candidates implements it.
pub trait Settled {}

/// Proof that nothing about a model is left to choose: neither its epoch nor a tuned setting.
pub struct Choice(());

impl Choice {
    /// The proof that `settled` stands for.
    pub fn after(_: &impl Settled) -> Self {
        Self(())
    }
}

/// An open data set that several trials may share.
pub struct Data {
    images: Images,
    content: String,
    fingerprint: String,
}

impl Data {
    /// Opens a data set, of whose training split the part that the configuration states is drawn from
    /// `seed`.
    ///
    /// # Errors
    /// If its files are missing or wrong, or a split is empty.
    pub fn open(
        config: &dyn DatasetConfig,
        on_error: OnError,
        seed: u64,
    ) -> Result<Arc<Self>, Failure> {
        let whole = config.open().map_err(at_dataset)?;
        // An empty split would be noticed only when it is needed, which for the test split is after training.
        for split in Split::ALL {
            if whole.is_empty(split) {
                // Images that were left out are among the remarks.
                let remarks = whole.remarks().join("; ");
                let why = if remarks.is_empty() { "" } else { ": " };
                let message = format!("dataset: the {split} split is empty{why}{remarks}");
                return Err(config_error(message));
            }
        }
        let content = whole.fingerprint().map_err(at_dataset)?;
        let (fingerprint, dataset) = match config.subset().map_err(at_dataset)? {
            None => (content.clone(), whole),
            Some(subset) => {
                let part = Part::draw(whole, subset, seed).map_err(at_dataset)?;
                (
                    part.fingerprint_of(&content),
                    Box::new(part) as Box<dyn Dataset>,
                )
            }
        };
        Ok(Arc::new(Self {
            images: Images::new(dataset, on_error),
            content,
            fingerprint,
        }))
    }

    /// A hash of the whole data set's content.
    pub fn content(&self) -> &str {
        &self.content
    }

    /// A hash of the images that are used, in their order: the content, and which part of the training
    /// split was drawn.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        self.images.dataset().classes()
    }

    /// Whether an image may have several labels, or none.
    pub fn is_multi_label(&self) -> bool {
        self.images.dataset().is_multi_label()
    }

    /// The names of the groups; empty if the data set has none.
    pub fn groups(&self) -> &[String] {
        self.images.dataset().groups()
    }

    /// The number of images of a split.
    pub fn len(&self, split: Split) -> usize {
        self.images.dataset().len(split)
    }

    /// The number of images of each class in some splits together.
    ///
    /// # Errors
    /// If a label is not the index of a class.
    pub fn images_of_classes(&self, splits: &[Split]) -> Result<Vec<usize>, Failure> {
        let mut counts = vec![0; self.classes().len()];
        for &split in splits {
            for index in 0..self.len(split) {
                match self.images.target(split, index)? {
                    Target::One(label) => counts[label] += 1,
                    Target::Many(labels) => labels.iter().for_each(|label| counts[*label] += 1),
                }
            }
        }
        Ok(counts)
    }

    /// Remarks that a reader of the results should know.
    pub fn remarks(&self) -> Vec<String> {
        self.images.dataset().remarks()
    }

    /// The number of images of a split that were left out so far.
    pub fn skipped(&self, split: Split) -> usize {
        self.images.skipped(split)
    }

    /// All images that were left out so far, and why.
    pub fn left_out(&self) -> Vec<(Split, usize, String)> {
        self.images.left_out()
    }

    /// Takes over what an interrupted run left out.
    pub fn recall(&self, left_out: &[(Split, usize, String)]) {
        self.images.recall(left_out);
    }

    /// Batches of the training split.
    pub fn train(&self, preprocess: Preprocess, batch_size: usize) -> Loader<'_> {
        Loader::new(&self.images, &[Split::Train], preprocess, batch_size)
    }

    /// Batches of the validation split.
    pub fn validation(&self, preprocess: Preprocess, batch_size: usize) -> Loader<'_> {
        let splits = [Split::Validation];
        Loader::new(&self.images, &splits, preprocess, batch_size)
    }

    /// Batches of the training and the validation split, for the training after a search.
    pub fn train_and_validation(&self, preprocess: Preprocess, batch_size: usize) -> Loader<'_> {
        let splits = [Split::Train, Split::Validation];
        Loader::new(&self.images, &splits, preprocess, batch_size)
    }

    /// Batches of the test split, for whoever can prove that nothing is left to choose.
    pub fn test(&self, _: &Choice, preprocess: Preprocess, batch_size: usize) -> Loader<'_> {
        Loader::new(&self.images, &[Split::Test], preprocess, batch_size)
    }
}
