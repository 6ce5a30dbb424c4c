//! What the trials of a process share: backbones and data sets, each opened once, and the caches of what
//! frozen parts compute.

use std::path::Path;
use std::sync::Arc;

use peft_core::{Model, params};

use crate::cache::Caches;
use crate::config::cache::Store;
use crate::config::experiment::Experiment;
use crate::data::held_out::Data;
use crate::device::ComputeDevice;
use crate::exit::Failure;
use crate::model::base::Base;
use crate::model::trial::Trial;
use crate::trust::admit;

/// Opens trials and keeps what they have in common.
///
/// Backbones stay open while their weights take at most 4 GiB together, so that a comparison reads each
/// of them once, although its trials go data set by data set. Beyond that the backbone that was used
/// least recently is dropped. The last two always stay, whatever they take; on an accelerator only they
/// do, because the peak memory of a trial is read from the device's pool, in which other backbones
/// would count. The last two data sets stay open.
pub struct Workshop<'a> {
    device: &'a ComputeDevice,
    caches: Caches,
    /// Whether `prefix_cache: auto` means files, which other processes share.
    in_files: bool,
    /// Whether trials that the device computes wrongly are refused.
    trains: bool,
    bases: Shelf<Arc<Base>>,
    data: Shelf<Arc<Data>>,
}

/// Bytes of frozen weights that stay open.
const WEIGHTS: usize = 4 << 30;

/// Backbones, and data sets, that stay open whatever they take.
const KEPT: usize = 2;

impl<'a> Workshop<'a> {
    /// A workshop in which nothing is open yet; cache files are below `folder`.
    pub fn new(device: &'a ComputeDevice, folder: &Path) -> Self {
        let weights = if device.is_cpu() { WEIGHTS } else { 0 };
        Self {
            device,
            caches: Caches::new(folder, true),
            in_files: false,
            trains: true,
            bases: Shelf::new(weights),
            data: Shelf::new(0),
        }
    }

    /// The workshop of one process among many: the prefixes that it computes go to files, for the others.
    pub fn in_files(self) -> Self {
        Self {
            in_files: true,
            ..self
        }
    }

    /// A workshop whose trials other processes train, on devices of their own.
    pub fn for_others(self) -> Self {
        Self {
            trains: false,
            ..self
        }
    }

    /// The device of all trials.
    pub fn device(&self) -> &'a ComputeDevice {
        self.device
    }

    /// The caches of all trials.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Opens a trial on shared weights and data, and assembles its model.
    ///
    /// # Errors
    /// As [`Trial::open`] and [`admit`].
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
        if backbone.source().file().is_none() {
            key += &format!(" seed {seed}");
        }
        let device = self.device;
        let base = self.bases.get(key, || {
            let base = Base::open(backbone.clone(), *seed, device)?;
            let infos = params::infos(&base.backbone);
            let bytes = infos.iter().map(|info| info.bytes).sum();
            Ok((Arc::new(base), bytes))
        })?;
        let mut key = serde_json::json!([dataset, on_error]).to_string();
        // A part of the training split is drawn from the seed.
        if dataset.subset().is_ok_and(|subset| subset.is_some()) {
            key += &format!(" seed {seed}");
        }
        let data = self
            .data
            .get(key, || Ok((Data::open(&**dataset, *on_error, *seed)?, 0)))?;
        let (trial, model) = Trial::on(&base, data, experiment, device)?;
        if self.trains {
            admit(device, self.caches.folder(), &trial, &model)?;
        }
        Ok((trial, model))
    }
}

/// Values by key, as long as there is room for them.
struct Shelf<T> {
    /// The one that was used least recently first.
    items: Vec<Item<T>>,
    /// Bytes beyond which only [`KEPT`] values stay.
    budget: usize,
}

struct Item<T> {
    key: String,
    value: T,
    bytes: usize,
}

impl<T: Clone> Shelf<T> {
    fn new(budget: usize) -> Self {
        Self {
            items: Vec::new(),
            budget,
        }
    }

    /// The value of a key. If it is not there it is made, and the least recently used ones go until
    /// there is room for it.
    fn get(
        &mut self,
        key: String,
        make: impl FnOnce() -> Result<(T, usize), Failure>,
    ) -> Result<T, Failure> {
        let item = match self.items.iter().position(|item| item.key == key) {
            Some(place) => self.items.remove(place),
            None => {
                let (value, bytes) = make()?;
                while self.items.len() >= KEPT && self.bytes() + bytes > self.budget {
                    self.items.remove(0);
                }
                Item { key, value, bytes }
            }
        };
        let value = item.value.clone();
        self.items.push(item);
        Ok(value)
    }

    fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often values of 1 GiB are made, if the keys are asked for in order.
    fn made(budget: usize, keys: impl IntoIterator<Item = usize>) -> usize {
        let mut shelf = Shelf::new(budget);
        let mut made = 0;
        for key in keys {
            let value = shelf.get(key.to_string(), || {
                made += 1;
                Ok((key, 1 << 30))
            });
            assert_eq!(value.unwrap(), key);
        }
        made
    }

    #[test]
    fn each_backbone_is_opened_once_however_many_data_sets_there_are() {
        // Three backbones on nineteen data sets, planned and then carried out.
        let plan = || (0..2 * 19).flat_map(|_| 0..3);
        assert_eq!(made(WEIGHTS, plan()), 3);
    }

    #[test]
    fn beyond_the_budget_the_least_recently_used_goes() {
        assert_eq!(made(2 << 30, [0, 1, 0, 2, 0]), 3);
        assert_eq!(made(2 << 30, [0, 1, 0, 2, 1]), 4);
        // Two always stay.
        assert_eq!(made(0, [0, 1, 0, 1]), 2);
        assert_eq!(made(0, [0, 1, 2, 0]), 4);
    }
}
