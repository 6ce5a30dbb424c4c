//! The files of a data set: fetched into the folder `.fetch` below its root, verified, unpacked there
//! and moved to their places.

use std::path::{Path, PathBuf};

use super::client::{Client, Follow};
use super::digest::Digest;
use super::file::{self, Wanted, refusal, unavailable};
use super::hub::{self, Remote, Repository};
use super::progress::bytes;
use super::unpack::{Limits, merge, unpack};
use super::{offline, room};
use crate::config::sources::{Download, HubFolder, Sources};
use crate::exit::{Exit, Failure, config_error, failure};
use crate::lock::lock;

/// The folder below a root for what is not yet in its place. Formats pass over names with a dot.
pub const WORK: &str = ".fetch";

/// A file that is to be fetched.
struct Item<'a> {
    url: String,
    name: String,
    size: u64,
    digest: Digest,
    place: Place<'a>,
    client: &'a Client,
}

/// The use that is made of a file.
enum Place<'a> {
    /// It is unpacked.
    Archive(&'a Download),
    /// It goes to this path below the root.
    File(PathBuf),
}

/// The plan of fetching a data set.
pub struct Plan<'a> {
    root: &'a Path,
    items: Vec<Item<'a>>,
}

/// The clients of a data set's sources.
pub struct Clients {
    plain: Client,
    /// For each repository of the hub.
    hub: Vec<Remote>,
}

impl Clients {
    /// Makes the clients for `sources`.
    ///
    /// # Errors
    /// If fetching is forbidden, with the place of every file; if no client can be made.
    pub fn new(sources: &Sources, root: &Path) -> Result<Self, Failure> {
        let plain = Client::new().map_err(config_error)?;
        let remote = |folder: &HubFolder| {
            Remote::new(Repository::parse(&format!(
                "hf://datasets/{}",
                folder.repository
            ))?)
        };
        if let Some(forbidden) = offline::forbidden() {
            let missing = missing(sources, root);
            if !missing.is_empty() {
                let message = format!("{forbidden} forbids to fetch; get\n{}", missing.join("\n"));
                return Err(config_error(message));
            }
            return Ok(Self {
                plain,
                hub: Vec::new(),
            });
        }
        let hub = sources.hub.iter().map(remote).collect::<Result<_, _>>()?;
        Ok(Self { plain, hub })
    }
}

/// The files and the places in which they have to be put if nothing may be fetched, one line each.
fn missing(sources: &Sources, root: &Path) -> Vec<String> {
    let archives = sources.files.iter().filter_map(|download| {
        let place = root.join(WORK).join(download.name());
        let there = is_done(root, download) || place.exists();
        (!there).then(|| format!("  {} as {}", download.url, place.display()))
    });
    let hub = sources.hub.iter().map(|folder| {
        format!(
            "  {}/{} of hf://datasets/{} as {}",
            folder.folder,
            folder.prefixes.join("*, ") + "*",
            folder.repository,
            root.join(&folder.folder).display()
        )
    });
    archives.chain(hub).collect()
}

/// The note that an archive was unpacked: it is written last, and names the checksum.
fn note(root: &Path, download: &Download) -> PathBuf {
    root.join(WORK).join(format!("{}.done", download.name()))
}

fn is_done(root: &Path, download: &Download) -> bool {
    let text = std::fs::read_to_string(note(root, download)).unwrap_or_default();
    download
        .digest()
        .is_some_and(|digest| text == digest.to_string())
}

impl<'a> Plan<'a> {
    /// Finds what is not there yet.
    ///
    /// # Errors
    /// If a server does not say how large a file is, or a hub does not list its files.
    pub fn new(
        sources: &'a Sources,
        root: &'a Path,
        clients: &'a Clients,
    ) -> Result<Self, Failure> {
        let mut items = Vec::new();
        for download in &sources.files {
            if is_done(root, download) {
                continue;
            }
            let digest = download.digest().ok_or_else(|| {
                config_error(format_args!(
                    "{}: expected sha256 or md5, got none",
                    download.url
                ))
            })?;
            let archive = root.join(WORK).join(download.name());
            let there = archive.metadata().ok().map(|metadata| metadata.len());
            items.push(Item {
                size: match download.bytes.or(there) {
                    Some(bytes) => bytes,
                    None => size(&clients.plain, download)?,
                },
                url: download.url.clone(),
                name: download.name().to_owned(),
                digest,
                place: Place::Archive(download),
                client: &clients.plain,
            });
        }
        for (folder, remote) in sources.hub.iter().zip(&clients.hub) {
            let wanted = |path: &str| {
                let name = path.rsplit('/').next().unwrap_or_default();
                folder
                    .prefixes
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            };
            let mut files = hub::files(remote, &folder.folder)?;
            files.retain(|file| wanted(&file.path));
            if files.is_empty() {
                let prefixes = folder.prefixes.join("*, ");
                return Err(
                    remote.failed(format!("expected {}/{prefixes}*, got none", folder.folder))
                );
            }
            for file in files {
                let place = PathBuf::from(&file.path);
                let there = root.join(&place).metadata();
                if there.is_ok_and(|there| there.len() == file.size) {
                    continue;
                }
                items.push(Item {
                    url: remote.url(&remote.repository.revision, &file.path),
                    name: file.path,
                    size: file.size,
                    digest: file.digest,
                    place: Place::File(place),
                    client: &remote.client,
                });
            }
        }
        Ok(Self { root, items })
    }

    /// The files that will be fetched, one line each, and the sum of their sizes.
    pub fn lines(&self) -> Vec<String> {
        let each = |item: &Item| format!("{}, {}, {}", item.url, bytes(item.size), item.digest);
        let mut lines: Vec<String> = self.items.iter().map(each).collect();
        let total = self.items.iter().map(|item| item.size).sum();
        lines.push(format!(
            "{} in {} files, into {}",
            bytes(total),
            self.items.len(),
            self.root.display()
        ));
        lines
    }

    /// Whether everything is there.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Fetches and unpacks everything.
    ///
    /// # Errors
    /// Those of a download and of an archive, a full disk, and another process that fetches into the
    /// same root.
    pub fn run(&self) -> Result<(), Failure> {
        let work = self.root.join(WORK);
        fs_err::create_dir_all(&work)?;
        let Some(_lock) = lock(&work)? else {
            let message = format!("{}: another process fetches into it", self.root.display());
            return Err(failure(Exit::Unexpected, message));
        };
        let needed = |item: &Item| match item.place {
            Place::Archive(download) => item.size + download.unpack.at_most,
            Place::File(_) => item.size,
        };
        room::check(&work, self.items.iter().map(needed).sum()).map_err(config_error)?;
        for item in &self.items {
            item.run(self.root, &work)?;
        }
        Ok(())
    }
}

impl Item<'_> {
    fn run(&self, root: &Path, work: &Path) -> Result<(), Failure> {
        // A folder in the name would be one that is not there.
        let flat = self.name.replace('/', "--");
        let whole = work.join(&flat);
        let part = work.join(format!("{flat}.part"));
        if whole.exists() {
            // Put there by hand, or by a fetch that was killed before it unpacked.
            let found = self.digest.of_file(&whole)?;
            if found != self.digest {
                let expected = &self.digest;
                let message = format!("{}: expected {expected}, got {found}", whole.display());
                return Err(config_error(message));
            }
        } else {
            let wanted = Wanted {
                url: &self.url,
                name: &self.name,
                size: Some(self.size),
                digest: Some(&self.digest),
            };
            file::fetch(self.client, &wanted, &part)?;
            fs_err::rename(&part, &whole)?;
        }
        match &self.place {
            Place::File(place) => {
                let place = root.join(place);
                fs_err::create_dir_all(place.parent().unwrap_or(root))?;
                fs_err::rename(&whole, place)?;
            }
            Place::Archive(download) => self.unpack(root, work, &whole, download)?,
        }
        Ok(())
    }

    fn unpack(
        &self,
        root: &Path,
        work: &Path,
        whole: &Path,
        download: &Download,
    ) -> Result<(), Failure> {
        let staging = work.join(format!("{}.unpacked", self.name));
        if staging.exists() {
            fs_err::remove_dir_all(&staging)?;
        }
        fs_err::create_dir_all(&staging)?;
        eprintln!("{}: unpacking", self.name);
        let how = &download.unpack;
        let limits = Limits {
            bytes: how.at_most,
            strip: how.strip,
        };
        let refused = |e| failure(Exit::Unexpected, e);
        let mut files = unpack(whole, &staging, limits).map_err(refused)?;
        if let Some(inner) = &how.inner {
            // Moved away, so that nothing in it can overwrite the archive that is being read.
            let archive = work.join(format!("{}.inner", self.name));
            fs_err::rename(staging.join(inner), &archive)?;
            let limits = Limits { strip: 0, ..limits };
            files += unpack(&archive, &staging, limits).map_err(refused)?;
            fs_err::remove_file(&archive)?;
        }
        let place = how
            .into
            .as_ref()
            .map_or(root.to_owned(), |into| root.join(into));
        merge(&staging, &place)?;
        // Last of all: from here on the archive counts as unpacked.
        let note = note(root, download);
        peft_core::files::write_atomically(&note, self.digest.to_string().as_bytes())?;
        fs_err::remove_file(whole)?;
        eprintln!("{}: {files} files", self.name);
        Ok(())
    }
}

/// The size of a file that no reference states.
fn size(client: &Client, download: &Download) -> Result<u64, Failure> {
    let name = download.name();
    let answer = client.head(&download.url, Follow::All);
    let answer = answer.map_err(|trouble| unavailable(name, &trouble.url, &trouble.message))?;
    if answer.status != 200 {
        return Err(unavailable(name, &answer.url, &refusal(answer.status)));
    }
    let length = answer.header("Content-Length");
    let length = length.and_then(|length| length.parse().ok());
    length.ok_or_else(|| unavailable(name, &answer.url, "the server does not state its size"))
}
