//! Runs a whole comparison in one call.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::files::write_atomically;

use super::config::Comparison;
use super::execute::Executor;
use super::manifest::collect;
use super::plan::{Plan, plan};
use super::results::Results;
use crate::device::ComputeDevice;
use crate::exit::Failure;
use crate::model::workshop::Workshop;

/// Runs a comparison in `folder` and returns its results. Prints nothing on stdout.
///
/// Every trial has a folder of its own below `folder`; trials that are finished there are not trained
/// again. Computed prefixes that go to files are below `folder/.cache`. A trial that fails is in
/// [`Results::failed`], and the others go on.
///
/// To stop early, to follow the progress, or to share caches between comparisons, use [`plan`] and
/// [`Executor`], of which this function is made.
///
/// # Errors
/// An error that lists all cells that cannot be trained, before any work, or a disk that cannot be
/// written to.
pub fn run(
    comparison: &Comparison,
    folder: &Path,
    device: &ComputeDevice,
    interrupt: Arc<AtomicBool>,
) -> Result<Results, Failure> {
    let mut workshop = Workshop::new(device, &folder.join(".cache"));
    let plan = plan(comparison, &mut workshop)?;
    begin(folder, &plan)?;
    let mut executor = Executor {
        root: folder,
        workshop,
        interrupt,
    };
    executor.execute_all(&plan.tasks, &mut |_| {})?;
    Ok(collect(folder, plan))
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
