//! `runner compare`: all trials of a comparison, one after the other, and the report of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use peft_core::files::write_atomically;

use crate::cli::args::{ConfigArgs, PlaceArgs};
use crate::commands::{cache_folder, on_pool};
use crate::compare::config::Comparison;
use crate::compare::execute::{Ended, Executor, root};
use crate::compare::plan::{Plan, Task, plan};
use crate::compare::{Results, manifest, page, tables};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::model::workshop::Workshop;
use crate::run::interrupt;
use crate::run::summary::{Outcome, Summary};

/// Train many methods on many backbones and data sets under identical settings, and report.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner compare --config compare/quick.yaml")]
pub struct CompareArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the comparisons' folders.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Folder of the prefix cache's files, which runs and processes may share [default: .cache in
    /// the folder of --runs].
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Validate everything and list the trials, then stop.
    #[arg(long)]
    pub dry_run: bool,
}

/// Trains what is not done and reports.
pub fn compare(args: &CompareArgs) -> Result<(), Failure> {
    let Some(config) = &args.config.config else {
        return Err(config_error(
            "--config is missing: a YAML file or a name under configs/, such as compare/quick.yaml",
        ));
    };
    let comparison = Comparison::read(config, &args.config.set)?;
    let folder = root(&args.runs, &comparison.name);
    on_pool(&args.place, |device| {
        let mut workshop = Workshop::new(&device, &cache_folder(args.cache.as_deref(), &args.runs));
        let planned = plan(&comparison, &mut workshop)?;
        if args.dry_run {
            println!("{}", overview(&planned));
            return Ok(());
        }
        fs_err::create_dir_all(&folder)?;
        write_atomically(
            &folder.join("comparison.yaml"),
            planned.results.config.as_bytes(),
        )?;
        let mut executor = Executor {
            root: &folder,
            workshop,
            interrupt: interrupt()?,
        };
        let ended = carry_out(&mut executor, &planned.tasks.iter().collect::<Vec<_>>());
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

/// Carries out trials in order, a line on stderr for each.
///
/// # Errors
/// If they are interrupted, or the disk cannot be written to.
pub fn carry_out(executor: &mut Executor, tasks: &[&Task]) -> Result<(), Failure> {
    let width = tasks.len().to_string().len();
    let start = Instant::now();
    let mut trained = 0;
    for (index, task) in tasks.iter().enumerate() {
        let before = Instant::now();
        let ended = executor.execute(task)?;
        let seconds = before.elapsed().as_secs_f64();
        let ended = match &ended {
            Ended::Elsewhere => "another process works on it".to_owned(),
            Ended::With(outcome) => match &**outcome {
                Outcome::Failed(failed) => format!("FAILED: {}", failed.error),
                Outcome::Done(summary) => score(summary),
            },
        };
        // What was done before took no time and says nothing of what is left.
        trained += usize::from(seconds > 0.5);
        let left = match (trained, tasks.len() - index - 1) {
            (0, _) | (_, 0) => String::new(),
            (trained, left) => {
                let each = start.elapsed().as_secs_f64() / trained as f64;
                format!(", about {:.0} min left", (each * left as f64 / 60.0).ceil())
            }
        };
        let (number, of, title) = (index + 1, tasks.len(), task.title());
        eprintln!("[{number:>width$}/{of}] {title}: {ended}  ({seconds:.1} s{left})");
    }
    Ok(())
}

fn score(summary: &Summary) -> String {
    let score = summary.test.score(summary.metric).unwrap_or(f64::NAN);
    format!("test {} {:.2} %", summary.metric, 100.0 * score)
}

/// Writes the report of a comparison and prints its tables.
///
/// # Errors
/// If a file cannot be written.
pub fn report(folder: &Path, results: &Results) -> Result<(), Failure> {
    let files = [
        ("results.csv", tables::csv(results)),
        ("results.jsonl", tables::jsonl(results)),
        ("results.md", tables::markdown(results)),
        ("report.html", page::html(results)),
    ];
    for (name, content) in files {
        write_atomically(&folder.join(name), content.as_bytes())?;
    }
    println!("{}", tables::text(results).trim_end());
    println!("\nreport: {}", folder.join("report.html").display());
    Ok(())
}

/// Whether all trials are done.
///
/// # Errors
/// [`Exit::SomeFailed`] if some failed.
pub fn verdict(results: &Results) -> Result<(), Failure> {
    let total = results.done.len() + results.failed.len() + results.missing.len();
    match (results.failed.len(), results.missing.len()) {
        (0, 0) => Ok(()),
        (0, missing) => {
            eprintln!("{missing} of {total} trials have not run yet");
            Ok(())
        }
        (failed, _) => {
            let message = format_args!("{failed} of {total} trials failed; the report says why");
            Err(failure(Exit::SomeFailed, message))
        }
    }
}

/// What would be trained.
pub fn overview(plan: &Plan) -> String {
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
    let mut searches: Vec<&str> = Vec::new();
    let mut overrides = BTreeSet::new();
    for task in &plan.tasks {
        if let Some(tuned) = &task.tuned
            && !searches.contains(&tuned.folder.as_str())
        {
            searches.push(&tuned.folder);
        }
        lines.push(format!("  {}", task.folder));
        let method = &task.cell.method;
        let declared = |(field, value)| format!("  {method}: {field}={value}");
        overrides.extend(task.cell.overrides.iter().map(declared));
    }
    if !overrides.is_empty() {
        lines.push("of their own".to_owned());
        lines.extend(overrides);
    }
    if !searches.is_empty() {
        lines.push(format!("searches    {}", searches.len()));
    }
    lines.join("\n")
}
