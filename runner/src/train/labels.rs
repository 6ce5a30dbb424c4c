//! The label map of a run: which source classes stand for the target classes, found before an epoch.

use std::time::Instant;

use burn::module::Module;
use peft_core::Model;

use super::Trainer;
use crate::config::head::HeadConfig;
use crate::config::recipe::TrainOn;
use crate::exit::Failure;
use crate::model::label_map;

impl Trainer<'_> {
    /// Finds the source classes that stand for the target classes, if the head's map is due before this epoch.
    pub(super) fn map_labels(&mut self, epoch: usize) -> Result<(), Failure> {
        let experiment = &self.trial.experiment;
        let HeadConfig::LabelMapping { sources, .. } = experiment.head else {
            return Ok(());
        };
        if !label_map::is_due(&experiment.head, epoch) {
            return Ok(());
        }
        let start = Instant::now();
        let (images, size) = (self.trial.preprocess(), self.recipe().batch_size);
        let (data, compute) = (&self.trial.data, self.trial.compute_type());
        let loader = match self.recipe().train_on {
            TrainOn::Train => data.train(images, size),
            TrainOn::TrainValidation => data.train_and_validation(images, size),
        };
        let loader = loader.with_warnings(self.reporter);
        let model = self.state.model.valid();
        if let Some(counts) = label_map::count(&model, &loader, self.device, compute)? {
            let mapping = label_map::greedy(&counts, self.trial.classes.len(), sources);
            let mapped = |model: Model| model.with_mapping(&mapping);
            self.state.model.try_update(mapped)?;
        }
        self.state.progress.total_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }
}
