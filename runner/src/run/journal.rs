//! What a run writes while it trains: `steps.jsonl`, a line per batch, and TensorBoard's event file if it
//! is asked for.

use std::fs::File;
use std::io::{BufWriter, Write};

use peft_core::files::write_atomically;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::run::folder::RunFolder;
use crate::run::tensorboard::Events;
use crate::train::checkpoint::{EpochRecord, Progress};

/// The file of a run folder with a line per batch.
const STEPS: &str = "steps.jsonl";

/// A line of `steps.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct StepRecord {
    /// The epoch, from 1.
    epoch: usize,
    /// The step of the optimiser, from 1. Batches whose gradients are accumulated share one.
    step: u64,
    /// The loss of the batch.
    loss: f64,
    /// The learning rate of the step.
    lr: f64,
}

/// The open files of a run that trains.
pub struct Journal {
    steps: BufWriter<File>,
    events: Option<Events>,
}

impl Journal {
    /// Opens the files of a run that goes on after `progress`. Lines of later steps, which the interrupted
    /// process wrote after its last checkpoint, are dropped, because their batches are trained again.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn open(
        folder: &RunFolder,
        progress: &Progress,
        tensorboard: bool,
    ) -> Result<Self, Failure> {
        let path = folder.file(STEPS);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let kept = up_to(&before, progress.step);
        write_atomically(&path, kept.as_bytes())?;
        let steps = fs_err::OpenOptions::new().append(true).open(&path)?;
        let events = tensorboard.then(|| Events::create(folder.path(), progress.step));
        Ok(Self {
            steps: BufWriter::new(steps.into_parts().0),
            events: events.transpose()?,
        })
    }

    /// Adds batches of an epoch, counted from 1, each as its step and loss. `lr` is the learning rate of a
    /// step.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn batches(
        &mut self,
        epoch: usize,
        losses: Vec<(u64, f64)>,
        lr: impl Fn(u64) -> f64,
    ) -> Result<(), Failure> {
        for (step, loss) in losses {
            let record = StepRecord {
                epoch,
                step,
                loss,
                lr: lr(step),
            };
            serde_json::to_writer(&mut self.steps, &record).map_err(std::io::Error::from)?;
            self.steps.write_all(b"\n")?;
            if let Some(events) = &mut self.events {
                events.scalar("step/loss", step, loss)?;
                events.scalar("step/lr", step, record.lr)?;
            }
        }
        Ok(())
    }

    /// Adds an epoch.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn epoch(&mut self, record: &EpochRecord) -> Result<(), Failure> {
        let Some(events) = &mut self.events else {
            return Ok(());
        };
        let mut scalar = |tag: &str, value| events.scalar(tag, record.epoch as u64, value);
        scalar("epoch/train_loss", record.train_loss)?;
        scalar("epoch/seconds", record.seconds)?;
        if let Some(validation) = &record.validation {
            scalar("epoch/validation_loss", validation.loss)?;
            if let Some(top1) = validation.top1 {
                scalar("epoch/validation_top1", top1)?;
            }
        }
        if let Some(score) = record.score {
            scalar("epoch/validation_score", score)?;
        }
        Ok(())
    }

    /// Writes what is waiting. To be called before a checkpoint is saved, so that no line that it builds on
    /// can be lost.
    ///
    /// # Errors
    /// If the disk cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.steps.flush()?;
        if let Some(events) = &mut self.events {
            events.flush()?;
        }
        Ok(())
    }
}

/// The lines of the steps up to `end`. The last line may be incomplete.
fn up_to(text: &str, end: u64) -> String {
    let lines = text.lines().take_while(|line| {
        let record = serde_json::from_str::<StepRecord>(line);
        record.is_ok_and(|record| record.step <= end)
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_checkpoint_are_dropped() {
        let line = |step| {
            let record = StepRecord {
                epoch: 1,
                step,
                loss: 0.5,
                lr: 0.1,
            };
            serde_json::to_string(&record).unwrap() + "\n"
        };
        let all = [line(1), line(2), line(3), "{\"epoch\": 1, \"st".to_owned()].concat();
        assert_eq!(up_to(&all, 2), [line(1), line(2)].concat());
        assert_eq!(up_to(&all, 9), [line(1), line(2), line(3)].concat());
        assert_eq!(up_to(&all, 0), "");
    }
}
