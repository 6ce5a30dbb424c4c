//! Where the files of a data set come from: the key `about.fetch` of the catalogue, which `runner data
//! fetch` follows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::fetch::digest::Digest;

/// How the files of a data set are had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// Files at the addresses of their makers.
    #[serde(default)]
    pub files: Vec<Download>,
    /// Files of repositories of the hub, which states their sizes and checksums.
    #[serde(default)]
    pub hub: Vec<HubFolder>,
    /// Files that a person has to get: behind a form, or on a drive without checksums.
    #[serde(default)]
    pub by_hand: Vec<ByHand>,
}

/// A file at an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Download {
    /// The address.
    pub url: String,
    /// The size in bytes; absent where no reference states it.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// The SHA-256, as tfds states it.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The MD5, as torchvision states it.
    #[serde(default)]
    pub md5: Option<String>,
    /// How the archive is unpacked.
    pub unpack: Unpack,
}

/// How an archive becomes files below the root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpack {
    /// The most bytes of all its files: more are taken for a damaged or hostile archive.
    pub at_most: u64,
    /// Folders that are taken off the front of every path; files that have fewer are left out.
    #[serde(default)]
    pub strip: usize,
    /// The folder below the root for the files.
    #[serde(default)]
    pub into: Option<PathBuf>,
    /// An archive in this one that is unpacked in turn, as a path after `strip`.
    #[serde(default)]
    pub inner: Option<PathBuf>,
}

/// A folder of a repository of data on the hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFolder {
    /// `owner/name`.
    pub repository: String,
    /// The folder inside of it, which is also the folder below the root.
    pub folder: String,
    /// The common beginning of the names of the files.
    pub prefixes: Vec<String>,
}

/// A file that a person has to get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByHand {
    /// Its path below the root.
    pub file: PathBuf,
    /// The steps that a person takes instead.
    pub how: String,
}

impl Download {
    /// The file's name: the last part of the address, without a query.
    pub fn name(&self) -> &str {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    /// The checksum that is stated.
    pub fn digest(&self) -> Option<Digest> {
        let sha256 = self.sha256.clone().map(Digest::Sha256);
        sha256.or_else(|| self.md5.clone().map(Digest::Md5))
    }
}
