//! Carries out a search: trains the candidates, round by round, and writes down the choice.

use std::fs::File;

use peft_core::files::write_atomically;

use super::config::Fields;
use super::execute::Executor;
use super::plan::{Tuned, candidate, in_yaml};
use crate::cache::Cost;
use crate::config::experiment::Experiment;
use crate::exit::{Exit, Failure, failure};
use crate::lock::{LOCK, wait_for};
use crate::run::CHECKPOINT;
use crate::run::progress::Reporter;
use crate::run::summary::{Candidate, Tuning};
use crate::train::Trainer;
use crate::train::checkpoint::{EpochRecord, Progress};

/// The file that holds a choice; with it the search is over.
const CHOICE: &str = "tuning.json";

/// The choice of a search: what was written down earlier, by this process or another, or what is found
/// now.
///
/// # Errors
/// If it is interrupted, no candidate can be trained, or the disk is full.
pub fn tune(executor: &mut Executor, tuned: &Tuned, base: &Experiment) -> Result<Tuning, Failure> {
    let folder = executor.root.join(&tuned.folder);
    fs_err::create_dir_all(&folder)?;
    let place = folder.join(LOCK);
    let lock = File::create(&place).map_err(peft_core::Error::io(&place))?;
    // Another process that works on it is waited for; if it ends too early, this one goes on.
    wait_for(&lock, &place, &executor.interrupt)?;
    let path = folder.join(CHOICE);
    if let Ok(text) = std::fs::read_to_string(&path) {
        match serde_json::from_str(&text) {
            Ok(tuning) => return Ok(tuning),
            Err(e) => eprintln!("warning: {}: {e}; it is made again", path.display()),
        }
    }
    let tuning = search(executor, tuned, base, &folder)?;
    let json = serde_json::to_string_pretty(&tuning).map_err(|e| failure(Exit::Unexpected, e))?;
    write_atomically(&path, format!("{json}\n").as_bytes())?;
    // Nothing will go on from these any more.
    for index in 0..tuning.candidates.len() {
        let _ = std::fs::remove_dir_all(folder.join(index.to_string()));
    }
    Ok(tuning)
}

fn search(
    executor: &mut Executor,
    tuned: &Tuned,
    base: &Experiment,
    folder: &std::path::Path,
) -> Result<Tuning, Failure> {
    let all = tuned.search.candidates(&tuned.spaces);
    let mut tried: Vec<Candidate> = all.iter().map(untried).collect();
    let mut records: Vec<Option<EpochRecord>> = vec![None; all.len()];
    let mut caching = vec![0.0; all.len()];
    let mut alive: Vec<usize> = (0..all.len()).collect();
    for rung in tuned.search.rungs(all.len(), base.recipe.last_epoch()) {
        alive.truncate(rung.candidates);
        for &index in &alive {
            let place = folder.join(index.to_string());
            let fields = &all[index];
            match try_out(executor, base, fields, tuned.seed, &place, rung.epochs) {
                Ok((progress, cost)) => {
                    caching[index] += cost.seconds;
                    let best = progress.best.map(|best| progress.history[best].clone());
                    let tried = &mut tried[index];
                    tried.epochs = progress.history.len();
                    tried.seconds = progress.total_seconds + caching[index];
                    tried.best_epoch = best.as_ref().map_or(0, |record| record.epoch);
                    tried.score = best.as_ref().and_then(|record| record.score);
                    tried.validation = best.as_ref().and_then(|record| record.validation.clone());
                    records[index] = best;
                }
                // What another day may mend is no property of the candidate.
                Err(failed) if !matches!(failed.exit, Exit::Diverged | Exit::Config) => {
                    return Err(failed);
                }
                Err(failed) => {
                    tried[index].error = Some(format!("{:#}", failed.error));
                    records[index] = None;
                }
            }
        }
        alive.retain(|&index| records[index].is_some());
        // Stable: among equals the earlier one wins.
        alive.sort_by(|&a, &b| match (&records[a], &records[b]) {
            (Some(a), Some(b)) if a.beats(b) => std::cmp::Ordering::Less,
            (Some(a), Some(b)) if b.beats(a) => std::cmp::Ordering::Greater,
            _ => std::cmp::Ordering::Equal,
        });
    }
    let Some(&chosen) = alive.first() else {
        let reasons: Vec<_> = tried.iter().filter_map(|c| c.error.as_deref()).collect();
        let first = reasons.first().unwrap_or(&"none was scored");
        let message = format_args!("no candidate of the search can be trained: {first}");
        return Err(failure(Exit::Diverged, message));
    };
    Ok(Tuning {
        search: tuned.search.name().to_owned(),
        seed: tuned.seed,
        seconds: tried.iter().map(|candidate| candidate.seconds).sum(),
        candidates: tried,
        chosen,
    })
}

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

/// Trains a candidate to the end of `epochs`, from where it stands.
fn try_out(
    executor: &mut Executor,
    base: &Experiment,
    fields: &Fields,
    seed: u64,
    place: &std::path::Path,
    epochs: usize,
) -> Result<(Progress, Cost), Failure> {
    let (trial, model) = executor.workshop.open(candidate(base, fields, seed)?)?;
    let checkpoint = place.join(CHECKPOINT);
    if let Some(folder) = checkpoint.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let mut reporter = Reporter::to_log(&place.join("log.txt"));
    let model = trial.started(model)?;
    let trainer = Trainer::new(
        &trial,
        model,
        executor.device(),
        Some(checkpoint),
        executor.interrupt.clone(),
        &mut reporter,
    )?;
    let trainer = trainer.with_caches(executor.workshop.caches())?;
    trainer.try_out(epochs)
}
