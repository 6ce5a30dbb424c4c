//! A whole comparison as one call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::files::write_atomically;

use super::config::Comparison;
use super::execute::Executor;
use super::manifest::collect;
use super::plan::{Plan, plan};
use super::results::Results;
use crate::device::Chosen;
use crate::exit::Failure;
use crate::model::workshop::Workshop;

/// Carries out a comparison and returns its results, as `runner compare` does, but prints nothing on
/// stdout.
///
/// The comparison has a folder of its name below `runs`, and every trial a folder in it. Trials that are
/// finished there are not trained again; computed prefixes that go to files are below `runs/.cache`. A
/// trial that fails is in [`Results::failed`], and the others go on.
///
/// To follow the progress, or to share caches between comparisons, use [`plan`] and [`Executor`], of which
/// this function is made.
///
/// # Errors
/// All cells that cannot be trained, before any work; `Exit::Interrupted` once `interrupt` is set; a disk
/// that cannot be written to.
pub fn run(
    comparison: &Comparison,
    runs: &Path,
    device: &Chosen,
    interrupt: &Arc<AtomicBool>,
) -> Result<Results, Failure> {
    let folder = root(runs, &comparison.name);
    let mut workshop = Workshop::new(device, &runs.join(".cache"));
    let plan = plan(comparison, &mut workshop)?;
    begin(&folder, &plan)?;
    let mut executor = Executor {
        root: &folder,
        workshop,
        interrupt: interrupt.clone(),
    };
    executor.execute_all(&plan.tasks, &mut |_| {})?;
    Ok(collect(&folder, plan))
}

/// The folder of a comparison below that of all runs.
pub fn root(runs: &Path, name: &str) -> PathBuf {
    runs.join(name)
}

/// Makes the folder of a comparison and writes `comparison.yaml`, the comparison with everything that it
/// extends.
///
/// # Errors
/// If they cannot be written.
pub fn begin(folder: &Path, plan: &Plan) -> Result<(), Failure> {
    fs_err::create_dir_all(folder)?;
    let path = folder.join("comparison.yaml");
    Ok(write_atomically(&path, plan.results.config.as_bytes())?)
}
