//! `runner data fetch`: gets the files of a data set of the catalogue from where their makers keep them.

use std::path::{Path, PathBuf};

use clap::Args;
use peft_core::DatasetConfig;

use super::open::{read, unopened};
use crate::cli::args::DatasetArgs;
use crate::config::about::About;
use crate::config::sources::ByHand;
use crate::data::subset;
use crate::exit::{Failure, config_error};
use crate::fetch::data::{Clients, Plan, WORK};

/// Fetch the files of a data set of the catalogue: verified, unpacked, in the layout that `data check`
/// accepts.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner data fetch cifar100 --root data/cifar-100-binary")]
pub struct FetchArgs {
    #[command(flatten)]
    pub which: DatasetArgs,
    /// Print what would be fetched, and fetch nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Fetches what is missing of a data set, and opens it.
///
/// # Errors
/// If the catalogue knows no address, a file cannot be had, is damaged or does not fit, or something
/// remains to be got by hand; the message says what, from where, and where to put it.
pub fn fetch(args: &FetchArgs) -> Result<(), Failure> {
    let name = &args.which.dataset;
    let (mut config, about) = read(&args.which)?;
    let Some(root) = config.paths_mut().first().map(|path| PathBuf::clone(path)) else {
        return Err(config_error(format_args!(
            "{name}: it needs no files: it is bundled or drawn"
        )));
    };
    let Some((about, sources)) = about
        .as_ref()
        .and_then(|about| Some((about, about.fetch.as_ref()?)))
    else {
        return Err(config_error(format_args!(
            "{name}: the catalogue knows no address for it; expected the name of a file in \
             configs/datasets with `about.fetch`"
        )));
    };
    eprintln!("{}: terms: {}", about.title, about.terms);
    let clients = Clients::new(sources, &root)?;
    let plan = Plan::new(sources, &root, &clients)?;
    if !plan.is_empty() || args.dry_run {
        for line in plan.lines() {
            eprintln!("{line}");
        }
    }
    if args.dry_run {
        return Ok(());
    }
    if !plan.is_empty() {
        plan.run()?;
    }
    let missing: Vec<&ByHand> = (sources.by_hand.iter())
        .filter(|file| !root.join(&file.file).exists())
        .collect();
    if !missing.is_empty() {
        return Err(by_hand(name, &root, &missing));
    }
    complete(&*config, about).map_err(|failure| {
        let work = root.join(WORK);
        let again = format!("to fetch it again, remove {}", work.display());
        config_error(format_args!("{failure}\n{again}"))
    })
}

/// The failure of a set of which something cannot be fetched.
fn by_hand(name: &str, root: &Path, missing: &[&ByHand]) -> Failure {
    let line = |file: &&ByHand| format!("  {}: {}", root.join(&file.file).display(), file.how);
    let lines: Vec<String> = missing.iter().map(line).collect();
    config_error(format_args!(
        "{name}: this has to be got by hand, and the command run again:\n{}",
        lines.join("\n")
    ))
}

/// Opens the set and compares it with what is known about it.
fn complete(config: &dyn DatasetConfig, about: &About) -> Result<(), Failure> {
    let dataset = subset::open(config, 0).map_err(|e| unopened(&e, Some(about)))?;
    let differences = about.differences(&*dataset);
    if !differences.is_empty() {
        let message = format!("{}: {}", about.title, differences.join("; "));
        return Err(config_error(message));
    }
    let sizes = &about.splits;
    println!(
        "{}: {} classes, {} train, {} validation and {} test images",
        about.title, about.classes, sizes.train, sizes.validation, sizes.test
    );
    Ok(())
}
