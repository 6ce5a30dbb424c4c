//! `runner sweep script`: a job array for a scheduler.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::compare::manifest;
use crate::compare::plan::slug;
use crate::exit::{Failure, config_error};

/// Print a job array for a scheduler.
#[derive(Args, Clone)]
#[command(after_help = "Example:
  runner sweep script sweeps/quick --for slurm > quick.sh")]
pub struct ScriptArgs {
    /// The folder of the manifest.
    pub sweep: PathBuf,
    /// The scheduler.
    #[arg(long = "for", value_enum)]
    pub scheduler: Scheduler,
    /// Time limit of a trial, hours:minutes:seconds; a trial that needs longer resumes in another turn.
    #[arg(long, default_value = "04:00:00")]
    pub time: TimeLimit,
}

/// A time limit, `hh:mm:ss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit(String);

impl FromStr for TimeLimit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &&str| part.len() >= 2 && part.bytes().all(|c| c.is_ascii_digit());
        if parts.len() != 3 || !parts.iter().all(number) {
            return Err(format!(
                "expected hours:minutes:seconds, such as 04:00:00, got {text:?}"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Job schedulers with arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheduler {
    /// Slurm.
    Slurm,
    /// HyperQueue.
    Hq,
    /// Kubernetes.
    K8s,
}

impl Scheduler {
    /// Returns the template of a job array, in which names in braces are to be replaced.
    fn template(self) -> &'static str {
        match self {
            Self::Slurm => include_str!("slurm.sh"),
            Self::Hq => include_str!("hq.sh"),
            Self::K8s => include_str!("k8s.yaml"),
        }
    }
}

/// Prints the template of the scheduler, filled in.
pub fn script(args: &ScriptArgs) -> Result<(), Failure> {
    let plan = manifest::read(&args.sweep)?;
    let sweep = args.sweep.display().to_string();
    // Shells and YAML quote differently, and the schedulers expand paths once more.
    if sweep.contains(|c: char| c.is_whitespace() || "\"'$`\\".contains(c)) {
        let message = format!("{sweep}: expected a path that needs no quotes in a script");
        return Err(config_error(message));
    }
    let template = args.scheduler.template();
    let last = plan.tasks.len().saturating_sub(1);
    let filled = template
        .replace("{name}", &slug(&plan.results.name))
        .replace("{trials}", &plan.tasks.len().to_string())
        .replace("{last}", &last.to_string())
        .replace("{sweep}", &sweep)
        .replace("{time}", &args.time.0);
    print!("{filled}");
    Ok(())
}
