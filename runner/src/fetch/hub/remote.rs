//! A repository on a hub: which files it has, under which commit, size and etag.

use super::place;
use super::repository::{Repository, is_inside};
use crate::config::error::ConfigError;
use crate::exit::Failure;
use crate::fetch::address::escape;
use crate::fetch::client::{Answer, Client, Follow, Trouble};
use crate::fetch::file::refusal;

/// A repository on a hub.
pub struct Remote {
    /// The repository.
    pub repository: Repository,
    /// The hub, such as `https://huggingface.co`.
    pub endpoint: String,
    /// The client that asks it.
    pub client: Client,
}

/// A file of a repository.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its path inside the repository.
    pub name: String,
    /// The commit that the revision stands for.
    pub commit: String,
    /// Its etag: the SHA-256 of a large file, the SHA-1 of git's blob of another.
    pub etag: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Found {
    /// Whether it lists the shards of weights.
    pub fn is_index(&self) -> bool {
        self.name.ends_with(".index.json")
    }
}

impl Remote {
    /// The repository on the hub of `HF_ENDPOINT`, with the user's token if there is one.
    ///
    /// # Errors
    /// If no client can be made.
    pub fn new(repository: Repository) -> Result<Self, Failure> {
        let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
        let endpoint = match endpoint.trim_end_matches('/') {
            "" => "https://huggingface.co",
            endpoint => endpoint,
        };
        let client = Client::new().map_err(|message| ConfigError::Hub {
            name: repository.to_string(),
            url: endpoint.to_owned(),
            message,
        })?;
        Ok(Self {
            client: client.with_token(token(), endpoint),
            endpoint: endpoint.to_owned(),
            repository,
        })
    }

    /// The address of a file at a revision.
    pub fn url(&self, revision: &str, file: &str) -> String {
        let Repository { name, .. } = &self.repository;
        format!(
            "{}/{}{}/resolve/{}/{}",
            self.endpoint,
            self.repository.of_kind(),
            escape(name),
            escape(revision).replace('/', "%2F"),
            escape(file)
        )
    }

    /// Asks for a file at the revision; `None` if the repository has none of that name.
    ///
    /// # Errors
    /// If the hub does not answer, refuses, or states no commit, etag or size.
    pub fn head(&self, file: &str) -> Result<Option<Found>, Failure> {
        let url = self.url(&self.repository.revision, file);
        let answer = self.client.head(&url, Follow::SameOrigin);
        let answer = answer.map_err(|Trouble { url, message }| {
            let hint =
                "without a connection, `--offline` names the folder that the files belong in";
            let message = format!("{message}; {hint}");
            self.trouble(Trouble { url, message })
        })?;
        let code = answer.header("X-Error-Code").unwrap_or_default();
        match answer.status {
            200 | 301 | 302 | 303 | 307 | 308 => {}
            404 if matches!(code, "" | "EntryNotFound") => return Ok(None),
            status => return Err(self.refused(&answer.url, status, code)),
        }
        self.found(file, &answer).map(Some)
    }

    fn found(&self, file: &str, answer: &Answer) -> Result<Found, Failure> {
        let lacks = |what: &str| {
            let message = format!("the answer for {file} has no usable {what}");
            self.trouble(Trouble {
                url: answer.url.clone(),
                message,
            })
        };
        let first = |names: [&str; 2]| names.iter().find_map(|name| answer.header(name));
        // Both become names of files: none may lead elsewhere.
        let plain = |text: &&str| is_inside(text) && !text.contains('/') && text.len() <= 128;
        let commit = answer.header("X-Repo-Commit").filter(plain);
        let etag = first(["X-Linked-Etag", "ETag"]);
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        let size = first(["X-Linked-Size", "Content-Length"]);
        Ok(Found {
            name: file.to_owned(),
            commit: commit.ok_or_else(|| lacks("X-Repo-Commit"))?.to_owned(),
            etag: etag.filter(plain).ok_or_else(|| lacks("ETag"))?.to_owned(),
            size: size
                .and_then(|size| size.parse().ok())
                .ok_or_else(|| lacks("Content-Length"))?,
        })
    }

    /// The failure of a refusal, with what its user can do.
    fn refused(&self, url: &str, status: u16, code: &str) -> Failure {
        let name = &self.repository.name;
        let page = format!("{}/{}{name}", self.endpoint, self.repository.of_kind());
        let message = match (status, code) {
            (_, "RevisionNotFound") => {
                format!(
                    "HTTP {status}: it has no revision {}",
                    self.repository.revision
                )
            }
            (401 | 403, "GatedRepo") => format!(
                "HTTP {status}: its makers grant access on request; ask at {page}, and then set \
                 HF_TOKEN, or log in with `hf auth login`"
            ),
            (401, _) if !self.client.has_token() => format!(
                "HTTP {status}: there is no such repository, or it is private; if it is, set \
                 HF_TOKEN, or log in with `hf auth login`"
            ),
            (401, _) => format!("HTTP {status}: the token is not valid, or may not read {page}"),
            (403, _) => format!("HTTP {status}: access is not granted; ask at {page}"),
            (404, _) => format!("HTTP {status}: there is no such repository"),
            (status, _) => refusal(status),
        };
        let url = url.to_owned();
        self.trouble(Trouble { url, message })
    }

    fn trouble(&self, Trouble { url, message }: Trouble) -> Failure {
        let name = self.repository.to_string();
        ConfigError::Hub { name, url, message }.into()
    }

    /// The failure of a repository that does not hold what is needed.
    pub fn failed(&self, message: String) -> Failure {
        let url = format!("{}/{}", self.endpoint, self.repository.name);
        self.trouble(Trouble { url, message })
    }
}

/// The token of this user, from the places where the hub's own library looks for it.
fn token() -> Option<String> {
    let of = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    let from_file = || {
        let path = of("HF_TOKEN_PATH").map_or_else(|| place::home().join("token"), Into::into);
        std::fs::read_to_string(path).ok()
    };
    let token = of("HF_TOKEN")
        .or_else(|| of("HUGGING_FACE_HUB_TOKEN"))
        .or_else(from_file)?;
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}
