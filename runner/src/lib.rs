//! Parameter-efficient fine-tuning of vision models: from a YAML to an adapted model and its measured run.
//!
//! Two kinds of programs use this crate. One adds plugins to the command line: it links them with
//! `use my_method as _;` and calls [`main`]. The other calls the library: it reads an
//! [`Experiment`], trains it in a [`Session`], which also loads finished runs as [`Assembled`]
//! models, and turns a [`Comparison`](comparison::Comparison) into
//! [`Results`](comparison::Results). None of these print on stdout, and every error is a
//! [`Failure`].

mod cache;
mod cli;
mod commands;
mod compare;
mod config;
mod data;
mod device;
mod exit;
mod fetch;
mod lock;
mod measure;
mod model;
mod plugins;
mod pool;
mod report;
mod run;
mod selftest;
mod session;
mod study;
mod train;
mod trust;

/// Comparisons and their results as values.
pub mod comparison {
    pub use crate::compare::config::Comparison;
    pub use crate::compare::report::{OnBackbone, Report};
    pub use crate::compare::results::{DatasetColumn, Missing, Results};
    pub use crate::compare::scores::{Mean, Scores, Trials};
    pub use crate::compare::standing::{ALPHA, Standing, Versus};
}

use std::process::ExitCode;

pub use config::error::ConfigError;
pub use config::experiment::Experiment;
pub use device::ComputeDevice as Device;
pub use exit::{Exit, Failure};
pub use model::assembled::Assembled;
pub use peft_core::Split;
pub use peft_core::data::Image;
pub use peft_datasets::decode;
pub use run::summary::{Cell, Failed, Outcome, Summary};
pub use session::{Run, Session};
pub use train::metrics::{Metric, Metrics};

use cli::Cli;
use exit::config_error;

/// Ends the program quietly if the reader of its output goes away, as in `runner list methods |
/// head`.
fn end_quietly_on_a_broken_pipe() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or_default();
        if message.contains("failed printing to stdout: Broken pipe") {
            std::process::exit(Exit::Done as i32);
        }
        report(panic);
    }));
}

/// Makes the CPU Burn's default device, and the toolkit of a Python environment CubeCL's if there is no other.
/// Burn restores optimiser states on its default device before it moves them to their parameters, and would
/// otherwise take an accelerator in every binary that has one.
fn set_the_environment() {
    // SAFETY: called first in `main`, while no other thread runs that could read the environment.
    unsafe {
        std::env::set_var("BURN_DEVICE", "flex");
        if let Some(toolkit) = device::toolkit_in_python() {
            std::env::set_var("CUDA_PATH", toolkit);
        }
    }
}

/// The whole program: it reads the command line, runs the command, and prints one message if that
/// fails.
pub fn main() -> ExitCode {
    set_the_environment();
    end_quietly_on_a_broken_pipe();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            let code = if e.use_stderr() {
                Exit::Config
            } else {
                Exit::Done
            };
            return ExitCode::from(code as u8);
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::from(Exit::Done as u8),
        Err(Failure { exit, error }) => {
            eprintln!(
                "{}: {error:#}",
                if exit == Exit::Interrupted {
                    "note"
                } else {
                    "error"
                }
            );
            ExitCode::from(exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    measure::memory::keep_pages();
    peft_ops::level().map_err(config_error)?;
    peft_ops::accelerated().map_err(config_error)?;
    peft_core::registry::check()?;
    cli.run()
}
