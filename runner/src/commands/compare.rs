//! `runner compare`: all trials of a comparison, one after the other, and its report.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::{ConfigArgs, DevicesArgs, PlaceArgs, RunsArgs, SplitChoice, TrustArgs};
use crate::commands::on_pool;
use crate::commands::print::row;
use crate::compare::config::Comparison;
use crate::compare::estimate::{CellPlan, total};
use crate::compare::execute::{Executor, root};
use crate::compare::manifest;
use crate::compare::paired::paired;
use crate::compare::plan::{Plan, plan, timed};
use crate::compare::print::files;
use crate::compare::print::text::text;
use crate::compare::processes::{Processes, in_processes};
use crate::compare::progress::carry_out;
use crate::compare::report::Report;
use crate::compare::results::Results;
use crate::compare::run::begin;
use crate::compare::statistics::intervals::Interval;
use crate::compare::statistics::paired::Discordant;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::workshop::Workshop;
use crate::report::numbers::percent;
use crate::run::interrupt;

/// Train many methods on many backbones and data sets under equal settings, and report.
#[derive(Args, Clone)]
#[command(after_help = "Examples:
  runner compare --config compare/quick.yaml
  runner compare --paired runs/ap/TRIAL runs/lora-r10/TRIAL")]
pub struct CompareArgs {
    #[command(flatten)]
    pub config: Option<ConfigArgs>,
    /// Compare two finished runs on the images that both saw instead: McNemar's test and the difference of
    /// their accuracies with a bootstrap interval.
    #[arg(long, value_names = ["RUN", "RUN"], num_args = 2, conflicts_with = "config", required_unless_present = "config")]
    pub paired: Vec<PathBuf>,
    /// The split of --paired.
    #[arg(long, value_enum, default_value = "test", requires = "paired")]
    pub split: SplitChoice,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub devices: DevicesArgs,
    #[command(flatten)]
    pub trust: TrustArgs,
    #[command(flatten)]
    pub folders: RunsArgs,
    /// Validate everything, print the plan with what each cell trains and an estimate of time, then stop.
    #[arg(long)]
    pub dry_run: bool,
    /// List every trial of the plan, not only the first ones.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Trains the trials that are not done, and reports.
pub fn compare(args: &CompareArgs) -> Result<(), Failure> {
    let Some(ConfigArgs { config, set }) = &args.config else {
        return pair(&args.paired, args.split);
    };
    let comparison = Comparison::read(config, set)?;
    let folder = root(&args.folders.runs, &comparison.name);
    on_pool(&args.devices.first(&args.place), |device| {
        let device = device.vouched(args.trust.trust_device);
        let mut workshop = Workshop::new(&device, &args.folders.cache());
        if args.dry_run {
            let (planned, cells) = timed(&comparison, &mut workshop)?;
            println!("{}", overview(&planned, &cells, args.verbose));
            return Ok(());
        }
        let planned = plan(&comparison, &mut workshop)?;
        begin(&folder, &planned)?;
        // The report is written before errors are looked at: also after an interruption or a
        // failure it shows the trials that are done.
        let ended = match args.devices.devices.len() {
            0 | 1 => {
                let mut executor = Executor {
                    root: &folder,
                    workshop,
                    interrupt: interrupt()?,
                };
                carry_out(&mut executor, &planned.tasks.iter().collect::<Vec<_>>())
            }
            _ => {
                // What planning has opened would stay in memory beside what the processes open.
                drop(workshop);
                on_devices(args, &folder, &planned)
            }
        };
        let results = manifest::collect(&folder, planned);
        report(&folder, &results)?;
        ended?;
        verdict(&results)?;
        match results.missing.len() {
            0 => Ok(()),
            missing => {
                let message = format_args!(
                    "another process works on {missing} trials; run the same command to go on"
                );
                Err(failure(Exit::Interrupted, message))
            }
        }
    })
}

/// Compares two finished runs image by image.
fn pair(runs: &[PathBuf], split: SplitChoice) -> Result<(), Failure> {
    let [first, second] = runs else {
        return Err(config_error("--paired: expected two runs"));
    };
    let found = paired([first, second], split.into())?;
    let [one, other] = found.accuracy;
    row("images", found.images);
    row(
        "first",
        format_args!("{} right  {}", percent(one), first.display()),
    );
    row(
        "second",
        format_args!("{} right  {}", percent(other), second.display()),
    );
    let Discordant { first, second } = found.discordant;
    row("only the first", first);
    row("only the second", second);
    row("McNemar p", format_args!("{:.4}", found.discordant.p()));
    if let Some(difference) = found.difference {
        let Interval { low, high } = difference.bca;
        let points = |share: f64| format!("{:+.2}", 100.0 * share);
        let mean = points(difference.mean);
        let interval = format!(
            "{mean} points, 95 % interval {} to {}",
            points(low),
            points(high)
        );
        row("difference", interval);
    }
    Ok(())
}

/// Trains every trial that is not done on one of several devices, in a process of its own.
fn on_devices(args: &CompareArgs, folder: &Path, plan: &Plan) -> Result<(), Failure> {
    manifest::replace(folder, plan)?;
    let devices = &args.devices.devices;
    let processes = Processes {
        sweep: folder,
        cache: &args.folders.cache(),
        devices,
        threads: args.place.threads,
        trust_device: args.trust.trust_device,
        jobs: NonZeroUsize::new(devices.len()).unwrap_or(NonZeroUsize::MIN),
    };
    in_processes(&processes, plan, (0..plan.tasks.len()).collect())
}

/// Writes the report of a comparison and prints its tables.
///
/// # Errors
/// If a file cannot be written.
pub fn report(folder: &Path, results: &Results) -> Result<(), Failure> {
    let report = Report::of(results);
    let page = files::write(&report, folder)?;
    println!("{}", text(&report).trim_end());
    println!("\nreport: {}", page.display());
    Ok(())
}

/// Fails if a trial has failed, and reports those that have no result.
///
/// # Errors
/// [`Exit::SomeFailed`] if some failed.
pub fn verdict(results: &Results) -> Result<(), Failure> {
    let total = results.planned();
    match (results.failed.len(), results.missing.len()) {
        (0, 0) => Ok(()),
        (0, missing) => {
            let states = results.unfinished().unwrap_or_default();
            eprintln!("{missing} of {total} trials have no result yet: {states}");
            Ok(())
        }
        (failed, _) => {
            let message = format_args!("{failed} of {total} trials failed; the report says why");
            Err(failure(Exit::SomeFailed, message))
        }
    }
}

/// Describes the plan of a comparison, with the first trials only unless all of them are wanted.
fn overview(plan: &Plan, cells: &[CellPlan], all: bool) -> String {
    let Results {
        name,
        methods,
        backbones,
        datasets,
        seeds,
        ..
    } = &plan.results;
    let datasets: Vec<&str> = datasets.iter().map(|d| d.label.as_str()).collect();
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let mut lines = vec![
        format!("comparison  {name}"),
        format!("methods     {}", methods.join(", ")),
        format!("backbones   {}", backbones.join(", ")),
        format!("data sets   {}", datasets.join(", ")),
        format!("seeds       {}", seeds.join(", ")),
        format!("trials      {}", plan.tasks.len()),
    ];
    let trials = plan.tasks.iter().map(|task| format!("  {}", task.folder));
    lines.extend(some(trials.collect(), all));
    // Settings that are not the same for all methods are printed, so that readers can judge whether
    // the comparison is fair.
    let overrides: BTreeSet<String> = plan
        .tasks
        .iter()
        .flat_map(|task| {
            let method = &task.cell.method;
            let overrides = task.cell.overrides.iter();
            overrides.map(move |(field, value)| format!("  {method}: {field}={value}"))
        })
        .collect();
    if !overrides.is_empty() {
        lines.push("overridden for some methods".to_owned());
        lines.extend(some(overrides.into_iter().collect(), all));
    }
    let searches = plan.tasks.iter().filter_map(|task| task.tuned.as_ref());
    let searches: BTreeSet<&str> = searches.map(|tuned| tuned.folder.as_str()).collect();
    let after = plan.tasks.iter().find_map(|task| task.tuned.as_ref());
    if let Some(tuned) = after {
        let (count, words) = (searches.len(), tuned.search.retrain().words());
        lines.push(format!("searches    {count}; {words}"));
    }
    lines.push("cells".to_owned());
    lines.extend(cells.iter().flat_map(|cell| cell.lines()));
    lines.push(format!("work        {}", total(cells)));
    lines.push(
        "            (of steps as measured here, without the prefix cache; validation and test come on top)"
            .to_owned(),
    );
    lines.join("\n")
}

/// The number of lines of a list that a plan shows, so that two lists and the rest of it fit on a
/// screen.
const SHOWN: usize = 6;

/// Returns the first lines of a list and how many more there are, or all of them.
fn some(mut lines: Vec<String>, all: bool) -> Vec<String> {
    if !all && lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("  and {more} more (--verbose)"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_unless_all_of_it_is_wanted() {
        let lines = |count: usize| (0..count).map(|i| i.to_string()).collect();
        assert_eq!(some(lines(SHOWN), false).len(), SHOWN);
        let cut = some(lines(100), false);
        assert_eq!(cut.len(), SHOWN + 1);
        assert_eq!(cut[SHOWN], "  and 94 more (--verbose)");
        assert_eq!(some(lines(100), true).len(), 100);
    }
}
