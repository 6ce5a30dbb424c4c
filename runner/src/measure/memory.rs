//! Peak memory. The program's allocator counts allocations, because the resident size of a process
//! hardly ever falls again; on CUDA the pool of the device is read.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::Device;
use mimalloc::MiMalloc;

/// mimalloc, and a count of live bytes.
struct Counting(MiMalloc);

#[global_allocator]
static ALLOCATOR: Counting = Counting(MiMalloc);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The bytes that were live when the trial began.
static BEFORE: AtomicUsize = AtomicUsize::new(0);

fn grew(bytes: usize) {
    // Relaxed ordering is enough, because nothing else depends on the counters. What other threads
    // allocate between the two operations can be missing in the peak.
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call is passed on to mimalloc unchanged, so its guarantees hold; counting touches atomics
// only and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same as
        // mimalloc's.
        let pointer = unsafe { self.0.alloc(layout) };
        if !pointer.is_null() {
            grew(layout.size());
        }
        pointer
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`, which is the same
        // as mimalloc's.
        let pointer = unsafe { self.0.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grew(layout.size());
        }
        pointer
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller got `pointer` from this allocator with this layout, and so from mimalloc.
        unsafe { self.0.dealloc(pointer, layout) };
        LIVE.fetch_sub(layout.size(), Relaxed);
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller got `pointer` from this allocator with this layout, and so from
        // mimalloc, and promises that `size`, rounded up to the alignment, does not overflow.
        let moved = unsafe { self.0.realloc(pointer, layout, size) };
        if !moved.is_null() {
            LIVE.fetch_sub(layout.size(), Relaxed);
            grew(size);
        }
        moved
    }
}

/// Makes the allocator keep freed pages. Returning them to the system and faulting them in again
/// took a fifth of a training step. `MIMALLOC_PURGE_DELAY` in the environment overrides this.
pub fn keep_pages() {
    /// `mi_option_purge_delay` of mimalloc's `mi_option_t`, which the binding does not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: this only stores a number that mimalloc reads at the next purge; -1 means never.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

/// Starts a new peak at the bytes that are live now.
pub fn reset_peak() {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

/// Starts the peak of one trial among many. What other trials left in the pool of the device is
/// released first.
pub fn start_trial(device: &Device) {
    device.memory_cleanup();
    reset_peak();
    BEFORE.store(LIVE.load(Relaxed), Relaxed);
}

/// The most bytes that a trial held at once since [`start_trial`], including its model of `weights` bytes, but
/// without anything else that was live when it began: other backbones, data sets, tables. On a device with a
/// pool it is the size of the pool.
pub fn own_peak(device: &Device, weights: usize) -> usize {
    // The weights may be shared with other trials and were live before this one, so they are added
    // here instead of being counted.
    let grown = || PEAK.load(Relaxed).saturating_sub(BEFORE.load(Relaxed));
    pool(device).map_or_else(|| grown() + weights, |(_, reserved)| reserved)
}

/// The bytes in use and the bytes reserved in the device's pool, if it has one.
pub fn pool(device: &Device) -> Option<(usize, usize)> {
    let usage = device.memory_pool_usage()?;
    Some((usage.bytes_in_use as usize, usage.bytes_reserved as usize))
}

/// The bytes that are live now: in the device's pool if it has one, else in the process.
pub fn live(device: &Device) -> usize {
    pool(device).map_or_else(|| LIVE.load(Relaxed), |(in_use, _)| in_use)
}

/// The most bytes that were live at once since [`reset_peak`]: in the device's pool if it has one, else in the
/// process.
pub fn peak(device: &Device) -> usize {
    pool(device).map_or_else(|| PEAK.load(Relaxed), |(_, reserved)| reserved)
}
