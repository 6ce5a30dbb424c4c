//! The manifest of a sweep: the trials of a comparison, one per line, resolved and numbered. It is
//! written once and never changed, so that any number of processes on any number of machines agree on
//! what trial 17 is.
//!
//! The first line describes the tables and holds the BLAKE3 hash of the lines after it.

use std::path::{Path, PathBuf};

use peft_core::files::write_atomically;
use serde::{Deserialize, Serialize};

use super::plan::{Plan, Task};
use super::results::{Missing, Results};
use super::state::State;
use crate::exit::{Exit, Failure, config_error, failure};
use crate::run::summary::Failed;

/// The name of the file.
pub const MANIFEST: &str = "manifest.jsonl";

const FORMAT: &str = "peft-sweep/1";

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    trials: usize,
    hash: String,
    results: Results,
}

/// Writes the manifest of a plan into a folder.
///
/// # Errors
/// If the folder holds the manifest of another plan, which is never replaced, or cannot be written.
pub fn write(folder: &Path, plan: &Plan) -> Result<PathBuf, Failure> {
    let text = text(plan)?;
    let path = folder.join(MANIFEST);
    fs_err::create_dir_all(folder)?;
    match std::fs::read_to_string(&path) {
        // Writing the same plan again is not an error, so that a script can be run twice.
        Ok(old) if old == text => {}
        Ok(_) => {
            let place = path.display();
            return Err(config_error(format!(
                "{place}: it belongs to another plan, and a manifest never changes; expected another \
                 --out"
            )));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            write_atomically(&path, text.as_bytes())?;
        }
        Err(e) => return Err(peft_core::Error::io(&path)(e).into()),
    }
    Ok(path)
}

/// Writes the manifest that only processes of this one will read, in place of an older one.
///
/// # Errors
/// If it cannot be written.
pub fn replace(folder: &Path, plan: &Plan) -> Result<(), Failure> {
    let text = text(plan)?;
    Ok(write_atomically(&folder.join(MANIFEST), text.as_bytes())?)
}

fn text(plan: &Plan) -> Result<String, Failure> {
    let lines = plan.tasks.iter().map(serde_json::to_string);
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(unwritten)?;
    let body = lines.join("\n") + "\n";
    let header = Header {
        format: FORMAT.to_owned(),
        trials: plan.tasks.len(),
        hash: hash(&body),
        // The lines below are the plan. Listing every trial here as missing would double the file.
        results: Results {
            missing: Vec::new(),
            ..plan.results.clone()
        },
    };
    let header = serde_json::to_string(&header).map_err(unwritten)?;
    Ok(format!("{header}\n{body}"))
}

fn unwritten(error: serde_json::Error) -> Failure {
    failure(Exit::Unexpected, format_args!("{MANIFEST}: {error}"))
}

fn hash(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

/// Reads the manifest in the folder of a sweep.
///
/// # Errors
/// If there is no manifest, or it is damaged, incomplete, or written by an incompatible version.
pub fn read(folder: &Path) -> Result<Plan, Failure> {
    let path = folder.join(MANIFEST);
    let at = |message: &str| config_error(format_args!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => at("no such file; `runner sweep plan` writes it"),
        _ => at(&e.to_string()),
    })?;
    let damaged = || at("it is damaged or incomplete");
    let (header, body) = text.split_once('\n').ok_or_else(damaged)?;
    let header: Header =
        serde_json::from_str(header).map_err(|e| at(&format!("expected a manifest: {e}")))?;
    if header.format != FORMAT {
        let message = format!("expected {FORMAT}, got {}", header.format);
        return Err(at(&message));
    }
    // Processes on several machines read this file. A copy that is cut off must not renumber their
    // trials.
    if hash(body) != header.hash {
        return Err(damaged());
    }
    let tasks = body.lines().map(serde_json::from_str);
    let tasks: Vec<Task> = tasks
        .collect::<Result<_, _>>()
        .map_err(|e| at(&e.to_string()))?;
    if tasks.len() != header.trials {
        return Err(damaged());
    }
    let results = header.results;
    Ok(Plan { results, tasks })
}

/// Collects the results of the trials of a plan from the files in their folders below `folder`.
pub fn collect(folder: &Path, plan: Plan) -> Results {
    let Plan { mut results, tasks } = plan;
    results.missing.clear();
    for task in tasks {
        // The labels of the plan count: an earlier plan may have given the same trial other ones.
        let Task { cell, seed, .. } = task;
        match State::of(&folder.join(&task.folder)) {
            State::Done(mut summary) => {
                summary.cell = Some(cell);
                results.done.push(*summary);
            }
            State::Failed(failed) => results.failed.push(Failed { cell, ..failed }),
            State::Unfinished(state) => results.missing.push(Missing { cell, seed, state }),
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::{Cell, Outcome};

    fn plan(count: u64) -> Plan {
        let task = |seed| Task {
            id: format!("{seed:064}"),
            folder: format!("trial-{seed}"),
            cell: Cell {
                method: "ap".to_owned(),
                backbone: "vit".to_owned(),
                dataset: "digits".to_owned(),
                group: None,
                overrides: Default::default(),
            },
            seed,
            experiment: serde_json::json!({ "seed": seed }),
            tuned: None,
        };
        let results = Results {
            name: "sweep".to_owned(),
            description: String::new(),
            baseline: None,
            methods: vec!["ap".to_owned()],
            backbones: vec!["vit".to_owned()],
            datasets: Vec::new(),
            seeds: (0..count).collect(),
            expected: Vec::new(),
            config: String::new(),
            done: Vec::new(),
            failed: Vec::new(),
            missing: Vec::new(),
        };
        let tasks = (0..count).map(task).collect();
        Plan { results, tasks }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), &plan(3)).map_err(|f| f.error).unwrap();
        let read = read(folder.path()).map_err(|f| f.error).unwrap();
        assert_eq!(read.tasks, plan(3).tasks);
        assert_eq!(read.results, plan(3).results);
        let before = std::fs::read(&path).unwrap();
        assert!(
            write(folder.path(), &plan(3)).is_ok(),
            "the same plan again"
        );
        let refused = write(folder.path(), &plan(2))
            .unwrap_err()
            .error
            .to_string();
        assert!(refused.contains("belongs to another plan"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_damaged_manifest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), &plan(2)).map_err(|f| f.error).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        for broken in [
            whole.replace("trial-1", "trial-2"),
            whole[..whole.len() - 2].to_owned(),
            String::new(),
            "{}\n".to_owned(),
        ] {
            std::fs::write(&path, broken).unwrap();
            assert!(read(folder.path()).is_err());
        }
        std::fs::remove_file(&path).unwrap();
        let missing = read(folder.path()).err().unwrap().error.to_string();
        assert!(
            missing.contains("`runner sweep plan` writes it"),
            "{missing}"
        );
    }

    #[test]
    fn failed_and_missing_trials_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let failed = Failed {
            cell: plan(1).tasks[0].cell.clone(),
            seed: 1,
            exit: 3,
            error: "the loss is not finite".to_owned(),
        };
        std::fs::create_dir(folder.path().join("trial-1")).unwrap();
        let json = serde_json::to_string(&Outcome::Failed(failed.clone())).unwrap();
        std::fs::write(folder.path().join("trial-1/summary.json"), json).unwrap();
        // A file that is only half written counts as missing.
        std::fs::create_dir(folder.path().join("trial-0")).unwrap();
        std::fs::write(folder.path().join("trial-0/summary.json"), "{\"sta").unwrap();
        let results = collect(folder.path(), plan(3));
        assert_eq!(results.failed, [failed]);
        let missing: Vec<_> = results.missing.iter().map(|m| m.seed).collect();
        assert_eq!(missing, [0, 2]);
    }
}
