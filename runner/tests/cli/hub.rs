//! Weights by name: what the program does with a hub that answers, redirects, lies or refuses. The hub is
//! a server of the test's own.

mod broken;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::methods::root;
use crate::server::{Asked, Reply, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The content of the bundled weights, and its SHA-256 (`sha256sum assets/vit-micro.safetensors`).
fn weights() -> Vec<u8> {
    std::fs::read(root().join("assets/vit-micro.safetensors")).unwrap()
}
const SHA256: &str = "41f7c582e722e84fc286c1ac3f45c4a026154870322901d5ae8980d6e7b6ddc4";

const CONFIG: &[u8] = b"{}\n";
/// `printf '{}\n' | git hash-object --stdin`.
const CONFIG_SHA1: &str = "0967ef424bce6791893e9a57bb952f80fd536e93";

/// A hub with one repository, `timm/vit`: weights, which it keeps on a server of another port, and a
/// `config.json`. `change` may answer in its place.
struct Hub {
    server: Server,
    /// Where the hub keeps large files.
    store: Server,
    home: tempfile::TempDir,
}

type Change = Box<dyn Fn(&Asked) -> Option<Reply> + Send + Sync>;

impl Hub {
    fn start(at_hub: Change, at_store: Change) -> Self {
        let content = weights();
        let size = content.len();
        let store = Server::start(move |asked| {
            at_store(asked).unwrap_or_else(|| Reply::file(asked, &content))
        });
        let place = store.url();
        let server = Server::start(move |asked| {
            let answered = at_hub(asked);
            answered.unwrap_or_else(|| match asked.path.rsplit_once('/').map(|(_, file)| file) {
                // As the hub answers for a file that it keeps elsewhere.
                Some("model.safetensors") => Reply::to(format!("{place}/blob?signed=1"))
                    .header("X-Repo-Commit", COMMIT)
                    .header("X-Linked-Etag", format!("\"{SHA256}\""))
                    .header("X-Linked-Size", size),
                Some("config.json") => Reply::file(asked, CONFIG)
                    .header("X-Repo-Commit", COMMIT)
                    .header("ETag", format!("W/\"{CONFIG_SHA1}\"")),
                _ => Reply::status(404).header("X-Error-Code", "EntryNotFound"),
            })
        });
        Self {
            server,
            store,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn plain() -> Self {
        Self::start(Box::new(|_| None), Box::new(|_| None))
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("hub/models--timm--vit")
    }

    fn snapshot(&self) -> PathBuf {
        self.folder().join("snapshots").join(COMMIT)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command
            .args(["inspect", name])
            .env("HF_ENDPOINT", self.server.url())
            .env("HF_HOME", self.home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        for variable in [
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_TOKEN_PATH",
            "HF_HUB_OFFLINE",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(variable);
        }
        command
    }

    fn fetch(&self) -> Output {
        self.command("hf://timm/vit").output().unwrap()
    }

    /// Fails with each part in its message, and leaves no weights.
    fn fails(&self, parts: &[&str]) -> String {
        let output = self.fetch();
        let message = said(&output);
        assert!(!output.status.success(), "{message}");
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert!(
            !self.snapshot().join("model.safetensors").exists(),
            "{message}"
        );
        message
    }

    fn succeeds(&self) -> String {
        let output = self.fetch();
        let message = said(&output);
        assert!(output.status.success(), "{message}");
        let found = std::fs::read(self.snapshot().join("model.safetensors")).unwrap();
        assert!(found == weights());
        message
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => found.extend(
                files_below(&path)
                    .iter()
                    .map(|below| format!("{name}/{below}")),
            ),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

#[test]
fn weights_are_fetched_once_into_the_layout_of_the_hubs_own_library() {
    let hub = Hub::plain();
    let message = hub.succeeds();
    let expected = format!(
        "hf://timm/vit: fetching config.json (3 B), model.safetensors ({:.1} MiB)",
        weights().len() as f64 / f64::from(1 << 20)
    );
    assert!(message.contains(&expected), "{message}");
    assert!(message.contains(&hub.server.url()), "{message}");
    assert_eq!(
        files_below(hub.home.path()),
        [
            format!("hub/.locks/models--timm--vit/{CONFIG_SHA1}.lock"),
            format!("hub/.locks/models--timm--vit/{SHA256}.lock"),
            format!("hub/models--timm--vit/blobs/{CONFIG_SHA1}"),
            format!("hub/models--timm--vit/blobs/{SHA256}"),
            "hub/models--timm--vit/refs/main".to_owned(),
            format!("hub/models--timm--vit/snapshots/{COMMIT}/config.json"),
            format!("hub/models--timm--vit/snapshots/{COMMIT}/model.safetensors"),
        ]
    );
    let main = std::fs::read_to_string(hub.folder().join("refs/main")).unwrap();
    assert_eq!(main, COMMIT);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(hub.snapshot().join("model.safetensors")).unwrap(),
        Path::new("../../blobs").join(SHA256)
    );
    let before = hub.server.log().len();
    let again = hub.succeeds();
    assert!(!again.contains("fetching"), "{again}");
    assert_eq!(hub.server.log().len(), before);
}

#[test]
fn a_token_goes_to_the_hub_and_not_where_it_redirects_to() {
    let hub = Hub::start(
        Box::new(|asked| {
            // A repository that was renamed: a redirect on the same host.
            let renamed = asked.path.strip_prefix("/old/name/")?;
            Some(Reply::to(format!("/timm/vit/{renamed}")))
        }),
        Box::new(|_| None),
    );
    let mut command = hub.command("hf://old/name");
    let output = command.env("HF_TOKEN", "hf_secret").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let bearer = Some("Bearer hf_secret");
    let log = hub.server.log();
    assert!(log.iter().any(|asked| asked.path.starts_with("/timm/vit/")));
    assert!(
        log.iter()
            .all(|asked| asked.header("authorization") == bearer)
    );
    let store = hub.store.log();
    assert!(!store.is_empty());
    assert!(
        store
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
    assert!(!said(&output).contains("hf_secret"));

    // A token that the hub's own login has left in its file.
    let hub = Hub::plain();
    std::fs::write(hub.home.path().join("token"), "hf_filed\n").unwrap();
    hub.succeeds();
    let filed = Some("Bearer hf_filed");
    assert!(
        hub.server
            .log()
            .iter()
            .all(|asked| asked.header("authorization") == filed)
    );
}

#[test]
fn a_file_with_another_checksum_or_size_is_not_taken() {
    let mut other = weights();
    other[100] ^= 1;
    let hub = Hub::start(
        Box::new(|_| None),
        Box::new(move |asked| Some(Reply::file(asked, &other))),
    );
    hub.fails(&[
        "model.safetensors from",
        "expected sha256",
        SHA256,
        "got sha256",
    ]);
    assert!(
        !files_below(&hub.folder())
            .iter()
            .any(|file| file.contains(SHA256))
    );

    let long = [weights(), vec![0]].concat();
    let hub = Hub::start(
        Box::new(|_| None),
        Box::new(move |asked| Some(Reply::file(asked, &long))),
    );
    let (expected, got) = (weights().len(), weights().len() + 1);
    hub.fails(&[&format!("expected {expected} bytes, the server has {got}")]);

    let hub = Hub::start(
        Box::new(|asked| {
            let reply = Reply::file(asked, b"[]\n").header("X-Repo-Commit", COMMIT);
            let reply = reply.header("ETag", format!("\"{CONFIG_SHA1}\""));
            asked.path.ends_with("config.json").then_some(reply)
        }),
        Box::new(|_| None),
    );
    hub.fails(&["config.json from", "expected git sha1", CONFIG_SHA1]);
}

#[test]
fn refusals_say_what_to_do() {
    let cases: [(u16, &str, &[&str]); 6] = [
        (
            401,
            "RepoNotFound",
            &[
                "HTTP 401",
                "no such repository, or it is private",
                "HF_TOKEN",
            ],
        ),
        (
            401,
            "GatedRepo",
            &[
                "HTTP 401",
                "grant access on request; ask at http://",
                "/timm/vit",
            ],
        ),
        (403, "GatedRepo", &["HTTP 403", "grant access on request"]),
        (
            404,
            "RepoNotFound",
            &["HTTP 404", "there is no such repository"],
        ),
        (404, "RevisionNotFound", &["HTTP 404", "no revision main"]),
        (
            404,
            "EntryNotFound",
            &["expected one of model.safetensors", "got none of them"],
        ),
    ];
    for (status, code, parts) in cases {
        let hub = Hub::start(
            Box::new(move |_| Some(Reply::status(status).header("X-Error-Code", code))),
            Box::new(|_| None),
        );
        hub.fails(parts);
        let output = hub.fetch();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    }
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    for status in [429, 503] {
        let asked = AtomicUsize::new(0);
        let busy = move |_: &Asked| {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            first.then(|| Reply::status(status).header("Retry-After", 0))
        };
        let hub = Hub::start(Box::new(busy), Box::new(|_| None));
        let message = hub.succeeds();
        assert!(message.contains(&format!("HTTP {status}")), "{message}");
    }
    let hub = Hub::start(
        Box::new(|_| Some(Reply::status(503).header("Retry-After", 3600))),
        Box::new(|_| None),
    );
    hub.fails(&["HTTP 503", "asks to come back in 3600s"]);
    assert_eq!(hub.server.log().len(), 1);
}

#[test]
fn endless_redirects_and_names_that_leave_the_cache_are_refused() {
    let hub = Hub::start(
        Box::new(|asked| Some(Reply::to(&asked.path))),
        Box::new(|_| None),
    );
    hub.fails(&["more than 10 redirects"]);
    for (commit, etag) in [("../../x", SHA256), (COMMIT, "../x")] {
        let hub = Hub::start(
            Box::new(move |_| {
                let reply = Reply::status(200).header("X-Repo-Commit", commit);
                Some(reply.header("ETag", etag).header("Content-Length", 1))
            }),
            Box::new(|_| None),
        );
        hub.fails(&["no usable"]);
        assert!(!hub.home.path().join("hub").exists());
    }
}

#[test]
fn shards_are_fetched_with_their_index() {
    let content: HashMap<&str, &[u8]> = HashMap::from([
        (
            "model.safetensors.index.json",
            &br#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}"#[..],
        ),
        ("one.safetensors", b"tensors"),
    ]);
    // `printf .. | git hash-object --stdin`.
    let etags = HashMap::from([
        (
            "model.safetensors.index.json",
            "28ffc0ed9f70e365f5555240013b0b4064c50b7f",
        ),
        (
            "one.safetensors",
            "4749021d603bdcf490f3b6ba1e7f2959ebd106ab",
        ),
    ]);
    let hub = Hub::start(
        Box::new(move |asked| {
            let file = asked.path.rsplit('/').next()?;
            let Some(content) = content.get(file) else {
                return Some(Reply::status(404).header("X-Error-Code", "EntryNotFound"));
            };
            let reply = Reply::file(asked, content).header("X-Repo-Commit", COMMIT);
            Some(reply.header("ETag", format!("\"{}\"", etags[file])))
        }),
        Box::new(|_| None),
    );
    // The shard is not a file of tensors, which reading it says.
    let output = hub.fetch();
    assert!(
        said(&output).contains("one.safetensors"),
        "{}",
        said(&output)
    );
    let snapshot = hub.snapshot();
    assert_eq!(
        files_below(&snapshot),
        ["model.safetensors.index.json", "one.safetensors"]
    );
}

#[test]
fn a_revision_and_a_file_may_be_named() {
    let hub = Hub::plain();
    let named = |name: &str| {
        let output = hub.command(name).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    };
    // A commit needs no ref: it never stands for another one.
    named(&format!("hf://timm/vit@{COMMIT}/model.safetensors"));
    assert!(!hub.folder().join("refs").exists());
    assert!(hub.snapshot().join("model.safetensors").is_file());
    named("hf://timm/vit@v2/a/model.safetensors");
    let path = "/timm/vit/resolve/v2/a/model.safetensors";
    assert_eq!(hub.server.asked("HEAD", path).len(), 1);
    let main = std::fs::read_to_string(hub.folder().join("refs/v2")).unwrap();
    assert_eq!(main, COMMIT);
    let nested = std::fs::read(hub.snapshot().join("a/model.safetensors")).unwrap();
    assert!(nested == weights());
}

#[test]
fn offline_names_the_place_and_asks_nobody() {
    let hub = Hub::plain();
    let flagged = hub
        .command("hf://timm/vit")
        .arg("--offline")
        .output()
        .unwrap();
    let set = hub
        .command("hf://timm/vit")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    for (output, what) in [
        (&flagged, "`--offline` forbids"),
        (&set, "`HF_HUB_OFFLINE` forbids"),
    ] {
        let message = said(output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let place = hub.folder().join("snapshots/COMMIT").display().to_string();
        for part in [what, &place, "model.safetensors, ", "refs/main"] {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
    }
    assert_eq!(hub.server.log().len(), 0);
    hub.succeeds();
    let cached = hub
        .command("hf://timm/vit")
        .arg("--offline")
        .output()
        .unwrap();
    assert!(cached.status.success(), "{}", said(&cached));
}
