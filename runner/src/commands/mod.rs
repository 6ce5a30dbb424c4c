//! One file a command.

mod bench;
mod compare;
pub mod data;
mod doctor;
mod eval;
mod export;
mod features;
mod inspect;
mod list;
mod merge;
mod predict;
mod profile;
mod schema;
mod show;
mod sweep;
mod train;

pub use bench::bench;
pub use compare::compare;
pub use data::time::time;
pub use data::{check, show_data};
pub use doctor::doctor;
pub use eval::eval;
pub use export::export;
pub use features::features;
pub use inspect::inspect;
pub use list::list;
pub use merge::merge;
pub use predict::{Request, predict};
pub use profile::profile;
pub use schema::schema;
pub use show::show;
pub use sweep::{collect, plan_sweep, run_sweep, script, status};
pub use train::train;

use crate::cli::{PlaceArgs, TrainedArgs};
use crate::device::{self, Chosen};
use crate::exit::{Exit, Failure, failure};
use crate::model::assembled::{Assembled, Source};

/// Runs `work` on a worker of rayon's pool: from outside it, every parallel operation wakes the
/// workers and waits for them.
fn on_pool<T: Send>(
    place: &PlaceArgs,
    work: impl FnOnce(Chosen) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let device = device::choose(place.device)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(place.threads)
        .build_global()
        .map_err(|e| failure(Exit::Unexpected, format_args!("threads: {e}")))?;
    let mut result = None;
    rayon::scope(|_| result = Some(work(device)));
    result.unwrap_or_else(|| Err(failure(Exit::Unexpected, "the work did not run")))
}

/// The model that `which` names, its source, and what people should know printed to stderr.
fn assemble(which: &TrainedArgs, device: &Chosen) -> Result<(Source, Assembled), Failure> {
    let source = Source::open(&which.run, which.adapter.is_some(), device)?;
    let model = source.assemble(which.adapter.as_deref(), which.scale)?;
    remark(&model);
    Ok((source, model))
}

/// Prints the images that a model takes, and what its user should know.
fn remark(model: &Assembled) {
    eprintln!("input: {}", model.input);
    for remark in &model.remarks {
        eprintln!("{remark}");
    }
}
