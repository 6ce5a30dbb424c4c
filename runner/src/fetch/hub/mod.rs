//! `hf://owner/name`: weights in the local cache of the Hugging Face hub, fetched into it where it
//! lacks them.

mod cache;
mod place;
mod remote;
mod repository;
mod tree;
mod weights;

use std::path::{Path, PathBuf};

use peft_core::error::listed;

pub use self::remote::Remote;
pub use self::repository::Repository;
pub use self::tree::files;

use self::cache::Cache;
use self::remote::Found;
use self::weights::{BESIDE, WEIGHTS, shards_of};
use super::progress::bytes;
use super::{offline, room};
use crate::config::error::ConfigError;
use crate::exit::{Failure, config_error};

/// Returns the weights file that `path` names, if it is one of a hub: from the local cache, or else
/// from the hub through the cache. A revision that the cache holds is not asked for again.
///
/// # Errors
/// If the cache does not hold it and it cannot be fetched, or may not; the message names the place
/// where it would be.
pub fn resolve(path: &Path) -> Option<Result<PathBuf, Failure>> {
    let text = path.to_str()?;
    Repository::is_named(text).then(|| {
        let repository = Repository::parse(text)?;
        let cache = Cache::of(&repository);
        let names = match &repository.file {
            Some(file) => vec![file.as_str()],
            None => WEIGHTS.to_vec(),
        };
        if let Some(found) = cache.weights(&names) {
            return Ok(found);
        }
        if let Some(forbidden) = offline::forbidden() {
            let error = ConfigError::NotCached {
                name: repository.to_string(),
                forbidden,
                place: cache.place(),
                files: names.join(", "),
            };
            return Err(error.into());
        }
        fetch(&Remote::new(repository.clone())?, &cache, &names)
    })
}

/// Whether the cache holds the weights that `path` names, if it names some of a hub.
pub fn is_cached(path: &Path) -> Option<bool> {
    let text = path.to_str().filter(|text| Repository::is_named(text))?;
    let repository = Repository::parse(text).ok()?;
    let names = match &repository.file {
        Some(file) => vec![file.as_str()],
        None => WEIGHTS.to_vec(),
    };
    Some(Cache::of(&repository).weights(&names).is_some())
}

/// Fetches the first of the files `names` that a repository has, and the files beside it. The
/// weights are linked last, so that a repository that was fetched only in part is not found.
fn fetch(remote: &Remote, cache: &Cache, names: &[&str]) -> Result<PathBuf, Failure> {
    let repository = &remote.repository;
    let mut weights = None;
    for name in names {
        if let Some(found) = remote.head(name)? {
            weights = Some(found);
            break;
        }
    }
    let Some(weights) = weights else {
        let message = format!("expected one of {}, got none of them", names.join(", "));
        return Err(remote.failed(message));
    };
    let mut beside = Vec::new();
    for name in BESIDE {
        beside.extend(remote.head(name)?);
    }
    // The shards are known only once their index is there.
    if weights.is_index() {
        if !cache.has(&weights) {
            announce(repository, cache, std::slice::from_ref(&weights), remote)?;
        }
        let index = cache.fetch(remote, &weights)?;
        let folder = weights.name.rsplit_once('/').map(|(folder, _)| folder);
        for shard in shards_of(&index)? {
            let shard = folder.map_or(shard.clone(), |folder| format!("{folder}/{shard}"));
            let found = remote.head(&shard)?;
            let missing = || remote.failed(format!("expected the shard {shard}, got none"));
            beside.push(found.ok_or_else(missing)?);
        }
    }
    let mut wanted: Vec<Found> = beside.clone();
    wanted.push(weights.clone());
    wanted.retain(|file| !cache.has(file));
    announce(repository, cache, &wanted, remote)?;
    for file in &wanted {
        cache.fetch(remote, file)?;
    }
    for file in beside.iter().chain([&weights]) {
        cache.link(file)?;
    }
    cache.refer(&weights.commit)?;
    cache
        .weights(names)
        .ok_or_else(|| config_error(format!("{repository}: the cache lost what was fetched")))
}

/// Prints what is about to be fetched and how much it is, and checks that there is room for it.
fn announce(
    repository: &Repository,
    cache: &Cache,
    files: &[Found],
    remote: &Remote,
) -> Result<(), Failure> {
    if files.is_empty() {
        return Ok(());
    }
    let each = |file: &Found| format!("{} ({})", file.name, bytes(file.size));
    let list: Vec<String> = files.iter().map(each).collect();
    let total: u64 = files.iter().map(|file| file.size).sum();
    eprintln!(
        "{repository}: fetching {}, {} in all, from {} into {}",
        listed(&list, 8),
        bytes(total),
        remote.endpoint,
        cache.folder().display()
    );
    room::check(&cache.prepared()?, total).map_err(config_error)
}
