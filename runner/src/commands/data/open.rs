//! The data set that the command line names, and what its user should know if it cannot be opened.

use peft_core::DatasetConfig;

use crate::cli::args::DatasetArgs;
use crate::config::about::About;
use crate::config::experiment::Experiment;
use crate::exit::{Failure, config_error};

/// The configuration that the command line names, and what is known about the data set.
pub fn read(which: &DatasetArgs) -> Result<(Box<dyn DatasetConfig>, Option<About>), Failure> {
    let root = which
        .root
        .iter()
        .map(|root| format!("dataset.root={}", root.display()));
    // The root comes last: the flag wins over a `--set` of the same field.
    let overrides: Vec<_> = which.set.iter().cloned().chain(root).collect();
    Experiment::read_dataset(&which.dataset, &overrides)
}

/// The error of a data set that cannot be opened, with the files that are expected and where they come
/// from.
pub fn unopened(error: &peft_core::Error, about: Option<&About>) -> Failure {
    let known = about.map(|about| {
        let About {
            title,
            layout,
            source,
            terms,
            ..
        } = about;
        format!("\n{title} on disk:\n{layout}\nsource: {source}\nterms: {terms}")
    });
    config_error(format!("dataset: {error}{}", known.unwrap_or_default()))
}
