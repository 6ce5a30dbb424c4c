//! What the trials of a process share: backbones and data sets, each opened once, and the caches of
//! what frozen parts give.

use std::path::Path;
use std::sync::Arc;

use peft_core::Model;

use crate::cache::Caches;
use crate::config::cache::Store;
use crate::config::experiment::Experiment;
use crate::data::held_out::Data;
use crate::device::Chosen;
use crate::exit::Failure;
use crate::model::base::Base;
use crate::model::trial::Trial;

/// Opens trials and keeps what they have in common.
pub struct Workshop<'a> {
    device: &'a Chosen,
    caches: Caches,
    /// Whether `prefix_cache: auto` means files, which other processes share.
    in_files: bool,
    /// By configuration. A comparison goes data set by data set and backbone by backbone: the last ones
    /// are kept.
    bases: Vec<(String, Arc<Base>)>,
    data: Vec<(String, Arc<Data>)>,
}

/// Backbones, and data sets, that stay open.
const KEPT: usize = 2;

impl<'a> Workshop<'a> {
    /// Nothing is open yet; cache files are below `folder`.
    pub fn new(device: &'a Chosen, folder: &Path) -> Self {
        Self {
            device,
            caches: Caches::new(folder, true),
            in_files: false,
            bases: Vec::new(),
            data: Vec::new(),
        }
    }

    /// The same for one of many processes: what it computes of a prefix is left for the others.
    pub fn in_files(self) -> Self {
        Self {
            in_files: true,
            ..self
        }
    }

    /// The device of all trials.
    pub fn device(&self) -> &'a Chosen {
        self.device
    }

    /// The caches of all trials.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// A trial on shared tensors and data, and its model.
    ///
    /// # Errors
    /// As [`Trial::open`].
    pub fn open(&mut self, mut experiment: Experiment) -> Result<(Trial, Model), Failure> {
        if self.in_files && experiment.prefix_cache == Store::Auto {
            experiment.prefix_cache = Store::Disk;
        }
        let Experiment {
            backbone,
            dataset,
            seed,
            on_error,
            ..
        } = &experiment;
        let mut key = serde_json::json!(backbone).to_string();
        // Without weights the values are drawn from the seed.
        if backbone.source().weights.is_none() {
            key += &format!(" seed {seed}");
        }
        let device = self.device;
        let base = kept(&mut self.bases, key, || {
            Base::open(backbone.clone(), *seed, device).map(Arc::new)
        })?;
        let key = serde_json::json!([dataset, on_error]).to_string();
        let data = kept(&mut self.data, key, || Data::open(&**dataset, *on_error))?;
        Trial::on(&base, data, experiment, device)
    }
}

/// The value of a key, made if it is not there; the oldest one beyond [`KEPT`] is dropped.
fn kept<T: Clone>(
    all: &mut Vec<(String, T)>,
    key: String,
    make: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    if let Some((_, value)) = all.iter().find(|(other, _)| *other == key) {
        return Ok(value.clone());
    }
    let value = make()?;
    if all.len() >= KEPT {
        all.remove(0);
    }
    all.push((key, value.clone()));
    Ok(value)
}
