//! Selects the entries that train, for a method that asks for it: once, before the first step.

use std::sync::atomic::Ordering;
use std::time::Instant;

use burn::optim::GradientsAccumulator;
use peft_core::params;

use super::Trainer;
use crate::data::random::Pass;
use crate::exit::{Failure, config_error};
use crate::train::selected::{Selected, chosen};
use crate::train::step::{Images, Part};

impl Trainer<'_> {
    /// Selects the entries that train, unless an earlier part of the run did so. The gradients are those that a step
    /// over the first batches of the first epoch would take.
    ///
    /// # Errors
    /// If the epoch has fewer batches, an image cannot be read, too few entries have a gradient, or the run is
    /// interrupted.
    pub(super) fn select(&mut self) -> Result<(), Failure> {
        let Some(selection) = self.state.model.selection() else {
            return Ok(());
        };
        if self.state.selected.is_some() {
            return Ok(());
        }
        let start = Instant::now();
        let loader = self.training.clone();
        let of = selection.batches;
        if of > loader.batches() {
            return Err(config_error(format!(
                "method.select.batches: expected at most {}, the batches of an epoch, got {of}",
                loader.batches()
            )));
        }
        let pass = Pass::Training(self.random(0));
        let (stepper, model) = (&self.stepper, &*self.state.model);
        let mut accumulator = GradientsAccumulator::new();
        let mut stopped = false;
        loader.each(0..of, pass, &self.device.device, |index, batch| {
            let (images, prefix) = (Images::all(batch), stepper.prefix.as_ref());
            let part = Part { index, of };
            let (_, _, gradients) = stepper.gradients(model, prefix, 0, images, part, &mut |_| ());
            accumulator.accumulate(model, gradients);
            stopped = self.interrupt.load(Ordering::Relaxed);
            Ok::<_, Failure>(!stopped)
        })?;
        if stopped {
            return Err(Failure::interrupted());
        }
        let mut gradients = params::gradients(model, &accumulator.grads());
        gradients.retain(|name, _| name.starts_with("backbone."));
        let entries = model.counts().tuned;
        let masks = chosen(&gradients, entries);
        let masks = masks.map_err(|e| config_error(format!("method.select: {e}")))?;
        let all: usize = masks.values().map(|mask| mask.num_elements()).sum();
        let batches = if of == 1 { "batch" } else { "batches" };
        self.reporter.line(&format!(
            "selected {entries} of {all} entries of the backbone by their gradients over {of} {batches}"
        ));
        self.stepper.selected = Some(Selected::new(model, &masks, &self.device.device));
        self.state.selected = Some(masks);
        self.state.progress.total_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }
}
