//! Fetches that end early: the connection breaks, the disk is full, the process is killed. Nothing of
//! them is taken for whole, and the next fetch continues.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Hub, SHA256, said, weights};
use crate::server::{Asked, Reply};

#[test]
fn a_connection_that_breaks_is_continued_where_it_broke() {
    let cuts = AtomicUsize::new(0);
    let content = weights();
    let half = content.len() / 2;
    let hub = Hub::start(
        Box::new(|_| None),
        Box::new(move |asked| {
            let cut = cuts.fetch_add(1, Ordering::Relaxed);
            (cut < 2).then(|| Reply::file(asked, &content).cut(half / 2))
        }),
    );
    let message = hub.succeeds();
    assert!(message.contains("the connection broke"), "{message}");
    let ranges: Vec<usize> = hub.store.log().iter().map(Asked::from).collect();
    assert_eq!(ranges, [0, half / 2, half / 2 * 2]);
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let cuts = AtomicUsize::new(0);
    let content = weights();
    let hub = Hub::start(
        Box::new(|_| None),
        Box::new(move |_| {
            let mut reply = Reply::status(200);
            reply.body = content.clone();
            let cut = cuts.fetch_add(1, Ordering::Relaxed);
            Some(if cut == 0 { reply.cut(1000) } else { reply })
        }),
    );
    hub.succeeds();
    let ranges: Vec<usize> = hub.store.log().iter().map(Asked::from).collect();
    assert_eq!(ranges, [0, 1000]);
}

#[test]
fn what_an_earlier_fetch_left_is_continued_or_replaced() {
    for (left, from) in [
        (weights()[..5000].to_vec(), vec![5000]),
        (vec![7; 5000], vec![5000, 0]),
    ] {
        let hub = Hub::plain();
        let blobs = hub.folder().join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{SHA256}.incomplete")), left).unwrap();
        hub.succeeds();
        let ranges: Vec<usize> = hub.store.log().iter().map(Asked::from).collect();
        assert_eq!(ranges, from);
    }
}

/// A device that is always full stands for a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_leaves_nothing_that_is_taken_for_whole() {
    let hub = Hub::plain();
    let blobs = hub.folder().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!("{SHA256}.incomplete"));
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    hub.fails(&["No space left on device", "incomplete"]);
    std::fs::remove_file(part).unwrap();
    hub.succeeds();
}

/// The limit of the size of a file stops the process by a signal, as a batch system would.
#[cfg(target_os = "linux")]
#[test]
fn a_limit_of_the_size_of_files_leaves_nothing_that_is_taken_for_whole() {
    let hub = Hub::plain();
    let program = env!("CARGO_BIN_EXE_runner");
    // In units of 512 or 1024 bytes; the weights are larger than either.
    let script = format!("ulimit -f 100; exec '{program}' inspect hf://timm/vit");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .env("HF_HOME", hub.home.path());
    command
        .env("HF_ENDPOINT", hub.server.url())
        .env_remove("HF_HUB_CACHE");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(!hub.folder().join("snapshots").exists());
    hub.succeeds();
    let ranges: Vec<usize> = hub.store.log().iter().map(Asked::from).collect();
    assert!(ranges.len() == 2 && ranges[1] > 0, "{ranges:?}");
}

/// Starts a fetch of a file that comes slowly, and waits until a part of it is there.
fn begun(hub: &Hub) -> Child {
    let child = hub.command("hf://timm/vit").spawn().unwrap();
    let part = hub.folder().join(format!("blobs/{SHA256}.incomplete"));
    let start = Instant::now();
    while part.metadata().map_or(0, |part| part.len()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing arrives");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// A hub whose first answer has the first half of the weights and then breaks, so that the client
/// pauses in the middle of the file.
fn slow() -> Hub {
    let asked = AtomicUsize::new(0);
    let content = weights();
    Hub::start(
        Box::new(|_| None),
        Box::new(move |request| {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            first.then(|| Reply::file(request, &content).cut(content.len() / 2))
        }),
    )
}

#[test]
fn a_fetch_that_is_killed_is_not_taken_for_whole_and_continues() {
    let hub = slow();
    let mut child = begun(&hub);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!hub.folder().join("snapshots").exists());
    assert!(!hub.folder().join("blobs").join(SHA256).exists());
    let message = hub.succeeds();
    assert!(message.contains("continuing after"), "{message}");
    let ranges: Vec<usize> = hub.store.log().iter().map(Asked::from).collect();
    assert!(ranges.len() == 2 && ranges[1] > 0, "{ranges:?}");
}

#[test]
fn of_two_processes_one_fetches_and_the_other_waits() {
    let hub = slow();
    let first = begun(&hub);
    let second = hub.fetch();
    let first = first.wait_with_output().unwrap();
    for output in [&first, &second] {
        assert!(output.status.success(), "{}", said(output));
    }
    assert!(
        said(&second).contains("waiting for another process"),
        "{}",
        said(&second)
    );
    // Two requests of the first process; the second asked for the headers alone.
    assert_eq!(hub.store.asked("GET", "/blob").len(), 2);
    hub.succeeds();
}
