//! Locks on files: one process works in a run folder, and one fills a file of the cache.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::exit::Failure;

/// The file that is locked while a process works in the folder.
pub const LOCK: &str = ".lock";

/// How long taking a lock is tried: a process that only checks it holds it for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes the lock of a folder; `None` if another process holds it.
///
/// # Errors
/// If the lock file cannot be made, or the file system does not support locks.
pub fn lock(folder: &Path) -> Result<Option<File>, Failure> {
    let start = Instant::now();
    let path = folder.join(LOCK);
    // The file is never removed. Otherwise one process could hold a lock on the removed file while
    // another makes a new file of the same name and locks that one.
    let file = File::create(&path).map_err(peft_core::Error::io(&path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(e)) => return Err(peft_core::Error::io(&path)(e).into()),
            // A network file system may answer late, and a process may be checking the lock just
            // now.
            Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => return Ok(None),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PATIENCE / 20),
        }
    }
}

/// Whether a process works in a folder.
pub fn is_locked(folder: &Path) -> bool {
    // A shared lock: several processes may check at the same time without taking each other for the
    // owner.
    let held = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    File::open(folder.join(LOCK)).is_ok_and(held)
}

/// Waits until a lock is free, and takes it.
///
/// # Errors
/// If a signal asks to stop meanwhile, or the file system does not support locks.
pub fn wait_for(lock: &File, path: &Path, interrupt: &AtomicBool) -> Result<(), Failure> {
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(peft_core::Error::io(path)(e).into()),
            Err(TryLockError::WouldBlock) if interrupt.load(Ordering::Relaxed) => {
                return Err(Failure::interrupted());
            }
            // A blocking call would not notice the interrupt: signals only set a flag here.
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
