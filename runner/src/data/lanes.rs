//! The threads that prepare batches beside the computation.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use rayon::Yield;

/// Batches that are prepared side by side: threads that are done with one go on with the other. With
/// those that are ready and the one that is used, at most `2 * LANES + 1` batches are in memory.
pub const LANES: usize = 2;

/// How long a worker that finds nothing to do waits.
const NAP: Duration = Duration::from_micros(200);

/// Does a piece of what other threads wait for, if this is a worker of rayon's pool.
pub fn help() -> bool {
    match rayon::yield_now() {
        Some(Yield::Executed) => true,
        Some(Yield::Idle) => {
            std::thread::sleep(NAP);
            true
        }
        None => false,
    }
}

/// The next batch of a lane; none if it ended. A worker of rayon's pool prepares images while it waits.
pub fn next<T>(lane: &Receiver<T>) -> Option<T> {
    loop {
        match lane.try_recv() {
            Ok(batch) => return Some(batch),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        match rayon::yield_now() {
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => match lane.recv_timeout(NAP) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            },
            // Not a worker.
            None => return lane.recv().ok(),
        }
    }
}
