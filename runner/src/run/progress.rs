//! The output while a run goes on: a live view on a terminal, one line per epoch in a pipe, and the
//! same lines in `log.txt`. All of it goes to stderr.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::data::images::Warn;
use crate::train::checkpoint::{EpochRecord, Progress};

/// Reports how a run goes.
pub struct Reporter {
    bar: ProgressBar,
    /// Whether lines are printed, too, and not only logged.
    lines: bool,
    log: Option<File>,
}

impl Warn for Reporter {
    /// Warnings are printed even where other lines only go to the log.
    fn warn(&self, line: &str) {
        self.print(line);
        self.record(line);
    }
}

impl Reporter {
    /// Writes to the terminal or pipe, and lines also to `log` if it can be opened.
    pub fn new(log: &Path) -> Self {
        Self::with(Some(log), true)
    }

    /// Writes lines to `log` only, and the live view to a terminal: for one trial of many.
    pub fn to_log(log: &Path) -> Self {
        Self::with(Some(log), false)
    }

    /// Writes to the terminal or pipe.
    pub fn unlogged() -> Self {
        Self::with(None, true)
    }

    fn with(log: Option<&Path>, lines: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:28}] {pos}/{len} images  {per_sec}  loss {msg}  {eta} left",
        );
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let open = |path| File::options().create(true).append(true).open(path).ok();
        Self {
            bar,
            lines,
            log: log.and_then(open),
        }
    }

    /// Reports one line.
    pub fn line(&self, text: &str) {
        if self.lines {
            self.print(text);
        }
        self.record(text);
    }

    /// Prints above the live view, or to the pipe.
    fn print(&self, text: &str) {
        // A line between two redraws of the bar would be overwritten, so the bar prints it.
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    fn record(&self, text: &str) {
        if let Some(mut log) = self.log.as_ref() {
            // Written in one call, because threads may warn at the same time. A log that cannot be
            // written must not end a run.
            let _ = log.write_all(format!("{text}\n").as_bytes());
        }
    }

    /// Reports that a checkpoint was found.
    pub fn resumed(&self, progress: &Progress) {
        self.line(&format!(
            "resumed after epoch {} and {} batches of the next (step {})",
            progress.epoch, progress.batch, progress.step
        ));
    }

    /// Begins an epoch of `images` images.
    pub fn start_epoch(&self, epoch: usize, epochs: usize, images: usize) {
        self.bar.reset();
        self.bar.set_length(images as u64);
        self.bar.set_prefix(format!("epoch {}/{epochs}", epoch + 1));
        if !self.bar.is_hidden() {
            self.bar.enable_steady_tick(Duration::from_millis(200));
        }
    }

    /// Begins filling a table of the cache with `rows` rows.
    pub fn start_filling(&self, what: &str, rows: usize) {
        self.bar.reset();
        self.bar.set_length(rows as u64);
        self.bar.set_prefix(format!("caching {what}"));
        self.bar.set_message("-");
    }

    /// Adds rows of the table that were written.
    pub fn filled(&self, rows: usize) {
        self.bar.inc(rows as u64);
    }

    /// Adds a batch of `images` images.
    pub fn batch(&self, images: usize, loss: f64) {
        self.bar.set_message(format!("{loss:.4}"));
        self.bar.inc(images as u64);
    }

    /// Reports the record of an epoch; `better` marks the best so far.
    pub fn finish_epoch(&self, record: &EpochRecord, epochs: usize, better: bool) {
        let width = epochs.to_string().len();
        let validation = record.validation.as_ref().map(|validation| {
            let score = validation.first().next();
            let score = score.map(|(metric, score)| format!("  {metric} {:6.2} %", 100.0 * score));
            format!(
                "  validation loss {:.4}{}",
                validation.loss,
                score.unwrap_or_default()
            )
        });
        self.line(&format!(
            "epoch {:>width$}/{}  train loss {:.4}{}  {:.1} s{}",
            record.epoch,
            epochs,
            record.train_loss,
            validation.unwrap_or_default(),
            record.seconds,
            if better { "  *" } else { "" }
        ));
    }

    /// Removes the live view.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
