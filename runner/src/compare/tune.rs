//! Runs a search: trains the candidates, stage by stage, and records the choice.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use peft_core::files::write_atomically;

use super::fields::Fields;
use super::plan::{Tuned, candidate, document, in_yaml};
use crate::cache::Cost;
use crate::config::experiment::Experiment;
use crate::exit::{Exit, Failure, failure};
use crate::lock::{LOCK, wait_for};
use crate::model::workshop::Workshop;
use crate::run::CHECKPOINT;
use crate::run::progress::Reporter;
use crate::run::summary::{Candidate, Tuning};
use crate::train::Trainer;
use crate::train::checkpoint::{EpochRecord, Progress};

/// The file that holds the choice. Its presence means that the search is over.
const CHOICE: &str = "tuning.json";

/// Returns the choice of a search: the one on disk, which this process or another made earlier, or
/// a new one.
///
/// # Errors
/// If it is interrupted, no candidate can be trained, or the disk is full.
pub fn tune(
    root: &Path,
    workshop: &mut Workshop,
    interrupt: &Arc<AtomicBool>,
    tuned: &Tuned,
    base: &Experiment,
) -> Result<Tuning, Failure> {
    let folder = root.join(&tuned.folder);
    fs_err::create_dir_all(&folder)?;
    let place = folder.join(LOCK);
    let lock = File::create(&place).map_err(peft_core::Error::io(&place))?;
    // A process that dies releases the lock, and this one resumes from its checkpoints.
    wait_for(&lock, &place, interrupt)?;
    let path = folder.join(CHOICE);
    if let Ok(text) = std::fs::read_to_string(&path) {
        match serde_json::from_str(&text) {
            Ok(tuning) => return Ok(tuning),
            Err(e) => eprintln!("warning: {}: {e}; the search is repeated", path.display()),
        }
    }
    let tuning = search(workshop, interrupt, tuned, base, &folder)?;
    let json = serde_json::to_string_pretty(&tuning).map_err(|e| failure(Exit::Unexpected, e))?;
    write_atomically(&path, format!("{json}\n").as_bytes())?;
    // The checkpoints of the candidates are of no use any more, and a file that cannot be removed
    // does no harm.
    for index in 0..tuning.candidates.len() {
        let _ = std::fs::remove_dir_all(folder.join(index.to_string()));
    }
    Ok(tuning)
}

/// Trains the candidates and chooses the best one on validation.
fn search(
    workshop: &mut Workshop,
    interrupt: &Arc<AtomicBool>,
    tuned: &Tuned,
    base: &Experiment,
    folder: &Path,
) -> Result<Tuning, Failure> {
    let all = tuned.search.candidates(&tuned.spaces);
    let mut tried: Vec<Candidate> = all.iter().map(untried).collect();
    let mut records: Vec<Option<EpochRecord>> = vec![None; all.len()];
    let mut caching = vec![0.0; all.len()];
    let mut alive: Vec<usize> = (0..all.len()).collect();
    let document = document(base)?;
    for rung in tuned.search.rungs(all.len(), base.recipe.last_epoch()) {
        // The stage before sorted them, so that the best come first.
        alive.truncate(rung.candidates);
        for &index in &alive {
            let place = folder.join(index.to_string());
            let trained = candidate(document.clone(), &all[index], tuned.seed)
                .and_then(|candidate| try_out(workshop, interrupt, candidate, &place, rung.epochs));
            match trained {
                Ok((progress, cost)) => {
                    caching[index] += cost.seconds;
                    let best = progress.best.map(|best| progress.history[best].clone());
                    let tried = &mut tried[index];
                    tried.epochs = progress.history.len();
                    // The trainer adds up its own time over all stages. The time of filling caches
                    // comes on top.
                    tried.seconds = progress.total_seconds + caching[index];
                    tried.best_epoch = best.as_ref().map_or(0, |record| record.epoch);
                    tried.score = best.as_ref().and_then(|record| record.score);
                    tried.validation = best.as_ref().and_then(|record| record.validation.clone());
                    records[index] = best;
                }
                // A transient failure, such as a full disk, says nothing about the candidate.
                // Recording it would exclude the candidate from this search for ever.
                Err(failed) if !matches!(failed.exit, Exit::Diverged | Exit::Config) => {
                    return Err(failed);
                }
                Err(failed) => {
                    tried[index].error = Some(format!("{:#}", failed.error));
                    records[index] = None;
                }
            }
        }
        // A candidate that failed is out, even if an earlier stage scored it.
        alive.retain(|&index| records[index].is_some());
        // The sort is stable, so that the earlier of two equal candidates wins.
        alive.sort_by(|&a, &b| match (&records[a], &records[b]) {
            (Some(a), Some(b)) if a.beats(b) => std::cmp::Ordering::Less,
            (Some(a), Some(b)) if b.beats(a) => std::cmp::Ordering::Greater,
            _ => std::cmp::Ordering::Equal,
        });
    }
    let Some(&chosen) = alive.first() else {
        let reasons: Vec<_> = tried.iter().filter_map(|c| c.error.as_deref()).collect();
        let first = reasons.first().unwrap_or(&"none has a score");
        let message = format_args!("no candidate of the search can be trained: {first}");
        return Err(failure(Exit::Diverged, message));
    };
    Ok(Tuning {
        search: tuned.search.name().to_owned(),
        retrain: tuned.search.retrain(),
        seed: tuned.seed,
        seconds: tried.iter().map(|candidate| candidate.seconds).sum(),
        candidates: tried,
        chosen,
    })
}

/// Makes the record of a candidate before it is trained.
fn untried(fields: &Fields) -> Candidate {
    let set = fields.iter();
    Candidate {
        set: set
            .map(|(path, value)| (path.clone(), in_yaml(value)))
            .collect(),
        epochs: 0,
        best_epoch: 0,
        validation: None,
        score: None,
        seconds: 0.0,
        error: None,
    }
}

/// Trains a candidate until it has run `epochs` epochs, and resumes from its checkpoint if there is
/// one.
fn try_out(
    workshop: &mut Workshop,
    interrupt: &Arc<AtomicBool>,
    candidate: Experiment,
    place: &Path,
    epochs: usize,
) -> Result<(Progress, Cost), Failure> {
    let (trial, model) = workshop.open(candidate)?;
    let checkpoint = place.join(CHECKPOINT);
    if let Some(folder) = checkpoint.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let reporter = Reporter::to_log(&place.join("log.txt"));
    let model = trial.started(model)?;
    let trainer = Trainer::new(
        &trial,
        model,
        workshop.device(),
        Some(checkpoint),
        interrupt.clone(),
        &reporter,
    )?;
    let trainer = trainer.with_caches(workshop.caches())?;
    trainer.try_out(epochs)
}
