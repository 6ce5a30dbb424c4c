//! The trials of a comparison with a line on stderr for each, for those who wait.

use std::time::Instant;

use super::execute::{Ended, Executor};
use super::plan::Task;
use crate::exit::Failure;
use crate::report::numbers::{percent, seconds};
use crate::run::summary::{Outcome, Summary};

/// Runs trials in order, with a line on stderr for each.
///
/// # Errors
/// If they are interrupted, or the disk cannot be written to.
pub fn carry_out(executor: &mut Executor, tasks: &[&Task]) -> Result<(), Failure> {
    let (start, of) = (Instant::now(), tasks.len());
    let width = of.to_string().len();
    let mut trained = 0;
    executor.execute_all(tasks.iter().copied(), &mut |step| {
        let ended = match step.ended {
            Ended::Elsewhere => "another process works on it".to_owned(),
            Ended::With(outcome) => match &**outcome {
                Outcome::Failed(failed) => format!("FAILED: {}", failed.error),
                Outcome::Done(summary) => score(summary),
            },
        };
        // A trial that was done before takes no time, so it tells nothing about the others.
        trained += usize::from(step.seconds > 0.5);
        let left = match (trained, of - step.index - 1) {
            (0, _) | (_, 0) => String::new(),
            (trained, left) => {
                let each = start.elapsed().as_secs_f64() / trained as f64;
                format!(", about {:.0} min left", (each * left as f64 / 60.0).ceil())
            }
        };
        let (number, title, took) = (step.index + 1, step.task.title(), seconds(step.seconds));
        eprintln!("[{number:>width$}/{of}] {title}: {ended}  ({took}{left})");
    })
}

fn score(summary: &Summary) -> String {
    let score = summary.test.score(summary.metric).unwrap_or(f64::NAN);
    format!("test {} {}", summary.metric, percent(score))
}
