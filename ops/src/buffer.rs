//! Buffers that are written once, by tasks at places that do not overlap.

use std::mem::MaybeUninit;

/// A value that is not written yet.
pub(crate) type Unset = MaybeUninit<f32>;

/// As many values as `fill` writes: clearing them first would be a pass over memory of its own.
///
/// # Safety
/// `fill` writes every value.
pub(crate) unsafe fn written(count: usize, fill: impl FnOnce(&mut [Unset])) -> Vec<f32> {
    let mut values = Box::new_uninit_slice(count);
    fill(&mut values);
    // SAFETY: the caller's promise.
    unsafe { values.assume_init() }.into_vec()
}

/// A buffer that tasks write to at places that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);
// SAFETY: a pointer is as good on one thread as on another; who writes through it says why nobody
// else does at that place.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    pub(crate) fn unset(values: &mut [Unset]) -> Self {
        Self(values.as_mut_ptr().cast())
    }

    /// The place `offset` values in.
    ///
    /// # Safety
    /// `offset` lies inside the buffer, or at its end.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }

    /// The buffer from `offset` on.
    ///
    /// # Safety
    /// As for [`at`](Self::at).
    pub(crate) unsafe fn from(self, offset: usize) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { self.0.add(offset) })
    }

    /// The `count` values from `offset` on, which were written.
    ///
    /// # Safety
    /// They lie inside the buffer, and nobody else uses them while they are borrowed.
    pub(crate) unsafe fn part<'a>(self, offset: usize, count: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), count) }
    }

    /// The `count` values from `offset` on, which need not be written yet.
    ///
    /// # Safety
    /// As for [`part`](Self::part).
    pub(crate) unsafe fn unset_part<'a>(self, offset: usize, count: usize) -> &'a mut [Unset] {
        // SAFETY: the caller's promise; any bits are a value that is not written yet.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset).cast(), count) }
    }
}

/// Work space of one thread that is used again.
#[derive(Default)]
pub(crate) struct Scratch(Vec<f32>);

/// Values on a line of the cache.
pub(crate) const LINE: usize = 16;

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// `count` values at the start of a line of the cache; what they are is what was left in them.
    pub(crate) fn take(&mut self, count: usize) -> &mut [f32] {
        if self.0.len() < count + LINE {
            self.0 = vec![0.0; count + LINE];
        }
        let start = self.0.as_ptr().align_offset(LINE * size_of::<f32>());
        // Where the address of a line is not known, any start will do.
        let start = start.min(LINE);
        &mut self.0[start..start + count]
    }
}
