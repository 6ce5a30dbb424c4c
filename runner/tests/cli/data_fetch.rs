//! `runner data fetch`: a data set whose archive, lists and hub are servers of the test's own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::server::{Asked, Reply, Server};

/// A folder of images in two splits and two classes, as a `.tar.gz` with an outer folder.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (index, path) in [
        "train/a", "train/a", "train/b", "train/b", "test/a", "test/b",
    ]
    .into_iter()
    .enumerate()
    {
        let mut png = std::io::Cursor::new(Vec::new());
        let colour = image::Rgb([20 * index as u8, 9, 200]);
        let image = image::RgbImage::from_pixel(8, 8, colour);
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(png.get_ref().len() as u64);
        let path = format!("set/{path}/{index}.png");
        builder
            .append_data(&mut header, path, &png.get_ref()[..])
            .unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout)[..64].to_owned()
}

struct Set {
    folder: tempfile::TempDir,
    yaml: PathBuf,
}

impl Set {
    /// A catalogue's file with these sources.
    fn new(sources: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let yaml = folder.path().join("set.yaml");
        let text = format!(
            "name: folder\nroot: nowhere\nvalidation_fraction: 0.5\nabout:\n  title: A set\n  group: \
             full-data\n  classes: 2\n  splits: {{train: 2, validation: 2, test: 2}}\n  metric: top1\n  \
             layout: train/<class>/*\n  source: the test\n  terms: free\n  protocol: none\n  \
             reference: none\n  fetch:\n{sources}"
        );
        std::fs::write(&yaml, text).unwrap();
        Self { folder, yaml }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut runner = Command::new(env!("CARGO_BIN_EXE_runner"));
        runner.args(["data", command]).arg(&self.yaml);
        runner.arg("--root").arg(self.root()).args(more);
        for variable in [
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
            "HF_HUB_OFFLINE",
        ] {
            runner.env_remove(variable);
        }
        runner.env("HF_HOME", self.folder.path().join("hf"));
        runner.output().unwrap()
    }

    fn fetch(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.run("fetch", more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (
            output.status.code(),
            said + &String::from_utf8_lossy(&output.stdout),
        )
    }

    fn holds_all(&self) {
        let output = self.run("check", &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
    }
}

fn source(url: &str, content: &[u8], unpack: &str) -> String {
    let (bytes, sha256) = (content.len(), sha256(content));
    format!(
        "    files:\n      - {{url: \"{url}\", bytes: {bytes}, sha256: {sha256}, unpack: {unpack}}}\n"
    )
}

const UNPACK: &str = "{strip: 1, at_most: 100000}";

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_set_is_fetched_unpacked_and_accepted_by_data_check() {
    let content = archive();
    let served = content.clone();
    let server = Server::start(move |asked| Reply::file(asked, &served));
    let url = format!("{}/a/set.tar.gz?download=1", server.url());
    let set = Set::new(&source(&url, &content, UNPACK));

    let (code, said) = set.fetch(&["--dry-run"]);
    assert_eq!(code, Some(0), "{said}");
    for part in ["terms: free", &url, &sha256(&content), "in 1 files, into"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!set.root().exists());

    let (code, said) = set.fetch(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("A set: 2 classes, 2 train, 2 validation and 2 test images"),
        "{said}"
    );
    set.holds_all();
    assert_eq!(names(&set.root()), [".fetch", "test", "train"]);
    assert_eq!(
        names(&set.root().join(".fetch")),
        [".lock", "set.tar.gz.done"]
    );

    // Nothing is fetched again, not even offline.
    let before = server.log().len();
    let (code, said) = set.fetch(&["--offline"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(server.log().len(), before);
}

#[test]
fn a_broken_connection_a_wrong_checksum_and_a_bomb_leave_nothing_in_place() {
    let content = archive();
    let (first, served) = (AtomicBool::new(true), content.clone());
    let server = Server::start(move |asked| {
        let reply = Reply::file(asked, &served);
        match first.swap(false, Ordering::Relaxed) {
            true => reply.cut(100),
            false => reply,
        }
    });
    let url = format!("{}/set.tar.gz", server.url());
    let set = Set::new(&source(&url, &content, UNPACK));
    let (code, said) = set.fetch(&[]);
    assert_eq!(code, Some(0), "{said}");
    let from: Vec<usize> = server.log().iter().map(Asked::from).collect();
    assert_eq!(from, [0, 100]);
    set.holds_all();

    let mut other = content.clone();
    other[50] ^= 1;
    let server = Server::start(move |asked| Reply::file(asked, &other));
    let url = format!("{}/set.tar.gz", server.url());
    let set = Set::new(&source(&url, &content, UNPACK));
    let (code, said) = set.fetch(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("expected sha256"), "{said}");
    assert_eq!(names(&set.root()), [".fetch"]);
    assert_eq!(names(&set.root().join(".fetch")), [".lock"]);

    let served = content.clone();
    let server = Server::start(move |asked| Reply::file(asked, &served));
    let url = format!("{}/set.tar.gz", server.url());
    let set = Set::new(&source(&url, &content, "{strip: 1, at_most: 100}"));
    let (code, said) = set.fetch(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("more than the 100 bytes"), "{said}");
    assert_eq!(names(&set.root()), [".fetch"]);
}

#[test]
fn what_is_got_by_hand_is_named_and_an_archive_that_lies_there_is_used() {
    let content = archive();
    let sources = source("https://example.org/set.tar.gz", &content, UNPACK)
        + "    by_hand:\n      - {file: list.json, how: ask the makers}\n";
    let set = Set::new(&sources);
    let work = set.root().join(".fetch");
    let place = work.join("set.tar.gz");
    let (code, said) = set.fetch(&["--offline"]);
    assert_eq!(code, Some(2), "{said}");
    let expected = format!("https://example.org/set.tar.gz as {}", place.display());
    for part in ["`--offline` forbids", &expected] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }

    std::fs::create_dir_all(&work).unwrap();
    std::fs::write(&place, b"another file").unwrap();
    let (code, said) = set.fetch(&["--offline"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("expected sha256"), "{said}");
    std::fs::write(&place, &content).unwrap();
    let (code, said) = set.fetch(&["--offline"]);
    assert_eq!(code, Some(2), "{said}");
    let list = set.root().join("list.json").display().to_string();
    assert!(said.contains(&format!("{list}: ask the makers")), "{said}");
    std::fs::write(list, "{}").unwrap();
    let (code, said) = set.fetch(&["--offline"]);
    assert_eq!(code, Some(0), "{said}");
    set.holds_all();
}

#[test]
fn files_of_a_hub_are_verified_by_what_it_states() {
    let content = b"hello".to_vec();
    // `printf hello | git hash-object --stdin`.
    let sha1 = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
    let (large, large_sum) = (vec![7; 1000], sha256(&[7; 1000]));
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/api/datasets/owner/set/tree/main/train" => {
            let list = format!(
                r#"[{{"type": "file", "path": "train/a-1.bin", "size": 5, "oid": "{sha1}"}},
                    {{"type": "file", "path": "train/a-2.bin", "size": 1000, "oid": "{sha1}",
                      "lfs": {{"oid": "{large_sum}", "size": 1000}}}},
                    {{"type": "file", "path": "train/b.bin", "size": 5, "oid": "{sha1}"}}]"#
            );
            Reply::file(asked, list.as_bytes())
        }
        "/datasets/owner/set/resolve/main/train/a-1.bin" => Reply::file(asked, &content),
        "/datasets/owner/set/resolve/main/train/a-2.bin" => Reply::file(asked, &large),
        _ => Reply::status(404),
    });
    let set = Set::new(
        "    hub:\n      - {repository: owner/set, folder: train, prefixes: [a-]}\n    by_hand:\n      \
         - {file: more, how: ask}\n",
    );
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command
            .args(["data", "fetch"])
            .arg(&set.yaml)
            .arg("--root")
            .arg(set.root());
        command
            .env("HF_ENDPOINT", server.url())
            .env("HF_HOME", set.folder.path());
        command.env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run();
    assert!(
        said.contains("in 2 files, into") && said.contains("more: ask"),
        "{said}"
    );
    assert_eq!(names(&set.root().join("train")), ["a-1.bin", "a-2.bin"]);
    assert_eq!(
        std::fs::read(set.root().join("train/a-2.bin")).unwrap(),
        [7; 1000]
    );
    let before = server.asked("GET", "/resolve/").len();
    assert!(!run().contains("in 2 files"));
    assert_eq!(server.asked("GET", "/resolve/").len(), before);
}

#[test]
fn sets_of_the_catalogue_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let fetch = |name: &str, more: &[&str]| {
        let mut runner = Command::new(env!("CARGO_BIN_EXE_runner"));
        runner.args(["data", "fetch", name]).args(more);
        let output = runner.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        said
    };
    let root = folder.path().join("root");
    let root = ["--root", root.to_str().unwrap()];
    let said = fetch("nabirds", &root);
    for part in [
        "by hand",
        "images",
        "asks for your name and for consent",
        "train.json",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    let offline = [&root[..], &["--offline"]].concat();
    assert!(fetch("cifar10", &offline).contains("cifar-10-binary.tar.gz as "));
    assert!(fetch("svhn", &offline).contains("hf://datasets/ufldl-stanford/svhn as "));
    assert!(fetch("vtab-1k/dmlab", &root).contains("get_vtab1k.py"));
    assert!(fetch("digits", &[]).contains("it needs no files"));
}
