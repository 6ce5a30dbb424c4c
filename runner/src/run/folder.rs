//! A run folder. Every file in it is complete at any time, and `summary.json` is written last.

use std::fs::File;
use std::path::{Path, PathBuf};

use peft_core::files::{sweep, write_atomically};
use serde::Serialize;

use crate::config::experiment::Experiment;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::lock::lock;
use crate::run::summary::{Outcome, Summary};

/// Burn's version, as the root `Cargo.toml` pins it.
pub const BURN: &str = "0.22.1";

/// The folder of one trial, locked for this process.
pub struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Makes the folder, or opens it again, and writes the resolved configuration and the environment.
    ///
    /// # Errors
    /// If it cannot be written or another process works in it.
    pub fn open(path: PathBuf, experiment: &Experiment, device: &str) -> Result<Self, Failure> {
        let place = path.display().to_string();
        Self::try_open(path, experiment, device)?.ok_or_else(|| {
            let message = format_args!("{place}: another process works on this run");
            failure(Exit::Unexpected, message)
        })
    }

    /// Does the same as [`open`](Self::open), but returns `None` if another process works in the
    /// folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn try_open(
        path: PathBuf,
        experiment: &Experiment,
        device: &str,
    ) -> Result<Option<Self>, Failure> {
        fs_err::create_dir_all(path.join("checkpoints"))?;
        let Some(lock) = lock(&path)? else {
            return Ok(None);
        };
        // Only the owner of the lock may remove temporary files: another process could still be
        // writing them.
        sweep(&path)?;
        sweep(&path.join("checkpoints"))?;
        // The lock is released when the folder is dropped, or by the system when the process dies.
        let folder = Self { path, _lock: lock };
        let yaml = serde_yaml::to_string(experiment)
            .map_err(|e| config_error(format!("the experiment cannot be written: {e}")))?;
        folder.write("config.resolved.yaml", yaml.as_bytes())?;
        folder.write_json("env.json", &Environment::here(device))?;
        Ok(Some(folder))
    }

    /// The path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Writes a file atomically.
    ///
    /// # Errors
    /// An error with the path.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        Ok(write_atomically(&self.file(name), content)?)
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// An error with the path.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value)
            .map_err(|e| failure(Exit::Unexpected, format_args!("{name}: {e}")))?;
        self.write(name, format!("{json}\n").as_bytes())
    }

    /// The summary, if the run is finished.
    pub fn finished(&self) -> Option<Summary> {
        finished(&self.path)
    }
}

/// Returns the summary in a folder if the run is finished: if the file exists, is complete, and has
/// `status: done`.
pub fn finished(folder: &Path) -> Option<Summary> {
    match outcome(folder)? {
        Outcome::Done(summary) => Some(*summary),
        Outcome::Failed(_) => None,
    }
}

/// Returns how the run in a folder ended, if it has ended.
pub fn outcome(folder: &Path) -> Option<Outcome> {
    let text = std::fs::read_to_string(folder.join("summary.json")).ok()?;
    // A file that does not parse counts as none: it is from another version, or someone edited it,
    // and the trial runs again.
    serde_json::from_str(&text).ok()
}

/// The environment of a run: program, machine and command.
#[derive(Serialize)]
pub struct Environment {
    runner: &'static str,
    burn: &'static str,
    os: &'static str,
    arch: &'static str,
    cpus: usize,
    threads: usize,
    device: String,
    command: Vec<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn here(device: &str) -> Self {
        Self {
            runner: env!("CARGO_PKG_VERSION"),
            burn: BURN,
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            threads: rayon::current_num_threads(),
            device: device.to_owned(),
            command: std::env::args().collect(),
        }
    }
}
