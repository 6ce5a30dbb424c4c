//! Buffers that many tasks write, each at its own places, and work space that is used again.
//!
//! A result is allocated without being cleared, because that would be one more pass over memory. With
//! debug assertions it is filled with a mark first: a place that is handed out twice, or that no task
//! has written in the end, then fails an assertion.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;

use half::bf16;

/// A value that may not have been written yet.
pub(crate) type Unset<T = f32> = MaybeUninit<T>;

/// A type of values in buffers, any bits of which are a value.
pub(crate) trait Value: Copy + Send + Sync {
    /// A NaN that no kernel computes, for values that have not been written yet.
    const MARK: Self;

    /// Returns whether the value is the mark, to the bit.
    fn is_mark(self) -> bool;
}

impl Value for f32 {
    const MARK: Self = Self::from_bits(0x7fd3_a11e);

    fn is_mark(self) -> bool {
        self.to_bits() == Self::MARK.to_bits()
    }
}

impl Value for bf16 {
    const MARK: Self = Self::from_bits(0x7fd3);

    fn is_mark(self) -> bool {
        self.to_bits() == Self::MARK.to_bits()
    }
}

/// `count` values, all of them written by `fill`.
///
/// # Safety
/// `fill` writes every value of the slice that it is given.
pub(crate) unsafe fn written<T: Value>(count: usize, fill: impl FnOnce(&mut [Unset<T>])) -> Vec<T> {
    let mut values = Box::new_uninit_slice(count);
    if cfg!(debug_assertions) {
        values.fill(Unset::new(T::MARK));
    }
    fill(&mut values);
    // SAFETY: the caller vouches that `fill` has written every value.
    let values = unsafe { values.assume_init() }.into_vec();
    debug_assert!(
        !values.iter().any(|value| value.is_mark()),
        "a value was not written"
    );
    values
}

/// Values that a cache line begins with, so that no vector of them lies across two lines.
pub(crate) struct Aligned {
    lines: Box<[Line]>,
    count: usize,
}

#[repr(align(64))]
struct Line {
    _values: [Unset; LINE],
}

impl Aligned {
    /// `count` values, all of them written by `fill`.
    ///
    /// # Safety
    /// `fill` writes every value of the slice that it is given.
    pub(crate) unsafe fn written(count: usize, fill: impl FnOnce(&mut [Unset])) -> Self {
        let lines = Box::new_uninit_slice(count.div_ceil(LINE));
        // SAFETY: a line is made of values that may be unset.
        let mut lines: Box<[Line]> = unsafe { lines.assume_init() };
        // SAFETY: the lines have at least as many values, one after the other.
        fill(unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), count) });
        Self { lines, count }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `written` had its caller write all of these values.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.count) }
    }
}

/// Whether `written` handed out these values and nobody has written them since. Only for builds with
/// debug assertions, where there are marks.
fn are_marked<'a, T: Value + 'a>(mut values: impl Iterator<Item = &'a Unset<T>>) -> bool {
    // SAFETY: with debug assertions, `written` has filled the buffer with marks.
    values.all(|value| unsafe { value.assume_init() }.is_mark())
}

/// The same values for code that writes them without reading them.
///
/// # Safety
/// Nothing but initialised values is written to the slice.
pub(crate) unsafe fn as_unset<T: Value>(values: &mut [T]) -> &mut [Unset<T>] {
    let count = values.len();
    // SAFETY: both types have the same layout, and the borrow of `values` is passed on. The caller
    // keeps the values initialised.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), count) }
}

/// A borrowed buffer that several tasks write at once, at places that do not overlap.
///
/// It hands out places without checking who has them already, hence the unsafe functions. Bounds, and
/// places of a buffer of [`written`] that are handed out twice, are checked with debug assertions.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T = f32> {
    start: *mut T,
    count: usize,
    buffer: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` stands for a mutable borrow of values, which may move between threads. Safe code
// can do nothing with it but copy it; every unsafe function asks its caller for exclusive access.
unsafe impl<T: Value> Send for Shared<'_, T> {}
// SAFETY: copies on several threads hold the same address and length, which never change. Every unsafe
// function asks its caller for exclusive access to the places that it hands out.
unsafe impl<T: Value> Sync for Shared<'_, T> {}

impl<'a, T: Value> Shared<'a, T> {
    /// Values that are initialised.
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self {
            start: values.as_mut_ptr(),
            count: values.len(),
            buffer: PhantomData,
        }
    }

    /// Values that [`written`] or [`Aligned::written`] has allocated and that nobody has written yet.
    pub(crate) fn unset(values: &'a mut [Unset<T>]) -> Self {
        Self {
            start: values.as_mut_ptr().cast(),
            count: values.len(),
            buffer: PhantomData,
        }
    }

    /// Whether `count` values from `offset` on lie inside the buffer.
    fn holds(self, offset: usize, count: usize) -> bool {
        offset <= self.count && count <= self.count - offset
    }

    /// The address of the first of `count` values from `offset` on.
    ///
    /// # Safety
    /// These values lie inside the buffer. While the pointer is used, nobody else uses those of them
    /// that are read or written through it.
    pub(crate) unsafe fn at(self, offset: usize, count: usize) -> *mut T {
        debug_assert!(self.holds(offset, count));
        // SAFETY: the caller keeps `offset` inside the buffer, or at its end.
        unsafe { self.start.add(offset) }
    }

    /// The buffer from `offset` on.
    ///
    /// # Safety
    /// `offset` lies inside the buffer, or at its end.
    pub(crate) unsafe fn from(self, offset: usize) -> Self {
        debug_assert!(self.holds(offset, 0));
        Self {
            // SAFETY: the caller keeps `offset` inside the buffer, or at its end.
            start: unsafe { self.start.add(offset) },
            // With an offset beyond the end no value is left, rather than almost all of memory.
            count: self.count.saturating_sub(offset),
            ..self
        }
    }

    /// `count` initialised values from `offset` on.
    ///
    /// # Safety
    /// They lie inside the buffer and are initialised, and nobody else uses them while they are
    /// borrowed.
    pub(crate) unsafe fn part(self, offset: usize, count: usize) -> &'a mut [T] {
        debug_assert!(self.holds(offset, count));
        // SAFETY: the caller keeps the range inside the buffer, which is borrowed for `'a`, and to
        // itself.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), count) }
    }

    /// `count` values from `offset` on that have not been written yet.
    ///
    /// # Safety
    /// They lie inside the buffer, and nobody else uses them while they are borrowed.
    pub(crate) unsafe fn unset_part(self, offset: usize, count: usize) -> &'a mut [Unset<T>] {
        debug_assert!(self.holds(offset, count));
        // SAFETY: the caller keeps the range inside the buffer, which is borrowed for `'a`, and to
        // itself. Any bits are an `Unset`.
        let part = unsafe { std::slice::from_raw_parts_mut(self.start.add(offset).cast(), count) };
        debug_assert!(are_marked(part.iter()), "values are handed out twice");
        part
    }

    /// `count` values, `step` apart from `offset` on, that have not been written yet.
    ///
    /// # Safety
    /// They lie inside the buffer. Nobody else uses them, or what lies between two of them, while they
    /// are borrowed.
    pub(crate) unsafe fn unset_places(
        self,
        offset: usize,
        count: usize,
        step: usize,
    ) -> impl Iterator<Item = &'a mut Unset<T>> {
        let span = count.saturating_sub(1) * step + count.min(1);
        debug_assert!(self.holds(offset, span));
        // SAFETY: the caller keeps the range from the first to the last value inside the buffer, which
        // is borrowed for `'a`, and to itself. Any bits are an `Unset`.
        let part: &'a mut [Unset<T>] =
            unsafe { std::slice::from_raw_parts_mut(self.start.add(offset).cast(), span) };
        debug_assert!(
            are_marked(part.iter().step_by(step)),
            "values are handed out twice"
        );
        part.iter_mut().step_by(step)
    }
}

/// Work space of one thread that is used again.
#[derive(Default)]
pub(crate) struct Scratch(Vec<f32>);

/// Values in a line of the cache: 64 bytes.
pub(crate) const LINE: usize = 16;

impl Scratch {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// `count` values, the first of them at the start of a cache line. Their content is undefined.
    pub(crate) fn take(&mut self, count: usize) -> &mut [f32] {
        // A full line more than asked for leaves room to move the start to the next line, so that a
        // vector never lies across two lines.
        if self.0.len() < count + LINE {
            self.0 = vec![0.0; count + LINE];
        }
        let start = self.0.as_ptr().align_offset(LINE * size_of::<f32>());
        // `align_offset` may give up, with `usize::MAX`; any start is correct then.
        let start = start.min(LINE);
        let values = &mut self.0[start..start + count];
        if cfg!(debug_assertions) {
            // A kernel that reads what it has not written shows in the results.
            values.fill(f32::NAN);
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_they_should_be() {
        let mut values: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let shared = Shared::new(&mut values);
        // SAFETY: the two parts lie inside the buffer and do not overlap.
        let (first, last) = unsafe { (shared.part(0, 3), shared.from(4).part(1, 5)) };
        assert_eq!(
            (&first[..], &last[..]),
            (&[0.0, 1.0, 2.0][..], &[5.0, 6.0, 7.0, 8.0, 9.0][..])
        );
        // SAFETY: both closures write each value once.
        let y = unsafe {
            written(7, |y| {
                let y = Shared::unset(y);
                y.unset_places(0, 3, 2)
                    .for_each(|value| _ = value.write(1.0));
                y.unset_places(1, 2, 2)
                    .for_each(|value| _ = value.write(2.0));
                y.unset_part(5, 2).write_copy_of_slice(&[3.0, 4.0]);
                assert_eq!(y.unset_places(7, 0, 2).count(), 0);
            })
        };
        assert_eq!(y, [1.0, 2.0, 1.0, 2.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn scratch_starts_at_a_line_and_grows() {
        let mut scratch = Scratch::new();
        for count in [0, 5, 100, 7] {
            let values = scratch.take(count);
            assert_eq!(values.len(), count);
            assert!(
                values
                    .as_ptr()
                    .addr()
                    .is_multiple_of(LINE * size_of::<f32>())
            );
        }
    }

    #[cfg(debug_assertions)]
    mod checked {
        use std::panic::catch_unwind;

        use super::*;

        fn fails(f: impl FnOnce() + std::panic::UnwindSafe) -> bool {
            catch_unwind(f).is_err()
        }

        #[test]
        fn a_part_beyond_the_end_fails() {
            // SAFETY: the assertion fails before a place outside the buffer is used.
            unsafe {
                assert!(fails(|| _ = Shared::new(&mut [0.0; 4]).at(3, 2)));
                assert!(fails(|| _ = Shared::new(&mut [0.0; 4]).from(5)));
                assert!(fails(|| _ = Shared::new(&mut [0.0; 4]).part(2, 3)));
                assert!(fails(|| _ = Shared::new(&mut [0.0; 4]).from(2).part(1, 2)));
                assert!(fails(|| _ = Shared::new(&mut [0.0; 4]).part(usize::MAX, 2)));
            }
        }

        #[test]
        fn a_value_that_is_never_or_twice_handed_out_fails() {
            // SAFETY: the assertion fails before a value that was not written is read.
            unsafe {
                assert!(fails(|| {
                    written(2, |y| _ = y[0].write(1.0));
                }));
                assert!(fails(|| {
                    written(2, |y| {
                        let y = Shared::unset(y);
                        y.unset_part(0, 2).write_copy_of_slice(&[1.0; 2]);
                        y.unset_part(1, 1)[0].write(1.0);
                    });
                }));
                assert!(fails(|| {
                    written(3, |y| {
                        let y = Shared::unset(y);
                        y.unset_part(2, 1)[0].write(1.0);
                        y.unset_places(0, 2, 2)
                            .for_each(|value| _ = value.write(1.0));
                    });
                }));
            }
        }
    }
}
