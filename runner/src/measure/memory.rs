//! Peak memory: allocations are counted in the binary's allocator, because the resident size of a
//! process never falls again; on CUDA the device's pool is read.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::Device;
use mimalloc::MiMalloc;

/// mimalloc with a count of live bytes.
struct Counting(MiMalloc);

#[global_allocator]
static ALLOCATOR: Counting = Counting(MiMalloc);

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Live when the trial began.
static BEFORE: AtomicUsize = AtomicUsize::new(0);

fn grew(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call goes to mimalloc unchanged; only counters are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are mimalloc's.
        let pointer = unsafe { self.0.alloc(layout) };
        if !pointer.is_null() {
            grew(layout.size());
        }
        pointer
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let pointer = unsafe { self.0.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grew(layout.size());
        }
        pointer
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) };
        LIVE.fetch_sub(layout.size(), Relaxed);
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { self.0.realloc(pointer, layout, size) };
        if !moved.is_null() {
            LIVE.fetch_sub(layout.size(), Relaxed);
            grew(size);
        }
        moved
    }
}

/// Keeps freed pages: giving them back and faulting them in again was a fifth of a training step.
/// `MIMALLOC_PURGE_DELAY` in the environment overrides it.
pub fn keep_pages() {
    /// `mi_option_purge_delay` in mimalloc's `mi_option_t`, which the binding does not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets an option that mimalloc reads at the next purge; -1 means never.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

/// Starts a new peak from what is live now.
pub fn reset_peak() {
    PEAK.store(LIVE.load(Relaxed), Relaxed);
}

/// Starts the peak of one trial of many: what others left in the device's pool is given back.
pub fn start_trial(device: &Device) {
    device.memory_cleanup();
    reset_peak();
    BEFORE.store(LIVE.load(Relaxed), Relaxed);
}

/// Most bytes that a trial held at once since [`start_trial`], its model of `weights` bytes included,
/// whatever else was live when it began: other backbones, data sets, tables. On a device with a pool
/// it is the pool's.
pub fn own_peak(device: &Device, weights: usize) -> usize {
    let grown = || PEAK.load(Relaxed).saturating_sub(BEFORE.load(Relaxed));
    pool(device).map_or_else(|| grown() + weights, |(_, reserved)| reserved)
}

/// Bytes in use and bytes reserved of the device's pool, where it has one.
pub fn pool(device: &Device) -> Option<(usize, usize)> {
    let usage = device.memory_pool_usage()?;
    Some((usage.bytes_in_use as usize, usage.bytes_reserved as usize))
}

/// Bytes that are live now: of the process, or in the device's pool where it has one.
pub fn live(device: &Device) -> usize {
    pool(device).map_or_else(|| LIVE.load(Relaxed), |(in_use, _)| in_use)
}

/// Most bytes that were live at once since [`reset_peak`]: of the process, or of the device's pool
/// where it has one.
pub fn peak(device: &Device) -> usize {
    pool(device).map_or_else(|| PEAK.load(Relaxed), |(_, reserved)| reserved)
}
