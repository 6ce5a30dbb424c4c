//! The manifest of a sweep: the trials of a comparison, a line each, resolved and numbered, written once
//! and never changed, so that any number of processes on any number of machines agree on what trial 17
//! is.
//!
//! The first line holds what the tables look like and the BLAKE3 hash of the lines after it.

use std::path::{Path, PathBuf};

use peft_core::files::write_atomically;
use serde::{Deserialize, Serialize};

use super::plan::{Plan, Task};
use super::{Missing, Results};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::run::folder::outcome;
use crate::run::summary::{Failed, Outcome};

/// The file's name.
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
/// If another plan's manifest is there: it is never replaced.
pub fn write(folder: &Path, plan: &Plan) -> Result<PathBuf, Failure> {
    let lines = plan.tasks.iter().map(serde_json::to_string);
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(unwritten)?;
    let body = lines.join("\n") + "\n";
    let header = Header {
        format: FORMAT.to_owned(),
        trials: plan.tasks.len(),
        hash: hash(&body),
        results: Results {
            missing: Vec::new(),
            ..plan.results.clone()
        },
    };
    let header = serde_json::to_string(&header).map_err(unwritten)?;
    let text = format!("{header}\n{body}");
    let path = folder.join(MANIFEST);
    fs_err::create_dir_all(folder)?;
    match std::fs::read_to_string(&path) {
        Ok(old) if old == text => {}
        Ok(_) => {
            let place = path.display();
            return Err(config_error(format!(
                "{place}: it is of another plan, and a manifest never changes; expected another \
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

fn unwritten(error: serde_json::Error) -> Failure {
    failure(Exit::Unexpected, format_args!("{MANIFEST}: {error}"))
}

fn hash(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

/// Reads the manifest of a sweep's folder.
///
/// # Errors
/// If there is none, it is not whole, or of another version of this program.
pub fn read(folder: &Path) -> Result<Plan, Failure> {
    let path = folder.join(MANIFEST);
    let at = |message: &str| config_error(format_args!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => at("no such file; `runner sweep plan` writes it"),
        _ => at(&e.to_string()),
    })?;
    let damaged = || at("it is damaged or cut off");
    let (header, body) = text.split_once('\n').ok_or_else(damaged)?;
    let header: Header =
        serde_json::from_str(header).map_err(|e| at(&format!("expected a manifest: {e}")))?;
    if header.format != FORMAT {
        let message = format!("expected {FORMAT}, got {}", header.format);
        return Err(at(&message));
    }
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

/// What is known of the trials, from their `summary.json` files.
pub fn collect(folder: &Path, plan: Plan) -> Results {
    let Plan { mut results, tasks } = plan;
    results.missing.clear();
    for task in tasks {
        match outcome(&folder.join(&task.folder)) {
            Some(Outcome::Done(mut summary)) => {
                // Labels are the plan's: the same trial may have had another one.
                summary.cell = Some(task.cell);
                results.done.push(*summary);
            }
            Some(Outcome::Failed(failed)) => {
                let cell = task.cell;
                results.failed.push(Failed { cell, ..failed });
            }
            None => results.missing.push(Missing {
                cell: task.cell,
                seed: task.seed,
            }),
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::summary::Cell;

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
        assert!(refused.contains("of another plan"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_manifest_that_is_not_whole_is_refused() {
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
    fn what_failed_and_what_is_missing_is_told_apart() {
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
        // Half-written: as if it were not there.
        std::fs::create_dir(folder.path().join("trial-0")).unwrap();
        std::fs::write(folder.path().join("trial-0/summary.json"), "{\"sta").unwrap();
        let results = collect(folder.path(), plan(3));
        assert_eq!(results.failed, [failed]);
        let missing: Vec<_> = results.missing.iter().map(|m| m.seed).collect();
        assert_eq!(missing, [0, 2]);
    }
}
