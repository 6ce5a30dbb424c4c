//! The files of a folder of a repository, as the hub lists them.

use std::io::Read;

use serde::Deserialize;

use super::remote::Remote;
use super::repository::is_inside;
use crate::exit::Failure;
use crate::fetch::address::escape;
use crate::fetch::digest::Digest;
use crate::fetch::file::refusal;

/// The longest list that is read: the hub sends a thousand files at a time.
const LONGEST: u64 = 16 << 20;

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its path inside the repository.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its checksum.
    pub digest: Digest,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    size: u64,
    oid: String,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: String,
}

/// Lists the files of a folder of a repository.
///
/// # Errors
/// If the hub refuses, or answers with something else or with more than one page.
pub fn files(remote: &Remote, folder: &str) -> Result<Vec<Listed>, Failure> {
    let repository = &remote.repository;
    let url = format!(
        "{}/api/datasets/{}/tree/{}/{}",
        remote.endpoint,
        escape(&repository.name),
        escape(&repository.revision),
        escape(folder)
    );
    let answer = remote.client.get(&url, 0);
    let answer = answer.map_err(|trouble| remote.failed(trouble.message))?;
    if answer.status != 200 {
        return Err(remote.failed(refusal(answer.status)));
    }
    if answer.header("Link").is_some() {
        return Err(remote.failed(format!("{folder} has more files than one answer lists")));
    }
    let unusable = |message: String| remote.failed(format!("{url}: {message}"));
    let entries: Vec<Entry> = serde_json::from_reader(answer.body().take(LONGEST))
        .map_err(|e| unusable(e.to_string()))?;
    let files = entries.into_iter().filter(|entry| entry.kind == "file");
    files
        .map(|entry| {
            let oid = entry.lfs.map_or(entry.oid, |large| large.oid);
            let digest = Digest::of_etag(oid.trim_start_matches("sha256:"));
            match digest.filter(|_| is_inside(&entry.path)) {
                Some(digest) => Ok(Listed {
                    path: entry.path,
                    size: entry.size,
                    digest,
                }),
                None => Err(unusable(format!("{:?} has no usable checksum", entry.path))),
            }
        })
        .collect()
}
