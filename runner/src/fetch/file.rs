//! Fetches one file in as many pieces as the connection breaks it into, and verified.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use fs_err::{File, OpenOptions};

use super::client::{ATTEMPTS, Answer, Client, pause};
use super::digest::Digest;
use super::progress::Progress;
use crate::exit::{Exit, Failure, failure};

/// A file that is wanted, and what is known about it.
pub struct Wanted<'a> {
    /// Its address.
    pub url: &'a str,
    /// Its name in messages.
    pub name: &'a str,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Its checksum.
    pub digest: Option<&'a Digest>,
}

/// Fetches a file to `part`, a name that nothing takes for a whole file, and verifies it there. What
/// `part` already holds is not fetched again, where the server can continue.
///
/// # Errors
/// An answer that refuses, a connection that breaks again and again, a size or a checksum that
/// differs, a disk that is full. After a wrong checksum `part` is removed; after the others it stays,
/// for the next fetch to continue.
pub fn fetch(client: &Client, wanted: &Wanted, part: &Path) -> Result<(), Failure> {
    let had = part.metadata().map_or(0, |metadata| metadata.len());
    receive(client, wanted, part)?;
    let Err(message) = verify(wanted, part) else {
        return Ok(());
    };
    fs_err::remove_file(part)?;
    if had == 0 {
        return Err(failure(Exit::Unexpected, message));
    }
    // What an earlier process had left may be from another version of the file.
    eprintln!("{message}; fetching all of it again");
    receive(client, wanted, part)?;
    verify(wanted, part).map_err(|message| {
        // Nothing is lost if it stays: the next fetch finds the same.
        let _ = fs_err::remove_file(part);
        failure(Exit::Unexpected, message)
    })
}

/// Compares the checksum of a received file with the expected one.
fn verify(wanted: &Wanted, part: &Path) -> Result<(), String> {
    let Some(digest) = wanted.digest else {
        return Ok(());
    };
    let found = digest.of_file(part).map_err(|e| e.to_string())?;
    match found == *digest {
        true => Ok(()),
        false => Err(format!(
            "{} from {}: expected {digest}, got {found}",
            wanted.name, wanted.url
        )),
    }
}

/// The outcome of copying a body.
enum End {
    /// The file has its whole length.
    Whole,
    /// The connection broke, for this reason.
    Cut(String),
}

/// Receives all bytes of a file, in several requests if the connection breaks.
fn receive(client: &Client, wanted: &Wanted, part: &Path) -> Result<(), Failure> {
    let Wanted { url, name, .. } = wanted;
    let mut file = OpenOptions::new().create(true).append(true).open(part)?;
    let mut have = file.metadata()?.len();
    let progress = Progress::new(name, wanted.size);
    let mut fruitless = 0;
    loop {
        if wanted.size.is_some_and(|size| have > size) {
            file.set_len(0)?;
            have = 0;
        }
        if wanted.size == Some(have) {
            break;
        }
        if have > 0 && fruitless == 0 {
            let kept = super::progress::bytes(have);
            progress.line(&format!("{name}: continuing after {kept}"));
        }
        let answer = client.get(url, have);
        let answer = answer.map_err(|e| unavailable(name, &e.url, &e.message))?;
        let began = have;
        let end = match answer.status {
            // The server sends the rest, or else all of it.
            206 if starts_at(&answer) == Some(have) => {
                copy(answer, wanted, &mut file, &mut have, &progress)?
            }
            200 => {
                if have > 0 {
                    file.set_len(0)?;
                    have = 0;
                }
                copy(answer, wanted, &mut file, &mut have, &progress)?
            }
            206 | 416 => {
                file.set_len(0)?;
                have = 0;
                End::Cut(format!(
                    "HTTP {}, another range than was asked for",
                    answer.status
                ))
            }
            status => return Err(unavailable(name, &answer.url, &refusal(status))),
        };
        let reason = match end {
            End::Whole => break,
            End::Cut(reason) => reason,
        };
        fruitless = if have > began { 1 } else { fruitless + 1 };
        if fruitless >= ATTEMPTS {
            let message = format!("{reason}, {ATTEMPTS} times");
            return Err(unavailable(name, url, &message));
        }
        let wait: Duration = pause(fruitless);
        progress.line(&format!("{name}: {reason}; continuing in {wait:?}"));
        std::thread::sleep(wait);
    }
    file.sync_all()?;
    Ok(())
}

/// Appends a body to the file.
fn copy(
    answer: Answer,
    wanted: &Wanted,
    file: &mut File,
    have: &mut u64,
    progress: &Progress,
) -> Result<End, Failure> {
    let name = wanted.name;
    let length = answer.header("Content-Length");
    let length: Option<u64> = length.and_then(|length| length.parse().ok());
    let promised = length.map(|length| *have + length);
    if let (Some(size), Some(promised)) = (wanted.size, promised)
        && size != promised
    {
        let message = format!("expected {size} bytes, the server has {promised}");
        return Err(unavailable(name, &answer.url, &message));
    }
    let whole = wanted.size.or(promised);
    if let Some(whole) = whole {
        progress.of(whole);
    }
    let url = answer.url.clone();
    let mut body = answer.body();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) => return Ok(End::Cut(format!("the connection broke: {e}"))),
        };
        if whole.is_some_and(|whole| *have + count as u64 > whole) {
            let message = format!("expected {} bytes, got more", whole.unwrap_or_default());
            return Err(unavailable(name, &url, &message));
        }
        file.write_all(&buffer[..count])?;
        *have += count as u64;
        progress.at(*have);
    }
    match whole {
        Some(whole) if *have < whole => Ok(End::Cut(format!(
            "the connection broke after {have} of {whole} bytes"
        ))),
        _ => Ok(End::Whole),
    }
}

/// The byte at which the range of an answer starts: `Content-Range: bytes 5-9/10`.
fn starts_at(answer: &Answer) -> Option<u64> {
    let range = answer.header("Content-Range")?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// The meaning of a status that refuses.
pub fn refusal(status: u16) -> String {
    let meaning = match status {
        401 => ": it wants a token",
        403 => ": access is not granted",
        404 => ": there is no such file",
        _ => "",
    };
    format!("HTTP {status}{meaning}")
}

/// The failure of a file that cannot be had now; another try may succeed.
pub fn unavailable(name: &str, url: &str, message: &str) -> Failure {
    failure(
        Exit::Unexpected,
        format_args!("{name} from {url}: {message}"),
    )
}
