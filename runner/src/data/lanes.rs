//! Threads that prepare items beside the computation, and the waiting for them.
//!
//! The computation runs on a worker of rayon's pool, and the threads hand their inner loops to the same
//! pool. So a worker that waits for an item must not sleep while jobs are queued: in a pool of one, nobody
//! else could run the very jobs that it waits for. Instead it runs queued jobs until the item is there.

use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use rayon::Yield;

/// Items that are prepared side by side: pool threads that run out of work on one go on with the other.
/// Each lane holds one finished item and one in the making, so that with the one in use at most
/// `2 * LANES + 1` are in memory.
const LANES: usize = 2;

/// How long a worker without anything to do waits before it looks again.
const NAP: Duration = Duration::from_micros(200);

/// Threads that prepare the items of a range, taken in order.
pub struct Lanes<'scope, T> {
    receivers: Vec<Receiver<T>>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    /// How many items were taken.
    taken: usize,
}

impl<'scope, T: Send + 'scope> Lanes<'scope, T> {
    /// Starts to prepare `item(index)` for every index of `range`.
    pub fn start<'env, F>(scope: &'scope Scope<'scope, 'env>, range: Range<usize>, item: F) -> Self
    where
        F: Fn(usize) -> T + Copy + Send + 'scope,
    {
        let (mut receivers, mut threads) = (Vec::new(), Vec::new());
        for lane in 0..LANES {
            let (sender, receiver) = sync_channel(1);
            let indices = range.clone().skip(lane).step_by(LANES);
            threads.push(scope.spawn(move || {
                for index in indices {
                    // The channel is closed once the consumer has stopped.
                    if sender.send(item(index)).is_err() {
                        break;
                    }
                }
            }));
            receivers.push(receiver);
        }
        Self {
            receivers,
            threads,
            taken: 0,
        }
    }
}

impl<T> Iterator for Lanes<'_, T> {
    type Item = T;

    /// The next item of the range; `None` at its end, or if the thread that should prepare it has panicked.
    fn next(&mut self) -> Option<T> {
        let item = wait_for(&self.receivers[self.taken % LANES]);
        self.taken += 1;
        item
    }
}

impl<T> Drop for Lanes<'_, T> {
    /// Stops the threads and waits for them. The scope would wait too, but without running the jobs that
    /// they need to end, which may be on this very worker.
    fn drop(&mut self) {
        self.receivers.clear();
        while !self.threads.iter().all(ScopedJoinHandle::is_finished) && help() {}
    }
}

/// Receives an item. A worker of rayon's pool runs queued jobs while it waits.
fn wait_for<T>(receiver: &Receiver<T>) -> Option<T> {
    loop {
        match receiver.try_recv() {
            Ok(item) => return Some(item),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        match rayon::yield_now() {
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => match receiver.recv_timeout(NAP) {
                Ok(item) => return Some(item),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            },
            // This thread is not a worker, and nobody needs it.
            None => return receiver.recv().ok(),
        }
    }
}

/// Runs one queued rayon job, or naps if there is none. Returns `false` if this thread is not a worker.
fn help() -> bool {
    match rayon::yield_now() {
        Some(Yield::Executed) => true,
        Some(Yield::Idle) => {
            std::thread::sleep(NAP);
            true
        }
        None => false,
    }
}
