//! The local cache of a hub, in the layout of its own library, which may use it at the same time:
//!
//! ```text
//! models--owner--name/blobs/<etag>                 the content of a file
//! models--owner--name/snapshots/<commit>/<file>    a link to it
//! models--owner--name/refs/<revision>              the commit that a branch or tag stood for
//! .locks/models--owner--name/<etag>.lock           held while the blob is fetched
//! ```

use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use std::time::Duration;

use peft_core::files::write_atomically;

use super::place::root;
use super::remote::{Found, Remote};
use super::repository::Repository;
use super::weights::shards_of;
use crate::exit::Failure;
use crate::fetch::digest::Digest;
use crate::fetch::file::{self, Wanted};

/// A repository in the cache.
pub struct Cache {
    root: PathBuf,
    repository: Repository,
}

impl Cache {
    /// The repository in the cache of this user, found by the rules of the hub's own library.
    pub fn of(repository: &Repository) -> Self {
        Self {
            root: root(),
            repository: repository.clone(),
        }
    }

    /// The folder of the repository.
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.repository.folder())
    }

    /// The folder of the repository, made if it is not there.
    pub fn prepared(&self) -> Result<PathBuf, Failure> {
        let folder = self.folder();
        fs_err::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Where files of the revision are looked for, for a message.
    pub fn place(&self) -> String {
        let folder = self.folder();
        let folder = folder.display();
        match self.commit() {
            Some(commit) => format!("{folder}/snapshots/{commit}"),
            None => {
                let revision = &self.repository.revision;
                format!(
                    "{folder}/snapshots/COMMIT (and the name COMMIT in the file \
                     {folder}/refs/{revision})"
                )
            }
        }
    }

    /// The commit of the revision: the revision itself, or what a branch or tag stood for when it
    /// was fetched.
    fn commit(&self) -> Option<String> {
        let revision = &self.repository.revision;
        if is_commit(revision) {
            return Some(revision.clone());
        }
        let text = std::fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        let commit = text.trim();
        super::repository::is_inside(commit).then(|| commit.to_owned())
    }

    /// The first of the files `names` that the cache holds, of an index only with all its shards.
    pub fn weights(&self, names: &[&str]) -> Option<PathBuf> {
        let snapshot = self.folder().join("snapshots").join(self.commit()?);
        let whole = |path: &PathBuf| {
            let shards = match path.to_string_lossy().ends_with(".index.json") {
                true => shards_of(path).unwrap_or_default(),
                false => return path.is_file(),
            };
            let folder = path.parent().unwrap_or(&snapshot);
            !shards.is_empty() && shards.iter().all(|shard| folder.join(shard).is_file())
        };
        names.iter().map(|name| snapshot.join(name)).find(whole)
    }

    fn blob(&self, found: &Found) -> PathBuf {
        self.folder().join("blobs").join(&found.etag)
    }

    /// Whether the content of a file is there.
    pub fn has(&self, found: &Found) -> bool {
        self.blob(found).is_file()
    }

    /// Fetches the content of a file, unless it is there or another process is just fetching it.
    ///
    /// # Errors
    /// Those of [`file::fetch`], and of the file system.
    pub fn fetch(&self, remote: &Remote, found: &Found) -> Result<PathBuf, Failure> {
        let blob = self.blob(found);
        let locks = self.root.join(".locks").join(self.repository.folder());
        fs_err::create_dir_all(&locks)?;
        fs_err::create_dir_all(self.folder().join("blobs"))?;
        // Locked as the hub's own library locks it, so that both may fetch at the same time.
        let path = locks.join(format!("{}.lock", found.etag));
        let lock = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)?;
        wait_for(lock.file(), &path, &found.name)?;
        if blob.is_file() {
            return Ok(blob);
        }
        let digest = Digest::of_etag(&found.etag);
        if digest.is_none() {
            eprintln!(
                "{}: the server states no checksum; only the size is verified",
                found.name
            );
        }
        let part = blob.with_file_name(format!("{}.incomplete", found.etag));
        let wanted = Wanted {
            url: &remote.url(&found.commit, &found.name),
            name: &found.name,
            size: Some(found.size),
            digest: digest.as_ref(),
        };
        file::fetch(&remote.client, &wanted, &part)
            .map_err(|failure| failure.within(&self.repository.to_string()))?;
        fs_err::rename(&part, &blob)?;
        Ok(blob)
    }

    /// Makes a fetched file appear in the snapshot of its commit.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn link(&self, found: &Found) -> Result<(), Failure> {
        let snapshot = self.folder().join("snapshots").join(&found.commit);
        let path = snapshot.join(&found.name);
        if path.is_file() {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(&snapshot);
        fs_err::create_dir_all(folder)?;
        let depth = 2 + found.name.matches('/').count();
        let target = Path::new(&"../".repeat(depth))
            .join("blobs")
            .join(&found.etag);
        // Renamed into place: another process may be making the same link.
        let new = folder.join(format!(".link-{}-{}", std::process::id(), found.etag));
        let _ = std::fs::remove_file(&new);
        link(&target, &self.blob(found), &new)?;
        fs_err::rename(&new, &path)?;
        Ok(())
    }

    /// Notes the commit that the revision stands for.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn refer(&self, commit: &str) -> Result<(), Failure> {
        let revision = &self.repository.revision;
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder().join("refs").join(revision);
        fs_err::create_dir_all(path.parent().unwrap_or(&path))?;
        Ok(write_atomically(&path, commit.as_bytes())?)
    }
}

/// Links `new` to the blob: `target` is its path seen from the folder of `new`.
#[cfg(unix)]
fn link(target: &Path, _blob: &Path, new: &Path) -> std::io::Result<()> {
    fs_err::os::unix::fs::symlink(target, new)
}

/// Where links need special rights, the file itself gets another name.
#[cfg(not(unix))]
fn link(_target: &Path, blob: &Path, new: &Path) -> std::io::Result<()> {
    fs_err::hard_link(blob, new).or_else(|_| fs_err::copy(blob, new).map(|_| ()))
}

/// Waits until no other process fetches the same file.
fn wait_for(lock: &std::fs::File, path: &Path, name: &str) -> Result<(), Failure> {
    let mut said = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(peft_core::Error::io(path)(e).into()),
            Err(TryLockError::WouldBlock) if said => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("{name}: waiting for another process that fetches it");
                said = true;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a revision is a whole commit, which never stands for another one later.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::super::weights::WEIGHTS;
    use super::*;

    fn cache(root: &Path, name: &str) -> Cache {
        Cache {
            root: root.to_owned(),
            repository: Repository::parse(name).unwrap(),
        }
    }

    #[test]
    fn a_repository_is_found_by_branch_or_commit_or_its_place_is_named() {
        let root = tempfile::tempdir().unwrap();
        let main = cache(root.path(), "hf://timm/vit");
        assert_eq!(main.weights(&WEIGHTS), None);
        let place = main.place();
        assert!(
            place.contains("models--timm--vit/snapshots/COMMIT"),
            "{place}"
        );
        assert!(place.contains("models--timm--vit/refs/main"), "{place}");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let snapshot = main.folder().join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).unwrap();
        main.refer(commit).unwrap();
        assert!(main.place().ends_with(commit));
        std::fs::write(snapshot.join("pytorch_model.bin"), "x").unwrap();
        let expected = Some(snapshot.join("pytorch_model.bin"));
        assert_eq!(main.weights(&WEIGHTS), expected);
        let by_commit = cache(root.path(), &format!("hf://timm/vit@{commit}"));
        assert_eq!(by_commit.weights(&WEIGHTS), expected);
        assert_eq!(
            cache(root.path(), "hf://timm/vit@v2").weights(&WEIGHTS),
            None
        );
    }

    #[test]
    fn an_index_counts_only_with_all_its_shards() {
        let root = tempfile::tempdir().unwrap();
        let cache = cache(root.path(), "hf://timm/vit");
        cache.refer("abc").unwrap();
        let snapshot = cache.folder().join("snapshots/abc");
        std::fs::create_dir_all(&snapshot).unwrap();
        let index = r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
        std::fs::write(snapshot.join(WEIGHTS[1]), index).unwrap();
        std::fs::write(snapshot.join("1.safetensors"), "").unwrap();
        assert_eq!(cache.weights(&WEIGHTS), None);
        std::fs::write(snapshot.join("2.safetensors"), "").unwrap();
        assert_eq!(cache.weights(&WEIGHTS), Some(snapshot.join(WEIGHTS[1])));
        let outside = r#"{"weight_map": {"a": "../../x"}}"#;
        std::fs::write(snapshot.join(WEIGHTS[1]), outside).unwrap();
        assert_eq!(cache.weights(&WEIGHTS), None);
    }
}
